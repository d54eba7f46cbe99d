"""The Python module in what calls it: TRL, verl and lm-evaluation-harness, as they are installed.

    make wheel && pip install wheels/*.whl trl lm-eval verl
    python tests/peers/rewards.py [trl] [verl] [lm_eval]

`trl`: one step of GRPOTrainer with the embedded policy and two of our rewards; what TRL logs is
what our verdicts on its completions say. `verl`: its `get_custom_reward_fn` loads our function by package and by path, and its naive reward
manager calls it. `lm_eval`: a task whose YAML names our `process_results` is evaluated on the embedded policy. Needs no network and no GPU.
All three unless some are named; ends with an assertion error where one does not do what is said here.
"""

import json
import os
import pathlib
import sys
import tempfile

import mindgap
from pyarrow.parquet import read_table

ROOT = pathlib.Path(__file__).parents[2]
POLICY = str(ROOT / "data/base-policy")
PROBLEMS = [(row["question"], row["answer"]) for row in read_table(ROOT / "data/world/test-algebra.parquet").to_pylist()[:4]]


def trl():
    """One step; the means that TRL logs are those of our verdicts."""
    import mindgap.trl
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    seen = []

    def watched(completions, **kwargs):
        rewards = mindgap.trl.accuracy_reward(completions=completions, **kwargs)
        seen.extend(zip(kwargs["solution"], completions, rewards, strict=True))
        return rewards

    rows = [
        {"prompt": [{"role": "user", "content": question}], "solution": f"#### {answer}", "options": ["a column"]}
        for question, answer in PROBLEMS
    ]
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out, max_steps=1, per_device_train_batch_size=8, num_generations=4, max_completion_length=48,
            use_cpu=True, report_to=[], save_strategy="no", logging_steps=1, seed=0, bf16=False, log_completions=False,
        )
        lenient = mindgap.trl.AccuracyReward(scale="from_gold")
        trainer = GRPOTrainer(POLICY, [watched, lenient], args=config, train_dataset=Dataset.from_list(rows))
        trainer.train()
    log = next(entry for entry in trainer.state.log_history if "rewards/watched/mean" in entry)
    assert len(seen) == 8, len(seen)
    own = [float(mindgap.verify(gold.removeprefix("#### "), said[-1]["content"])) for gold, said, _ in seen]
    assert own == [reward for _, _, reward in seen]
    mean = sum(own) / len(own)
    for name in ["watched", "accuracy_reward"]:
        assert abs(log[f"rewards/{name}/mean"] - mean) < 1e-6, (name, log, mean)
    print(f"trl: one GRPO step on 8 completions, mean reward {mean}, of two reward functions; one: {seen[0]}")


def verl():
    """The function as verl loads it, and its own reward manager over it."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import get_custom_reward_fn

    import mindgap.verl

    for path in ["pkg://mindgap.verl", mindgap.verl.__file__]:
        function = {"path": path, "name": "compute_score", "reward_kwargs": {"options": {"scale": "from_gold"}}}
        # the place of the setting differs between versions
        config = OmegaConf.create({"custom_reward_function": function, "reward": {"custom_reward_function": function}})
        score = get_custom_reward_fn(config)
        for said, wanted in [("It is 24.", 1.0), ("\\boxed{24 billion}", 0.0)]:
            found = score(data_source="tatqa", solution_str=said, ground_truth="24 million", extra_info={"index": 0})
            assert found["score"] == wanted, found
    print(f"verl: get_custom_reward_fn loads compute_score by package and by path; {found}")
    manager(score)


def manager(score):
    """verl's naive manager over decoded tokens."""
    import torch
    from transformers import AutoTokenizer
    from verl import DataProto
    from verl.workers.reward_manager.naive import NaiveRewardManager

    import numpy as np

    tokenizer = AutoTokenizer.from_pretrained(POLICY)
    said = [f"so it is \\boxed{{{answer}}}" for _, answer in PROBLEMS]
    said[0] = "so it is \\boxed{99}"
    tokens = tokenizer(said, return_tensors="pt", padding=True, padding_side="right")
    prompt = tokenizer(["?"] * len(said), return_tensors="pt")
    batch = DataProto.from_dict(
        tensors={
            "prompts": prompt.input_ids,
            "responses": tokens.input_ids,
            "attention_mask": torch.cat([prompt.attention_mask, tokens.attention_mask], dim=1),
        },
        non_tensors={
            "reward_model": np.array([{"ground_truth": answer} for _, answer in PROBLEMS], dtype=object),
            "data_source": np.array(["gsm8k"] * len(said), dtype=object),
            "extra_info": np.array([{} for _ in said], dtype=object),
        },
    )
    found = NaiveRewardManager(tokenizer, num_examine=0, compute_score=score)(batch, return_dict=True)
    assert found["reward_tensor"].sum(dim=1).tolist() == [0.0, 1.0, 1.0, 1.0], found
    assert found["reward_extra_info"]["verdict"] == ["incorrect", "correct", "correct", "correct"]
    print(f"verl: NaiveRewardManager over 4 responses: {found['reward_extra_info']['verdict']}")


TASK = """
task: mindgap_check
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
process_results: !function utils.process_results
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 48, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def lm_eval():
    """A task evaluated with our `process_results`, and its logged answers judged again."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rows = [{"question": question, "answer": f"#### {answer}"} for question, answer in PROBLEMS]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "check.yaml").write_text(TASK.replace("FILE", json.dumps(str(folder / "rows.jsonl"))))
        (folder / "utils.py").write_text("from mindgap.lm_eval import process_results\n")
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        found = simple_evaluate(
            "hf", model_args=f"pretrained={POLICY},dtype=float32", tasks=["mindgap_check"], device="cpu", batch_size=4,
            apply_chat_template=True, task_manager=TaskManager(include_path=str(folder)), bootstrap_iters=0,
        )
    samples = found["samples"]["mindgap_check"]
    own = [
        mindgap.verify(sample["doc"]["answer"].removeprefix("#### "), sample["filtered_resps"][0]) for sample in samples
    ]
    score = found["results"]["mindgap_check"]["exact_match,none"]
    assert len(own) == len(PROBLEMS) and abs(score - sum(own) / len(own)) < 1e-9, (score, own)
    print(f"lm_eval: exact_match {score} over {len(own)} documents; one answer: {samples[0]['filtered_resps'][0]!r}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in sys.argv[1:] or ["trl", "verl", "lm_eval"]:
        {"trl": trl, "verl": verl, "lm_eval": lm_eval}[name]()
