"""Prompts and soft targets in the trainers that they are exported for: SDFT, OPSD, GRPO and distillation.

    python tests/peers/onpolicy.py FOLDER [trl swift verl axolotl] [--torch SITE_PACKAGES ..]

Runs a small pipeline with a soft stage in a store of its own, exports it, and loads the rows with the code of each trainer, in the
virtual environments of `trainers.py` (`--torch` is told there). Prompts must have the tokens that our stages made, the student's
and the teacher's; answers must be the problems'. TRL takes a step of SDFT and one of GRPO, ms-swift of OPSD and GRPO, axolotl of
distillation, whose loss must be the one computed here from the teacher's whole distributions. Needs no GPU; some ten minutes.
Ends with an assertion error where something differs.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import trainers

ROOT = pathlib.Path(__file__).parents[2]
K = 20
PIPELINE = f"""
name = "onpolicy"
[policies]
base = {{ path = "{ROOT}/data/base-policy" }}
[stages.problems]
kind = "ingest"
files = [{{ path = "{ROOT}/data/world/train-0.parquet", source = "world" }}]
limit = 24
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 2
max_new_tokens = 60
[stages.guided]
kind = "rollout"
problems = "problems"
policy = "base"
prompt_kind = "guided"
template = "{ROOT}/pipelines/templates/world-guided.j2"
samples = 1
max_new_tokens = 60
[stages.expert]
kind = "rewrite"
problems = "problems"
policy = "base"
[stages.soft]
kind = "soft"
rollouts = "rollouts"
policy = "base"
problems = "problems"
template = "{ROOT}/pipelines/templates/world-guided.j2"
k = {K}
"""
EXPORTS = [
    ("soft", "trl-sdft"), ("expert", "trl-sdft"), ("rollouts", "trl-grpo"), ("soft", "swift-opsd"), ("rollouts", "swift-grpo"),
    ("rollouts", "verl-grpo"), ("soft", "axolotl-kd"),
]
TEACHER_TEMPLATE = "{prompt}{privileged_context}"


def table(folder, stage):
    from pyarrow.parquet import read_table

    parts = sorted(pathlib.Path(folder, "store/tables/onpolicy", stage).glob("*.parquet"))
    return [row for part in parts for row in read_table(part).to_pylist()]


def by_problem(folder, stage, column):
    return {row["problem_id"]: row[column] for row in table(folder, stage)}


def trl_dataset(folder, name):
    from datasets import load_dataset

    return load_dataset(f"{folder}/{name}", split="train")


def common(**more):
    """Settings of a short training on a CPU."""
    return dict(
        output_dir=tempfile.mkdtemp(), max_steps=1, per_device_train_batch_size=8, num_generations=4, max_completion_length=48,
        use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, seed=0, bf16=False, gradient_checkpointing=False, **more,
    )


def trl_sdft(folder, policy):
    """Prompts of student and teacher have our tokens; a step has a loss."""
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    own, teacher = by_problem(folder, "rollouts", "prompt_ids"), by_problem(folder, "guided", "prompt_ids")
    data = trl_dataset(folder, "soft-trl-sdft")
    config = SDFTConfig(**common(teacher_prompt_template=TEACHER_TEMPLATE, max_prompt_length=None))
    trainer = SDFTTrainer(model=policy, args=config, train_dataset=data)
    for row in data:
        shown = trainer.teacher_context_builder._compose_teacher_prompt(row["prompt"], row["privileged_context"])
        ids = trainer._tokenize_prompts([row["prompt"]]) + trainer._tokenize_prompts([shown])
        assert ids == [own[row["problem_id"]], teacher[row["problem_id"]]], row
    trainer.train()
    loss = next(entry for entry in trainer.state.log_history if "self_distillation/distillation_loss" in entry)
    loss = loss["self_distillation/distillation_loss"]
    assert 0 < loss < 10, loss
    return f"{len(data)} of {len(own)} prompts and teacher's prompts have our tokens; a step, loss {loss:.4f}"


def trl_sdft_solution(folder, policy):
    """Of a rewrite stage: the teacher is shown the solution behind the prompt, by the template that TRL has."""
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    data, solutions = trl_dataset(folder, "expert-trl-sdft"), by_problem(folder, "problems", "solution")
    trainer = SDFTTrainer(model=policy, args=SDFTConfig(**common()), train_dataset=data)
    for row in data:
        shown = trainer.teacher_context_builder._compose_teacher_prompt(row["prompt"], row["privileged_context"])
        wanted = row["prompt"][-1]["content"] + "\n\n" + solutions[row["problem_id"]]
        assert shown == [{"role": "user", "content": wanted}], row
    return f"{len(data)} teacher's prompts are problem and solution"


def trl_grpo(folder, policy):
    """A step, in which a reward function gets the answers."""
    from trl import GRPOConfig, GRPOTrainer

    questions = by_problem(folder, "problems", "question")
    answers = {questions[key]: answer for key, answer in by_problem(folder, "problems", "answer").items()}
    seen = []

    def reward(prompts, completions, solution, **kwargs):
        assert all(answers[prompt[-1]["content"]] == gold for prompt, gold in zip(prompts, solution, strict=True))
        seen.extend(solution)
        return [float(gold in said[-1]["content"]) for gold, said in zip(solution, completions, strict=True)]

    data = trl_dataset(folder, "rollouts-trl-grpo")
    trainer = GRPOTrainer(policy, [reward], args=GRPOConfig(**common()), train_dataset=data)
    own = by_problem(folder, "rollouts", "prompt_ids")
    for row in data:
        ids = trainer.processing_class.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)
        assert ids["input_ids"] == own[row["problem_id"]], row
    trainer.train()
    assert len(seen) == 8, len(seen)
    return f"{len(data)} of {len(own)} prompts have our tokens; a step, its reward function got the answers"


def trained(module, *args):
    """Runs the program of a trainer for a step or two; the loss that it tells at its end."""
    run = subprocess.run([sys.executable, "-m", module, *args], capture_output=True, text=True)
    print(run.stdout, run.stderr)
    assert run.returncode == 0, module
    return float(re.findall(r"'train_loss': '?([-0-9.e]+)", run.stdout + run.stderr)[-1])


def swift_register():
    """The embedded policy's chat template: it has no name there."""
    from swift.template import TemplateMeta, register_template

    end = [trainers.ANSWER.format("")]
    own = TemplateMeta("embedded", prefix=[], prompt=[trainers.USER.format("{{QUERY}}")], chat_sep=end, suffix=end)
    register_template(own, exist_ok=True)


def swift_template(policy):
    from swift import get_processor, get_template

    swift_register()
    template = get_template(get_processor(policy, model_type="llama"), template_type="embedded")
    template.set_mode("train")
    return template


def swift_samples(folder, name):
    """Rows as its trainers hold them while they sample, by problem."""
    from swift import load_dataset
    from swift.rl_core.data import OnPolicySample

    rows, _ = load_dataset([f"{folder}/{name}/train.jsonl"], num_proc=1, remove_unused_columns=False)
    return {sample.extra["problem_id"]: sample for sample in map(OnPolicySample.from_row, rows)}


def swift_opsd(folder, policy):
    """Each sample behind the teacher's prompt, as its trainers encode it, has our tokens."""
    from swift.rlhf_trainers.gkd_helpers import encode_teacher_view

    template, samples = swift_template(policy), swift_samples(folder, "soft-swift-opsd")
    teacher, answers = by_problem(folder, "guided", "prompt_ids"), by_problem(folder, "problems", "answer")
    count = 0
    for row in table(folder, "rollouts"):
        sample = samples[row["problem_id"]]
        assert sample.extra["solution"] == answers[row["problem_id"]]
        sample.response_token_ids = [row["token_ids"]]
        sample.messages = [turn for turn in sample.messages if turn["role"] != "assistant"]
        sample.messages.append({"role": "assistant", "content": row["completion"]})
        sample.teacher_messages = None
        assert sample.build_teacher_view()
        ids = list(encode_teacher_view(sample, template)["input_ids"])
        wanted = teacher[row["problem_id"]] + row["token_ids"]
        assert ids[: len(wanted)] == wanted, (ids, wanted)
        count += 1
    return f"{count} samples behind the teacher's prompt have our tokens"


def swift_grpo(folder, policy):
    """Prompts as its engine encodes them have our tokens; nothing asks for a teacher; its reward reads the answer."""
    from swift.rewards.orm import MathAccuracy

    template, samples = swift_template(policy), swift_samples(folder, "rollouts-swift-grpo")
    own, answers = by_problem(folder, "rollouts", "prompt_ids"), by_problem(folder, "problems", "answer")
    template.set_mode("vllm")
    for key, sample in samples.items():
        assert not sample.build_teacher_view()
        assert list(template.encode(sample.to_template_dict())["input_ids"]) == own[key], key
        assert sample.to_reward_row()["solution"] == answers[key]
    assert samples.keys() == own.keys()
    golds = [answers[key] for key in samples]
    for said, wanted in [(golds, len(golds)), (["-987"] * len(golds), 0)]:
        rewards = MathAccuracy()([f"It is \\boxed{{{answer}}}." for answer in said], golds)
        assert sum(rewards) == wanted, (rewards, golds)
    return f"{len(samples)} prompts have our tokens; its reward `accuracy` is 1 for all answers and 0 for others"


def swift_steps(folder, policy):
    """A step of OPSD and one of GRPO by its command line."""
    plugin = pathlib.Path(folder, "register.py")
    here = str(pathlib.Path(__file__).parent)
    plugin.write_text(f"import sys\nsys.path.insert(0, {here!r})\nimport onpolicy\nonpolicy.swift_register()\n")
    options = dict(
        model=policy, model_type="llama", template="embedded", external_plugins=plugin, max_steps=1, use_vllm="false",
        torch_dtype="float32", tuner_type="full", per_device_train_batch_size=4, gradient_accumulation_steps=1,
        max_completion_length=48, report_to="none", logging_steps=1, save_strategy="no", bf16="false", use_cpu="true",
        dataset_num_proc=1, dataloader_num_workers=0, split_dataset_ratio=0,
    )

    def step(kind, layout, **more):
        own = dict(rlhf_type=kind, dataset=f"{folder}/{layout}/train.jsonl", output_dir=tempfile.mkdtemp())
        options_of_step = {**options, **own, **more}.items()
        return trained("swift.cli.rlhf", *(str(part) for key, value in options_of_step for part in [f"--{key}", value]))

    loss = step("gkd", "soft-swift-opsd", lmbda=1)
    assert 0 < loss < 10, loss
    step("grpo", "rollouts-swift-grpo", reward_funcs="accuracy", num_generations=4)
    return f"a step of GKD with the teacher's prompts, loss {loss:.4f}; a step of GRPO with its reward `accuracy`"


def verl_grpo(folder, policy):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    tokenizer = trainers.tokenizer_of(policy)
    config = OmegaConf.create({"prompt_key": "prompt", "max_prompt_length": 4096, "cache_dir": tempfile.mkdtemp()})
    own, answers = by_problem(folder, "rollouts", "prompt_ids"), by_problem(folder, "problems", "answer")
    rows = RLHFDataset(f"{folder}/rollouts-verl-grpo/train.parquet", tokenizer, config)
    for row in rows:
        key = row["extra_info"]["problem_id"]
        text = tokenizer.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, tokenize=False)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own[key], key
        assert row["reward_model"] == {"style": "rule", "ground_truth": answers[key]} and row["data_source"] == "world"
    return f"{len(rows)} of {len(own)} prompts have our tokens, with the answers"


def kd_settings(folder, policy):
    """The lines of the card, and what a short training on a CPU needs."""
    return dict(
        base_model=str(policy), plugins=["axolotl.integrations.kd.KDPlugin"], kd_trainer=True, kd_ce_alpha=0.0, kd_alpha=1.0,
        kd_temperature=1.0, kd_normalize_topk=True,
        datasets=[dict(path=f"{folder}/soft-axolotl-kd/train.parquet", ds_type="parquet", type="")], sequence_len=4096,
        micro_batch_size=4, gradient_accumulation_steps=1, num_epochs=1, max_steps=2, learning_rate=1e-4, optimizer="adamw_torch",
        output_dir=tempfile.mkdtemp(), bf16=False, fp16=False, dataset_prepared_path=tempfile.mkdtemp(),
        shuffle_merged_datasets=False, dataset_num_proc=1, special_tokens={"pad_token": "<pad>"}, lr_scheduler="constant",
        attn_implementation="eager", logging_steps=1, save_strategy="no",
    )


def axolotl_steps(folder, policy):
    """Two steps by its command line."""
    settings = pathlib.Path(folder, "axolotl.yaml")
    settings.write_text(json.dumps(kd_settings(folder, policy)))
    loss = trained("axolotl.cli.train", settings)
    assert 0 < loss < 10, loss
    return f"two steps, mean loss {loss:.4f}"


def axolotl_kd(folder, policy):
    """Loaded and collated by the plugin: its trainer's loss is what the teacher's whole distributions give."""
    import torch
    from axolotl.cli.config import load_cfg
    from axolotl.integrations.kd.collator import DataCollatorForKD
    from axolotl.integrations.kd.kernels.liger import LigerFusedLinearKLTopKLogprobLoss
    from axolotl.integrations.kd.trainer import AxolotlKDTrainer
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.data import prepare_datasets
    from axolotl.utils.dict import DictDefault
    from transformers import AutoModelForCausalLM

    export = f"{folder}/soft-axolotl-kd"
    cfg = load_cfg(DictDefault(kd_settings(folder, policy)))
    tokenizer = load_tokenizer(cfg)
    rows = list(prepare_datasets(cfg, tokenizer)[0])
    origins = [json.loads(line) for line in pathlib.Path(export, "rows.jsonl").read_text().splitlines()]
    samples = {(row["problem_id"], row["sample_index"]): row for row in table(folder, "rollouts")}
    teacher = by_problem(folder, "guided", "prompt_ids")
    assert len(rows) == len(origins) == len(samples)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()

    def logprobs(prompt_ids, token_ids):
        """Of every token of the vocabulary in the place of each token of a text."""
        with torch.no_grad():
            logits = model(torch.tensor([prompt_ids + token_ids])).logits[0]
        return logits[len(prompt_ids) - 1 : -1].log_softmax(-1)

    total, count = 0.0, 0
    for origin, row in zip(origins, rows):
        sample = samples[origin["problem_id"], origin["choice_index"]]
        assert row["input_ids"] == sample["prompt_ids"] + sample["token_ids"]
        top, ids = logprobs(teacher[origin["problem_id"]], sample["token_ids"]).topk(K)
        top, own = top.log_softmax(-1), logprobs(sample["prompt_ids"], sample["token_ids"]).gather(-1, ids).log_softmax(-1)
        total, count = total + (top.exp() * (top - own)).sum().item(), count + len(sample["token_ids"])
    columns = ["input_ids", "attention_mask", "labels", "target_token_ids", "target_logprobs", "target_mask"]
    batch = DataCollatorForKD(tokenizer)([{name: row[name] for name in columns} for row in rows])
    loss = LigerFusedLinearKLTopKLogprobLoss(0.0, 1.0, 1.0, 0.0, compute_ce_loss=False, normalize_topk=True, compiled=False)
    trainer = SimpleNamespace(args=SimpleNamespace(), model_accepts_loss_kwargs=True, _kd_loss_fn=loss)
    found = AxolotlKDTrainer.compute_loss(trainer, model, batch).item()
    assert abs(found - total / count) < 1e-5 * max(1.0, found), (found, total / count)
    return f"{len(rows)} rows, {count} targets; the plugin's loss {found:.6f}, from whole distributions {total / count:.6f}"


CASES = {
    "trl": [trl_sdft, trl_sdft_solution, trl_grpo], "swift": [swift_opsd, swift_grpo, swift_steps], "verl": [verl_grpo],
    "axolotl": [axolotl_kd, axolotl_steps],
}


def load(name, folder, policy):
    """What runs in a trainer's environment."""
    package = trainers.TRAINERS[name][2]
    versions = ", ".join(f"{part} {importlib.metadata.version(part)}" for part in [package, "transformers", "torch"])
    for case in CASES[name]:
        print(f"{case.__name__} ({versions}): {case(folder, policy)}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("trainers", nargs="*", default=list(CASES))
    parser.add_argument("--torch", action="append", default=[])
    parser.add_argument("--mindgap", default=f"{ROOT}/target/release/mindgap")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pipeline = pathlib.Path(scratch, "onpolicy.toml")
        pipeline.write_text(PIPELINE)
        ours = [args.mindgap, "--store", f"{scratch}/store"]
        subprocess.run([*ours, "run", pipeline], check=True, capture_output=True)
        for stage, layout in EXPORTS:
            to = ["--format", layout, "--to", f"{scratch}/{stage}-{layout}"]
            subprocess.run([*ours, "export", pipeline, stage, *to], check=True, capture_output=True)
        # What libraries keep of folders they have read is theirs; nothing is asked of a network.
        settings = {
            **os.environ, "HF_DATASETS_CACHE": f"{scratch}/cache", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
            "AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false",
        }
        failed = []
        for name in args.trainers:
            python, problem = trainers.environment(args.folder.resolve(), name, args.torch)
            if problem:
                print(f"{name}: skipped: {problem}", flush=True)
                continue
            command = [python, __file__, "--load", name, scratch, ROOT / "data/base-policy"]
            run = subprocess.run(command, env=settings, cwd=scratch, capture_output=True, text=True)
            (args.folder / f"{name}-onpolicy.log").write_text(run.stdout + run.stderr)
            found = [line for line in run.stderr.splitlines() if line.split(" ")[0] in {case.__name__ for case in CASES[name]}]
            print("\n".join(found), flush=True)
            if run.returncode != 0:
                failed.append(name)
                print(f"{name} fails, see {args.folder}/{name}-onpolicy.log", flush=True)
    assert not failed, failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--load"]:
        load(*sys.argv[2:])
    else:
        main()
