"""What the recipe of a training says (docs/trainers.md), as PyTorch has it."""

import json
import pathlib

import torch
from torch.optim.lr_scheduler import LambdaLR


def read(work):
    recipe = json.loads((pathlib.Path(work) / "recipe.json").read_text())
    return recipe | {"work": pathlib.Path(work)}


def optimizer(parameters, recipe):
    """AdamW, where matrices decay and vectors do not. The rate is the scheduler's."""
    own, adamw = [p for p in parameters if p.requires_grad], recipe["optimizer"]
    groups = [
        {"params": [p for p in own if p.dim() > 1], "weight_decay": adamw["weight_decay"]},
        {"params": [p for p in own if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1.0, betas=(adamw["beta1"], adamw["beta2"]), eps=adamw["epsilon"])


def scheduler(optimizer, recipe):
    """The rate of every step."""
    rates = recipe["learning_rates"]
    return LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
