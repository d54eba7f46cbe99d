"""`pipelines/paper-qwen2.5-math-7b.toml` as it is written, of a checkpoint of two layers, with vLLM and TRL under FSDP on a CPU.

    python tests/peers/paper.py --venvs /tmp/venvs --real FOLDER [--mindgap target/release/mindgap]

`--real` is a folder of a Qwen2 model, whose tokenizer and configuration are taken: two layers of 64 features are made of it, at random.
Beside the sizes only what a machine without GPUs lacks is set otherwise: `--data-parallel-size 8` is left out, and two processes share
the weights where there are eight (tests/peers/on_cpu/accelerate_fsdp.py). Virtual environments are those of tests/peers/engines.py.
"""

import json
import pathlib
import shutil
import subprocess
import tempfile

from engines import ROOT, Peers, arguments

SHRINK = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(1)
config = AutoConfig.from_pretrained(sys.argv[1])
sizes = dict(num_hidden_layers=2, hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1, max_window_layers=2)
config.update(sizes | {"layer_types": config.layer_types[:2]})
AutoModelForCausalLM.from_config(config).save_pretrained(sys.argv[2])
"""
SETS = {"train_file": 32, "math500": 8, "minerva": 4, "olympiad": 4, "aime24": 4, "amc23": 4}
VLLM = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--max-num-batched-tokens", "32768"]


def problems(path, count, first):
    """Sums, in the columns of each of the paper's files."""
    rows = []
    for number in range(first, first + count):
        question, answer = f"What is ${number} + {3 * number}$?", str(4 * number)
        solution = f"We add: ${number} + {3 * number} = {answer}$. The answer is $\\boxed{{{answer}}}$."
        rows.append({"problem": question, "question": question, "solution": solution, "answer": answer, "final_answer": [answer]})
    keys = {"olympiad": ["question", "final_answer"], "aime24": ["problem", "answer"], "amc23": ["question", "answer"]}
    kept = keys.get(path.stem, ["problem", "solution"])
    path.write_text("".join(json.dumps({key: row[key] for key in kept}) + "\n" for row in rows))


def main():
    parser = arguments()
    args = parser.parse_args()
    if not args.real:
        parser.error("--real is needed: whose tokenizer and configuration are taken")
    args.only = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        peers = Peers(args, scratch)
        if not (peers.vllm and peers.trl):
            return
        policy = scratch / "policy"
        subprocess.run([peers.trl, "-c", SHRINK, args.real, policy], check=True, capture_output=True)
        for file in pathlib.Path(args.real).iterdir():
            if file.name != "config.json" and file.suffix in (".json", ".jinja", ".txt"):
                shutil.copy(file, policy)
        for first, (name, count) in enumerate(SETS.items()):
            problems(scratch / f"{name}.jsonl", count, 100 * first)
        pipeline = ROOT / "pipelines/paper-qwen2.5-math-7b.toml"
        written = pipeline.read_text().split('launch = """')[1].split('"""')[0].replace("\\\n", " ")
        launch = f"{peers.trl.parent}/{written}".replace("--num_processes 8", "--num_processes 2")
        launch = launch.replace('"$SCRIPT"', f'{ROOT}/tests/peers/on_cpu/accelerate_fsdp.py "$SCRIPT"')
        settings = {"policy": policy, "engine_args": json.dumps(VLLM), "in_flight": 64, "launch": launch, "batch": 8, "samples": 2}
        settings |= {"max_new_tokens": 16, "eval_samples": 1, "eval_max_new_tokens": 16}
        settings |= {name: scratch / f"{name}.jsonl" for name in SETS}
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        store = scratch / "store"
        for stage in peers.run(store, pipeline, *words):
            print(f"  {stage['name']}: {stage['rows']} rows")
        peers.nothing_left()
        subprocess.run(peers.command(store, "report", pipeline, *words, "--out", scratch / "report.html"), check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
