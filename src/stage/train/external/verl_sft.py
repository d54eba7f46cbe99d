"""Trains a policy with verl as a train stage of mindgap asks: `python verl_sft.py WORK`, on all GPUs that it sees.

What the work folder holds, and what is left in it: docs/trainers.md. Started by mindgap; `torchrun ..` may stand in place of Python.
"""

import importlib.util
import math
import os
import sys

if "RANK" not in os.environ:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "gpu"]
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])

import losses
import pyarrow.parquet as parquet
import recipe as recipes
import torch
import torch.distributed as distributed
import trained
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from step_sums import append, source_number, summary, sums_of
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.utils.rnn import pad_sequence
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import tensordict_utils
from verl.utils.device import get_device_name
from verl.utils.distributed import destroy_global_process_group, initialize_global_process_group
from verl.utils.fsdp_utils import get_fsdp_full_state_dict

# What a loss reads of every row beside what verl itself does.
OURS = ["labels", "factor", "source", "logprob_behavior", "logprob_reference"]


class Rows(torch.utils.data.Dataset):
    """Rows of a work folder, for verl's collator."""

    def __init__(self, path):
        self.table = parquet.read_table(path)

    def __len__(self):
        return self.table.num_rows

    def lengths(self):
        return [len(ids) for ids in self.table["input_ids"]]

    def __getitem__(self, index):
        row = self.table.slice(index, 1).to_pylist()[0]
        ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        return {
            "input_ids": ids,
            "position_ids": torch.arange(len(ids)),
            "loss_mask": (labels != -100).long(),
            "labels": labels,
            "factor": torch.tensor([row["factor"]], dtype=torch.float32),
            "source": torch.tensor([source_number(row["source"])]),
            "logprob_behavior": torch.tensor(row["logprob_behavior"], dtype=torch.float32),
            "logprob_reference": torch.tensor(row["logprob_reference"], dtype=torch.float32),
        }

    def share(self, rank, size, batch):
        """Every `size`-th row from `rank` on, `batch` at a time. Where a share lacks rows there is one without targets."""
        whole = math.ceil(len(self) / size)
        mine = [self[i] for i in range(rank, len(self), size)]
        filler = self[0]
        filler |= {"labels": torch.full_like(filler["labels"], -100), "loss_mask": torch.zeros_like(filler["loss_mask"])}
        mine += [filler] * (whole - len(mine))
        return [mine[i : i + batch] for i in range(0, whole, batch)]


class Trainer(SFTTrainer):
    """verl's trainer with mindgap's rows, losses, optimizer groups and learning rates."""

    def __init__(self, recipe, config):
        self.recipe = recipe
        self.sums = None
        super().__init__(config)

    def _build_dataset(self):
        self.train_dataset, self.val_dataset = Rows(self.recipe["work"] / "train.parquet"), None
        held_out = self.recipe["eval_steps"] is not None
        self.held_out = Rows(self.recipe["work"] / "eval.parquet") if held_out else None

    def _build_dataloader(self):
        super()._build_dataloader()
        # A step's rows are its own: every process takes its share of them, in the order in which they are.
        self.train_sampler.shuffle = False

    def _build_engine(self):
        super()._build_engine()
        self.training_client.set_loss_fn(self.loss)
        self.train_batch, self.training_client.train_batch = self.training_client.train_batch, self.step
        self.engine._build_optimizer = lambda module: recipes.optimizer(module.parameters(), self.recipe)
        self.engine._build_lr_scheduler = lambda optimizer: recipes.scheduler(optimizer, self.recipe)

    def steps_done(self):
        return self.engine.lr_scheduler.last_epoch

    def loss(self, model_output, data, dp_group=None):
        """verl averages gradients over the processes, and each has its own rows of the step."""
        given = {name: padded(data[name], -100 if name == "labels" else 0) for name in OURS}
        logprob = padded(model_output["log_probs"]).float()
        facts = losses.target_facts(logprob, given["labels"])
        if "entropy" in model_output:
            facts["entropy"] = padded(model_output["entropy"]).detach().float()
        weights = losses.weights(
            self.recipe["loss"],
            facts,
            self.steps_done(),
            self.recipe["eos_token_ids"],
            behavior=given["logprob_behavior"],
            reference=given["logprob_reference"],
        )
        value = -(given["factor"] * weights * facts["logprob"])[facts["is_target"]].sum()
        sums = sums_of(value.detach(), facts, weights, given["source"][:, 0], self.recipe["eos_token_ids"])
        self.sums = sums if self.sums is None else self.sums + sums
        return value * self.engine.get_data_parallel_size(), {}

    def step(self, data):
        """One step of verl's, told of; the held-out rows before the first, on the way and after the last."""
        step, every = self.steps_done(), self.recipe["eval_steps"]
        if step == 0:
            self.evaluate(0)
        tensordict_utils.assign_non_tensor(data, calculate_entropy=self.recipe["loss"]["name"] == "idft")
        output = self.train_batch(data=data)
        metrics = tensordict_utils.get(output, "metrics")
        norm, clip = metrics["grad_norm"], self.recipe["clip_norm"]
        if not math.isfinite(norm):
            raise SystemExit(f"the gradient of step {step} is not finite")
        line = {"step": step, **self.taken(), "learning_rate": self.recipe["learning_rates"][step]}
        line |= {"grad_norm": norm, "clipped": 0 < clip < norm}
        self.tell("steps.jsonl", line)
        if step + 1 == self.recipe["steps"] or (every and (step + 1) % every == 0):
            self.evaluate(step + 1)
        return output

    def evaluate(self, step):
        if self.held_out is None:
            return
        said = self.sums
        self.sums = None
        for rows in self.held_out.share(self.rank, distributed.get_world_size(), self.train_batch_size_per_dp):
            data = tensordict_utils.get_tensordict(tensor_dict=self.collate_fn(rows), non_tensor_dict=self.said_of_batches())
            tensordict_utils.assign_non_tensor(data, calculate_entropy=self.recipe["loss"]["name"] == "idft")
            self.training_client.infer_batch(data)
        self.tell("evals.jsonl", {"step": step, **self.taken()})
        self.sums = said

    def said_of_batches(self):
        """What verl wants to be told of a batch beside its rows."""
        data = self.config.data
        return {
            "use_remove_padding": self.config.model.use_remove_padding,
            "use_dynamic_bsz": True,
            "max_token_len_per_gpu": data.max_token_len_per_gpu,
            "temperature": 1.0,
            "global_batch_size": self.global_batch_size,
            "pad_mode": data.pad_mode,
            "pad_token_id": self.model_config.tokenizer.pad_token_id or 0,
        }

    def taken(self):
        """What the sums of all processes say; they begin anew."""
        sums = self.sums.to(get_device_name())
        distributed.all_reduce(sums)
        self.sums = None
        return summary(sums.tolist())

    def tell(self, name, line):
        if self.rank == 0:
            append(self.recipe["work"] / name, line)

    def leave_policy(self):
        state = get_fsdp_full_state_dict(self.engine.module, offload_to_cpu=True, rank0_only=True)
        if self.rank == 0:
            trained.leave(self.recipe, state)
        distributed.barrier()


def padded(rows, value=0.0):
    return pad_sequence(list(rows.unbind()), batch_first=True, padding_value=value)


def config_of(recipe, processes):
    """verl's configuration; what it does not hold is the trainer's above."""
    work, lora, clip = recipe["work"], recipe["lora"], recipe["clip_norm"]
    if recipe["batch_size"] % processes:
        raise SystemExit(f"a step of {recipe['batch_size']} rows cannot be shared by {processes} processes")
    longest = max(Rows(work / "train.parquet").lengths())
    packed = importlib.util.find_spec("flash_attn") is not None
    products = "fp32" if recipe["dtype"] == "f32" else "bf16"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine")
    # Some keys are in no file of its own.
    OmegaConf.set_struct(config, False)
    config.merge_with({
        "data": {
            "train_batch_size": recipe["batch_size"],
            "max_token_len_per_gpu": max(recipe["micro_batch_tokens"], longest),
            "num_workers": 0,
        },
        "model": {
            "path": str(work / "policy"),
            "use_remove_padding": packed,
            "enable_gradient_checkpointing": recipe["gradient_checkpointing"],
            "override_config": {} if packed else {"attn_implementation": "sdpa"},
            "lora_rank": 0 if lora is None else lora["rank"],
            "lora_alpha": 0 if lora is None else lora["alpha"],
            "target_modules": "all-linear" if lora is None else list(lora["targets"]),
        },
        "engine": {
            # Matrices and vectors are told apart by their dimensions, which the first version flattens.
            "strategy": "fsdp2",
            "model_dtype": "bf16" if recipe["dtype"] == "pure_bf16" else "fp32",
            "mixed_precision": {"param_dtype": products, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
            "seed": recipe["seed"],
            "use_torch_compile": False,
        },
        "optim": {"clip_grad": clip if clip > 0 else math.inf},
        "trainer": {
            "default_local_dir": str(work / "checkpoints"),
            "total_epochs": 1,
            "total_training_steps": recipe["steps"],
            "save_freq": recipe["checkpoint_steps"],
            "max_ckpt_to_keep": 2,
            "seed": recipe["seed"],
            "logger": ["console"],
            "device": get_device_name(),
        },
    })
    return config


# An error is told at the end of the log, with where it came from.
@record
def main():
    recipe = recipes.read(sys.argv[1])
    if not distributed.is_initialized():
        initialize_global_process_group()
    trainer = Trainer(recipe, config_of(recipe, distributed.get_world_size()))
    trainer.fit()
    trainer.leave_policy()
    destroy_global_process_group()


if __name__ == "__main__":
    main()
