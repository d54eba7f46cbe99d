"""Trains a policy with TRL as a train stage of mindgap asks: `python trl_sft.py WORK`.

What the work folder holds, and what is left in it: docs/trainers.md. Started by mindgap; `accelerate launch` may stand in front.
"""

import sys

import losses
import pyarrow.parquet as parquet
import recipe as recipes
import torch
import trained
from datasets import Dataset
from step_sums import append, source_number, summary, sums_of
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Collator:
    """Rows of a micro-batch side by side, padded on the right."""

    def __call__(self, rows):
        longest = max(len(row["input_ids"]) for row in rows)

        def column(name, padding, dtype):
            return torch.tensor([row[name] + [padding] * (longest - len(row[name])) for row in rows], dtype=dtype)

        batch = {
            "input_ids": column("input_ids", 0, torch.long),
            "labels": column("labels", -100, torch.long),
            "attention_mask": torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows]),
            "factor": torch.tensor([row["factor"] for row in rows], dtype=torch.float32),
            "source": torch.tensor([source_number(row["source"]) for row in rows]),
        }
        for name in ("logprob_behavior", "logprob_reference"):
            batch[name] = column(name, 0.0, torch.float32)
        return batch


class Trainer(SFTTrainer):
    """TRL's trainer with mindgap's loss, optimizer groups and learning rates."""

    def __init__(self, recipe, *args, **kwargs):
        self.recipe = recipe
        self.sums = None
        super().__init__(*args, **kwargs)
        # The rows' factors hold what a step is divided by.
        self.model_accepts_loss_kwargs = True

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = recipes.optimizer(self.model.parameters(), self.recipe)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        self.lr_scheduler = recipes.scheduler(optimizer or self.optimizer, self.recipe)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = self.recipe["loss"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        facts = losses.token_facts(outputs.logits, inputs["labels"], loss.get("k"))
        weights = losses.weights(
            loss,
            facts,
            self.state.global_step,
            self.recipe["eos_token_ids"],
            behavior=inputs["logprob_behavior"],
            reference=inputs["logprob_reference"],
        )
        value = -(inputs["factor"][:, None] * weights * facts["logprob"])[facts["is_target"]].sum()
        self.note(value, facts, weights, inputs)
        # Gradients are averaged over the processes, and each has its own rows of the step.
        value = value * self.accelerator.num_processes
        return (value, outputs) if return_outputs else value

    @torch.no_grad()
    def evaluate_held_out(self):
        """Tells how the held-out rows fare. Every process goes through all of them."""
        training, kept = self.model.training, self.sums
        self.model.eval()
        self.sums = None
        size = self.args.per_device_train_batch_size
        for start in range(0, len(self.held_out), size):
            rows = [self.held_out[i] for i in range(start, min(start + size, len(self.held_out)))]
            inputs = {name: column.to(self.args.device) for name, column in Collator()(rows).items()}
            self.compute_loss(self.model_wrapped, inputs)
        line = {"step": self.state.global_step, **summary(self.sums.tolist())}
        self.sums = kept
        self.model.train(training)
        if self.accelerator.is_main_process:
            append(self.recipe["work"] / "evals.jsonl", line)

    def note(self, value, facts, weights, inputs):
        sums = sums_of(value, facts, weights, inputs["source"], self.recipe["eos_token_ids"])
        self.sums = sums if self.sums is None else self.sums + sums

    def log(self, logs, *args, **kwargs):
        super().log(logs, *args, **kwargs)
        if "loss" not in logs or self.sums is None:
            return
        sums = self.accelerator.reduce(self.sums, reduction="sum").tolist()
        self.sums = None
        step, clip = self.state.global_step - 1, self.recipe["clip_norm"]
        line = {"step": step, **summary(sums), "learning_rate": self.recipe["learning_rates"][step]}
        if "grad_norm" in logs:
            # Of a training that does not clip it is not computed.
            line |= {"grad_norm": float(logs["grad_norm"]), "clipped": 0 < clip < float(logs["grad_norm"])}
        if self.accelerator.is_main_process:
            append(self.recipe["work"] / "steps.jsonl", line)


class Watch(TrainerCallback):
    """Evaluates on the way, and ends a training that has become senseless."""

    def __init__(self, eval_steps):
        self.eval_steps = eval_steps
        self.trainer = None

    def on_train_begin(self, args, state, control, **kwargs):
        if self.eval_steps is not None and state.global_step == 0:
            self.trainer.evaluate_held_out()

    def on_step_end(self, args, state, control, **kwargs):
        if self.eval_steps is None:
            return
        step = state.global_step
        if step == state.max_steps or (self.eval_steps > 0 and step % self.eval_steps == 0):
            self.trainer.evaluate_held_out()

    def on_log(self, args, state, control, logs=None, **kwargs):
        norm = (logs or {}).get("grad_norm")
        if norm is not None and not torch.isfinite(torch.tensor(float(norm))):
            raise SystemExit(f"the gradient of step {state.global_step - 1} is not finite")


def rows_per_device(recipe, longest, processes):
    """The largest number that divides a step's rows and keeps a micro-batch small enough."""
    rows, rest = divmod(recipe["batch_size"], processes)
    if rest:
        raise SystemExit(f"a step of {recipe['batch_size']} rows cannot be shared by {processes} processes")
    fits = max(recipe["micro_batch_tokens"] // longest, 1)
    return max(count for count in range(1, rows + 1) if rows % count == 0 and (count <= fits or count == 1))


def last_checkpoint(folder):
    """The last one that was written to its end: its state comes last."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


# An error is told at the end of the log, with where it came from.
@record
def main():
    recipe = recipes.read(sys.argv[1])
    work = recipe["work"]
    rows = Dataset(parquet.read_table(work / "train.parquet"))
    dtype = torch.bfloat16 if recipe["dtype"] == "pure_bf16" else torch.float32
    model = trained.with_adapters(AutoModelForCausalLM.from_pretrained(work / "policy", dtype=dtype), recipe)
    longest = max(len(ids) for ids in rows["input_ids"])
    arguments = dict(
        output_dir=str(work / "checkpoints"),
        max_steps=recipe["steps"],
        learning_rate=1.0,
        max_grad_norm=recipe["clip_norm"],
        logging_steps=1,
        save_strategy="steps",
        save_steps=recipe["checkpoint_steps"],
        save_total_limit=2,
        seed=recipe["seed"],
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        bf16=recipe["dtype"] == "bf16",
        fp16=False,
        gradient_checkpointing=recipe["gradient_checkpointing"],
        packing=False,
        max_length=None,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        disable_tqdm=True,
        # A step's last rows are its own, and no step lacks any.
        dataloader_drop_last=False,
    )
    processes = SFTConfig(**arguments).world_size
    arguments["per_device_train_batch_size"] = rows_per_device(recipe, longest, processes)
    arguments["gradient_accumulation_steps"] = recipe["batch_size"] // (arguments["per_device_train_batch_size"] * processes)
    watch = Watch(recipe["eval_steps"])
    trainer = Trainer(
        recipe,
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(work / "policy"),
        data_collator=Collator(),
        callbacks=[watch],
    )
    watch.trainer = trainer
    if recipe["eval_steps"] is not None:
        trainer.held_out = Dataset(parquet.read_table(work / "eval.parquet"))
    trainer.train(resume_from_checkpoint=last_checkpoint(work / "checkpoints"))
    state = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.accelerator.is_main_process:
        trained.leave(recipe, state)
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
