"""Loads every export with `datasets`, and takes two steps of TRL's SFTTrainer(loss_type="dft") beside our trainer's.

    mindgap run pipelines/smoke.toml
    python tests/peers/exports.py [--mindgap target/release/mindgap] [--store data/store]

Needs: pip install trl datasets. The binary and the smoke pipeline's tables must be there. Prints what it found; ends with
an assertion error where an export is not what its trainer expects. `onpolicy.py` has the trainers read prompts and soft targets.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from datasets import load_dataset

ORIGIN = ["problem_id", "choice_index", "source"]
COLUMNS = {
    "trl": ["prompt", "completion"] + ORIGIN,
    "verl": ["messages", "data_source", "extra_info"],
    "verl-paper": ["data_source", "prompt", "ability", "reward_model", "extra_info"],
    "llamafactory": ["instruction", "input", "output"] + ORIGIN,
    "axolotl": ["messages"] + ORIGIN,
    "swift": ["messages"] + ORIGIN,
    "openrlhf": ["input", "output"] + ORIGIN,
    "pretokenized": ["input_ids", "attention_mask", "labels"],
    "preference": ["prompt", "chosen", "rejected"] + ORIGIN,
    "trl-sdft": ["prompt", "privileged_context", "problem_id"],
    "trl-grpo": ["prompt", "solution", "problem_id"],
    "verl-grpo": ["data_source", "prompt", "ability", "reward_model", "extra_info"],
    "swift-opsd": ["messages", "teacher_prompt", "solution", "problem_id"],
    "swift-grpo": ["messages", "solution", "problem_id"],
}


def load_all(export):
    """Each folder opens as a dataset, by its card, with exactly its columns."""
    rows = {}
    for name, columns in COLUMNS.items():
        folder = export(name)
        data = load_dataset(str(folder), split="train")
        assert data.column_names == columns, (name, data.column_names)
        rows[name] = data
        print(f"{name:<14}{len(data):>4} rows  {', '.join(columns)}")
    count = len(rows["trl"])
    assert all(len(data) == count for name, data in rows.items() if name != "preference")
    for chat, paper, own in zip(rows["verl"], rows["verl-paper"], rows["trl"]):
        assert chat["messages"] == own["prompt"] + own["completion"]
        assert paper["extra_info"]["answer"] == own["completion"][0]["content"]
        assert chat["extra_info"]["problem_id"] == paper["extra_info"]["problem_id"] == own["problem_id"]
    weighted = load_dataset(str(export("swift", "--weight", "expert=0.3")), split="train")
    scales = {(row["source"], row["messages"][1].get("loss_scale")) for row in weighted}
    assert all((scale is None) != (source == "expert") for source, scale in scales), scales
    print(f"swift with --weight expert=0.3: {sorted(scales, key=str)}")
    return rows


def load_namesakes(export):
    """Two exports in folders of one name are two data sets: `datasets` keeps what it has read by folder and configuration."""
    answers = {}
    for stage in ["rewrites", "expert"]:
        folder = export("trl", stage=stage, below=stage)
        answers[stage] = [row["completion"] for row in load_dataset(str(folder), split="train")]
    assert answers["rewrites"] != answers["expert"]
    print("two exports in folders of one name load as two data sets")


def first_losses(dataset, name, policy, batch):
    """Two optimizer steps of TRL on the given rows in order; returns the losses."""
    from trl import SFTConfig, SFTTrainer

    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out, loss_type="dft", max_steps=2, per_device_train_batch_size=batch, learning_rate=5e-4,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, logging_steps=1, save_strategy="no",
            report_to=[], use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False, packing=False,
            train_sampling_strategy="sequential", disable_tqdm=True, max_length=2048, model_init_kwargs={"dtype": "float32"},
        )
        trainer = SFTTrainer(model=policy, args=config, train_dataset=dataset)
        example = trainer.train_dataset[0]
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"TRL on {name}: losses {losses}")
    return losses, example


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mindgap", default="target/release/mindgap")
    parser.add_argument("--store", default="data/store")
    parser.add_argument("--policy", default="data/base-policy")
    args = parser.parse_args()
    base = [args.mindgap, "--store", args.store]
    with tempfile.TemporaryDirectory() as scratch:
        def export(name, *more, stage="rewrites", below=""):
            folder = pathlib.Path(scratch) / below / f"{name}{len(more)}"
            command = base + ["export", "pipelines/smoke.toml", stage, "--format", name, "--to", str(folder), *more]
            subprocess.run(command, check=True, capture_output=True)
            return folder

        rows = load_all(export)
        load_namesakes(export)
        # Our first step: the rows the batch plan names, in its order, and the loss the trainer reported for them.
        tables = pathlib.Path(args.store) / "tables" / "smoke" / "train-dr+dft"
        first = load_dataset("parquet", data_files=str(tables / "train_steps" / "*.parquet"), split="train")[0]
        plan = load_dataset("parquet", data_files=str(tables / "batch_plan" / "*.parquet"), split="train")[0]["rows"]
        print(f"mindgap: first loss {first['loss']:.6f}, nll {first['nll']:.6f}, {first['token_count']} tokens")
        for name in ["pretokenized", "trl"]:
            losses, example = first_losses(rows[name].select(plan), name, args.policy, len(plan))
            wanted = rows["pretokenized"][plan[0]]
            same = example["input_ids"] == wanted["input_ids"] and example["labels"] == wanted["labels"]
            print(f"  tokens and labels of the first row are ours: {same}")
            assert name != "pretokenized" or same
            difference = abs(losses[0] - first["loss"])
            print(f"  first loss differs by {difference:.2e}")
            assert difference < 1e-4 * max(1.0, first["loss"]), (losses[0], first["loss"])


if __name__ == "__main__":
    main()
