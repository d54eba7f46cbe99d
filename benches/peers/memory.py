"""Peak memory of training steps of 16 x 256 tokens on TINY, or of 4 x 256 on a real checkpoint, each program in a process of its own.
Needs GNU time.

    python3 benches/peers/memory.py [--binary target/release/mindgap] [--policy FOLDER] [--type f32] [--case train|lora] [--threads 1]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer

import engine


class Watched(engine.Mindgap):
    """Notes the largest resident set, in kB, of the processes it runs: a child's own count would begin with this process's."""

    peak = 0

    def run(self, *args):
        note = self.scratch / "time"
        command = ["time", "-f", "%M", "-o", note, self.binary, "--threads", self.threads, *args]
        out = subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout
        self.peak = max(self.peak, int(note.read_text()))
        return 0.0, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(engine.ROOT / "target/release/mindgap"))
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--type", default="f32")
    parser.add_argument("--case", default="train")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--torch", action="store_true", help="train with torch, and nothing else")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shape, policy = ("real", args.policy) if args.policy else ("tiny", Path(folder) / "policy")
        if not args.policy:
            engine.make_policy(shape, policy)
        tokenizer, per_step, steps = Tokenizer.from_file(str(policy / "tokenizer.json")), engine.ROWS[shape], engine.STEPS[shape]
        rows = engine.texts(tokenizer, per_step * steps, engine.TEXT, 8)
        if args.torch:
            getattr(engine.Torch(policy, args.type, args.threads, per_step), args.case)(rows, steps)
            return
        ours = Watched(args.binary, policy, Path(folder), tokenizer, args.type, args.threads, per_step)
        getattr(ours, args.case)(rows, steps)
        note = Path(folder) / "time"
        subprocess.run(["time", "-f", "%M", "-o", str(note), sys.executable, *sys.argv, "--torch"], check=True)
        print(f"mindgap {ours.peak / 1000:.0f} MB, torch {int(note.read_text()) / 1000:.0f} MB")


if __name__ == "__main__":
    main()
