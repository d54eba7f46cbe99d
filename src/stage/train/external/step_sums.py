"""What is told of a step, or of held-out rows: sums over its targets, and the line that mindgap reads (docs/trainers.md)."""

import json

import torch

SOURCES = ["self", "guided", "expert", "teacher"]
LOW_WEIGHT = 0.05
# In the order in which they are kept; behind them the number of targets of each source, and their negative log-probs.
SUMS = ["loss", "tokens", "nll", "weight", "weight_square", "low", "eos", "eos_probability"]


def source_number(name):
    return SOURCES.index(name) if name in SOURCES else -1


@torch.no_grad()
def sums_of(value, facts, weights, source, eos_token_ids):
    """The sums of a micro-batch, whose loss is `value`: `source` `[B]` is each row's, the others are of `[B, T]`."""
    targets = facts["is_target"]
    weights, nll = weights[targets].double(), -facts["logprob"][targets].double()
    is_eos = torch.isin(facts["targets"][targets], torch.tensor(eos_token_ids, device=nll.device))
    source = source[:, None].expand_as(targets)[targets]
    own = [value.double(), nll.numel(), nll.sum(), weights.sum(), (weights**2).sum(), (weights < LOW_WEIGHT).sum()]
    own += [is_eos.sum(), (-nll[is_eos]).exp().sum()]
    for number in range(len(SOURCES)):
        own += [(source == number).sum(), nll[source == number].sum()]
    return torch.stack([torch.as_tensor(x, dtype=torch.float64, device=nll.device) for x in own])


def summary(sums):
    """What the sums of a step, or of the held-out rows, say."""
    own = dict(zip(SUMS, sums))
    n = max(own["tokens"], 1.0)
    mean = own["weight"] / n
    line = {
        "loss": own["loss"],
        "nll": own["nll"] / n,
        "token_count": int(own["tokens"]),
        "weight_mean": mean,
        "weight_var": max(own["weight_square"] / n - mean**2, 0.0),
        "ess": own["weight"] ** 2 / own["weight_square"] if own["weight_square"] > 0 else 0.0,
        "low_weight_share": own["low"] / n,
    }
    if own["eos"] > 0:
        line["eos_probability"] = own["eos_probability"] / own["eos"]
    for number, name in enumerate(SOURCES):
        count, nll = sums[len(SUMS) + 2 * number :][:2]
        if count > 0:
            line[f"nll_{name}"] = nll / count
    return line


def append(path, line):
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
