"""Verdicts beside Math-Verify's, on the same labelled public responses, in one run: agreement with the labels, and speed.

    git clone https://github.com/openai/grade-school-math
    git clone https://github.com/GAIR-NLP/abel
    make wheel && venv/bin/pip install wheels/*.whl math-verify==0.9.0
    venv/bin/python benches/peers/verdicts.py --gsm8k grade-school-math --abel abel --mindgap target/release/mindgap

Rows are the four systems of grade-school-math and Abel's 7B and 13B on GSM8K, and every second row of Abel's 70B on multiple choice.
Both tools run as whole processes over files of JSON lines, and inside this process row by row; the module also in batches.
Math-Verify is called as its README does, with its time limits, and with `StringExtractionConfig` for letters. Wall time
and CPU seconds, the best of the rounds.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict

SYSTEMS = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def public_rows(gsm8k, abel):
    """Every row with its source, kind of judge, reference, response and label."""
    rows = []
    for problem in lines(gsm8k / "grade_school_math/data/example_model_solutions.jsonl"):
        gold = problem["ground_truth"].rsplit("A: ", 1)[1].strip()
        for system in SYSTEMS:
            answer = problem[system]
            rows.append((f"gsm8k {system}", "math", gold, answer["solution"], answer["is_correct"]))
    for size in ["7b", "13b"]:
        for row in lines(abel / f"outputs/gsm8k/{size}.jsonl"):
            rows.append((f"abel {size} gsm8k", "math", row["gold"], row["response"], row["result"]))
    for row in lines(abel / "outputs/mathgpt/70b.jsonl")[::2]:
        rows.append(("abel 70b choice", "choice", row["gold"], row["response"], row["result"]))
    return rows


def math_verify(kind):
    """Math-Verify's verdict on a pair, as its README calls it."""
    from math_verify import StringExtractionConfig, parse, verify

    if kind == "math":
        return lambda gold, response: verify(parse(gold), parse(response))
    config = [StringExtractionConfig()]
    return lambda gold, response: verify(parse(gold, config), parse(response, config))


def timed(work, rounds):
    """The result, and the least wall and CPU seconds of the rounds, children included."""
    walls, cpus = [], []
    for _ in range(rounds):
        used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        start = time.perf_counter()
        result = work()
        walls.append(time.perf_counter() - start)
        cpus.append(
            sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) - used
        )
    return result, min(walls), min(cpus)


def process_of_math_verify(path, kind):
    """Judges a file of JSON lines: what this script runs as Math-Verify's whole process."""
    judge = math_verify(kind)
    for row in lines(pathlib.Path(path)):
        print(json.dumps({"id": row["id"], "verdict": bool(judge(row["gold"], row["response"]))}))


def whole_processes(rows, folder, mindgap, rounds):
    """Each tool as a whole process over a file per kind of judge."""
    files = {}
    for kind in ["math", "choice"]:
        files[kind] = folder / f"{kind}.jsonl"
        kept = [(at, row) for at, row in enumerate(rows) if row[1] == kind]
        text = "".join(json.dumps({"id": at, "gold": row[2], "response": row[3]}) + "\n" for at, row in kept)
        files[kind].write_text(text, "utf-8")

    def run(command):
        verdicts = {}
        for kind, path in files.items():
            done = subprocess.run(command(kind, path), check=True, capture_output=True, text=True)
            for line in done.stdout.splitlines():
                row = json.loads(line)
                verdicts[row["id"]] = row["verdict"] in (True, "correct")
        return [verdicts[at] for at in range(len(rows))]

    ours = timed(lambda: run(lambda kind, path: [mindgap, "judge", path, "--judge", kind]), rounds)
    own = [sys.executable, __file__, "--process-of-math-verify"]
    theirs = timed(lambda: run(lambda kind, path: [*own, path, kind]), 1)
    return ours, theirs


def one_process(rows, rounds):
    """The module and Math-Verify row by row in this process, and the module in batches."""
    import mindgap

    kinds = {kind: math_verify(kind) for kind in ["math", "choice"]}
    row_by_row = timed(
        lambda: [mindgap.verify(gold, response, kind=kind) for _, kind, gold, response, _ in rows], rounds
    )

    def batches():
        found = []
        for kind in ["math", "choice"]:  # the rows are in this order
            kept = [row for row in rows if row[1] == kind]
            found += mindgap.judge_batch([row[2] for row in kept], [row[3] for row in kept], kind=kind)
        return [judgement.correct for judgement in found]

    in_batches = timed(batches, rounds)
    theirs = timed(lambda: [bool(kinds[kind](gold, response)) for _, kind, gold, response, _ in rows], 1)
    return row_by_row, in_batches, theirs


def print_agreement(rows, ours, theirs):
    tallies = defaultdict(Counter)
    for (source, _, _, _, label), own, other in zip(rows, ours, theirs, strict=True):
        for name in (source, "all"):
            tally = tallies[name]
            tally["rows"] += 1
            tally["labelled correct"] += label
            for tool, verdict in (("mindgap", own), ("Math-Verify", other)):
                tally[f"{tool} agrees"] += verdict == label
                tally[f"{tool} false accepts"] += verdict and not label
                tally[f"{tool} false rejects"] += label and not verdict
    columns = list(tallies["all"])
    print("| source | " + " | ".join(columns) + " |\n|---|" + "--:|" * len(columns))
    for source, tally in tallies.items():
        if source != "all":
            print(f"| {source} | " + " | ".join(f"{tally[column]:,}" for column in columns) + " |")
    print("| all | " + " | ".join(f"{tallies['all'][column]:,}" for column in columns) + " |")


def print_speed(title, rows, ours, theirs):
    for what, at in (("wall", 1), ("CPU", 2)):
        own, other = ours[at] / len(rows) * 1e6, theirs[at] / len(rows) * 1e6
        print(f"{title}, {what}: mindgap {own:.2f} us a row, Math-Verify {other:.1f} us a row: {other / own:.0f} times")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=pathlib.Path, required=True, help="a checkout of grade-school-math")
    parser.add_argument("--abel", type=pathlib.Path, required=True, help="a checkout of abel")
    parser.add_argument("--mindgap", default="mindgap", help="the program (default: the one of the package)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of mindgap; Math-Verify runs once")
    args = parser.parse_args()
    rows = public_rows(args.gsm8k, args.abel)
    with tempfile.TemporaryDirectory() as folder:
        process, their_process = whole_processes(rows, pathlib.Path(folder), args.mindgap, args.rounds)
    row_by_row, in_batches, theirs = one_process(rows, args.rounds)
    assert process[0] == row_by_row[0] == in_batches[0], "program and module agree"
    assert their_process[0] == theirs[0], "Math-Verify's verdicts do not depend on the process"
    print_agreement(rows, process[0], theirs[0])
    print()
    print_speed("whole process", rows, process, their_process)
    print_speed("`verify` row by row", rows, row_by_row, theirs)
    print_speed("`judge_batch`", rows, in_batches, theirs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process-of-math-verify"]:
        process_of_math_verify(*sys.argv[2:])
    else:
        main()
