"""What the k likeliest tokens and the tail lose against the whole vocabulary, as gradients of `distill`.

    python tests/peers/topk.py [--binary target/release/mindgap] [--policy data/base-policy] [--problems 64] [--k 1 5 20 100 441]

Samples the policy on training problems of the embedded world, scores the samples under the guided prompt once for every k, takes one
step with each, and compares the gradients, which are the first moments of that step's checkpoint: cosine and ratio of norms with the
largest k, which should be the vocabulary's size. Needs torch and safetensors.
"""

import argparse
import pathlib
import subprocess
import tempfile

import torch
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).parents[2]
PIPELINE = """
name = "topk"
[policies]
base = {{ path = "{policy}" }}
[stages.problems]
kind = "ingest"
files = [{{ path = "{root}/data/world/train-0.parquet", source = "world" }}]
limit = {problems}
[stages.rollouts]
kind = "rollout"
problems = "problems"
policy = "base"
samples = 2
max_new_tokens = 110
[stages.soft]
kind = "soft"
matrix.k = {ks}
rollouts = "rollouts"
problems = "problems"
template = "{root}/pipelines/templates/world-guided.j2"
policy = "base"
k = "{{k}}"
[stages.train]
kind = "train"
matrix.divergence = ["forward", "reverse", "js"]
matrix.k = {ks}
policy = "base"
data = "rollouts"
soft = "soft-{{k}}"
loss = {{ name = "distill", divergence = "{{divergence}}" }}
learning_rate = 1e-4
batch_size = 32
clip_norm = 0.0
steps = 2
checkpoint_steps = 1
"""


def gradient(store):
    """The first moments of the one checkpoint that a run has just made, as one vector."""
    state = load_file(store)
    names = sorted(name for name in state if name.startswith("adamw.first."))
    return torch.cat([state[name].double().flatten() for name in names])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/mindgap"))
    parser.add_argument("--policy", default=str(ROOT / "data/base-policy"))
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 20, 100, 441])
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    file, store = folder / "topk.toml", folder / "store"
    policy = pathlib.Path(args.policy).resolve()
    file.write_text(PIPELINE.format(root=ROOT, policy=policy, problems=args.problems, ks=args.k))
    seen, found = set(), {}
    for divergence in ["forward", "reverse", "js"]:
        for k in args.k:
            stage = f"train-{divergence}-{k}"
            subprocess.run([args.binary, "run", file, stage, "--store", store], check=True, stderr=subprocess.DEVNULL)
            states = {path for path in store.glob("objects/**/*") if path.is_file()} - seen
            seen |= states
            checkpoints = [path for path in states if holds_moments(path)]
            assert len(checkpoints) == 1, checkpoints
            found[divergence, k] = gradient(checkpoints[0])
    most = max(args.k)
    print(f"| k | " + " | ".join(f"{name}: cosine, norm" for name in ["forward", "reverse", "js"]) + " |\n|--:|--:|--:|--:|")
    for k in args.k:
        cells = []
        for divergence in ["forward", "reverse", "js"]:
            own, whole = found[divergence, k], found[divergence, most]
            cells.append(f"{torch.cosine_similarity(own, whole, dim=0):.4f}, {own.norm() / whole.norm():.3f}")
        print(f"| {k} | " + " | ".join(cells) + " |")


def holds_moments(path):
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return length < 1 << 24 and b"adamw.first." in file.read(length)


if __name__ == "__main__":
    main()
