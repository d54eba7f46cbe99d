"""Two threads beside one: new tokens per second of wall time at batch 64, in turn, each the difference of a long and a short run.

    python3 benches/peers/threads.py --policy FOLDER [--binary target/release/mindgap] [--type bf16] [--batch 64] [--rounds 3]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

import engine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(engine.ROOT / "target/release/mindgap"))
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--type", default="bf16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.policy / "tokenizer.json"))
    prompts = engine.texts(tokenizer, args.batch, engine.PROMPT, args.batch)
    rates = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for threads, found in rates.items():
                ours = engine.Mindgap(args.binary, args.policy, Path(folder), tokenizer, args.type, threads, 0)
                found.append(engine.rate(ours.generate, (prompts, engine.NEW["real", 64] + 1), (prompts, 1)))
    medians = {threads: statistics.median(wall for wall, _ in found) for threads, found in rates.items()}
    ratios = sorted(two / one for (one, _), (two, _) in zip(rates[1], rates[2]))
    print(f"1 thread {medians[1]:.1f} tokens/s, 2 threads {medians[2]:.1f}; ratio of each round {', '.join(f'{r:.2f}' for r in ratios)}")


if __name__ == "__main__":
    main()
