#!/usr/bin/env python3
"""Whether two builds of mindgap give the same results: runs a pipeline with each in a fresh store and compares, stage by
stage, the fingerprint of the recipe and the address of the bytes. Exit code 1 where any differs.

    python3 tests/peers/addresses.py OLD_BINARY NEW_BINARY [PIPELINE]

A side may also be a file that `mindgap run PIPELINE --json` wrote."""

import json
import pathlib
import subprocess
import sys
import tempfile


def stages(side: str, pipeline: str) -> dict:
    if side.endswith(".json"):
        text = pathlib.Path(side).read_text()
    else:
        with tempfile.TemporaryDirectory() as store:
            command = [side, "run", pipeline, "--store", store, "--json"]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {stage["name"]: (stage["fingerprint"], stage["address"]) for stage in json.loads(text)["stages"]}


def main() -> int:
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    pipeline = sys.argv[3] if len(sys.argv) == 4 else "pipelines/demo.toml"
    old, new = (stages(side, pipeline) for side in sys.argv[1:3])
    differ = 0
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        differ += 1
        if before is None or after is None:
            print(f"{name}: only in the {'new' if before is None else 'old'} run")
            continue
        what = [word for word, a, b in zip(("recipe", "bytes"), before, after) if a != b]
        print(f"{name}: {' and '.join(what)} differ")
    print(f"{len(old)} stages, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
