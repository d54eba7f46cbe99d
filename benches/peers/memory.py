"""Peak memory of training steps of 16 x 256 tokens on TINY, each program in a process of its own. Needs GNU time.

    python3 benches/peers/memory.py [--binary target/release/mindgap]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import engine


class Watched(engine.Mindgap):
    """Notes the largest resident set, in kB, of the processes it runs: a child's own count would begin with this process's."""

    peak = 0

    def run(self, *args):
        note = self.scratch / "time"
        command = ["time", "-f", "%M", "-o", note, self.binary, "--threads", "1", *args]
        out = subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout
        self.peak = max(self.peak, int(note.read_text()))
        return 0.0, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(engine.ROOT / "target/release/mindgap"))
    parser.add_argument("--torch", type=Path, metavar="POLICY", help="train this with torch, and nothing else")
    args = parser.parse_args()
    steps = engine.STEPS["tiny"]
    rows = engine.texts(engine.ROWS * steps, engine.TEXT, 8)
    if args.torch:
        engine.Torch(args.torch).train(rows, steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        engine.make_policy("tiny", policy)
        ours = Watched(args.binary, policy, Path(folder))
        ours.train(rows, steps)
        note = Path(folder) / "time"
        subprocess.run(["time", "-f", "%M", "-o", str(note), sys.executable, __file__, "--torch", str(policy)], check=True)
        print(f"mindgap {ours.peak / 1000:.0f} MB, torch {int(note.read_text()) / 1000:.0f} MB")


if __name__ == "__main__":
    main()
