"""Right and wrong answers made of TAT-QA's references, judged: other scales, other signs, one more.

    python benches/peers/scales.py --tatqa tatqa.jsonl --mindgap target/release/mindgap

The file is made as `pipelines/domains/tatqa.toml` says. Every reference is answered by itself. Where it is one number, it is also
answered by the number with another scale word, with the other sign, and by one more than it, in a box and in prose.
"""

import argparse
import json
import pathlib
import subprocess
from collections import Counter

OTHER_SCALE = {"thousand": "million", "million": "billion", "billion": "million"}
JUDGES = [("math", []), ("math", ["scale=from_gold"])] + [
    ("numeric", [f"scale={scale}", "rel_tol=0.01"]) for scale in ["from_gold", "value", "ignore"]
]


def number(answer):
    """The value of a reference that is one number, with currency or in an accountant's brackets; None of any other."""
    texts = answer if isinstance(answer, list) else [answer]
    text = str(texts[0]).strip().lstrip("$£€").replace(",", "").rstrip("%").strip()
    in_brackets = text.startswith("(") and text.endswith(")")
    try:
        value = float(text.strip("()"))
    except ValueError:
        return None
    return (-value if in_brackets else value) if len(texts) == 1 else None


def written(value, scale):
    digits = f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{digits} {scale}".strip()


def pairs(rows):
    """Reference, answer, what the answer is, and whether it is right. A reference of texts is a list, as in the file."""
    for row in rows:
        value, scale = number(row["answer"]), row["scale"]
        if value is None:
            texts = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            yield texts, ", ".join(map(str, texts)), "itself", True
            continue
        gold = written(value, scale)
        yield gold, gold, "itself", True
        if scale in OTHER_SCALE:
            yield gold, written(value, OTHER_SCALE[scale]), "another scale", value == 0
        if value:
            yield gold, written(-value, scale), "the other sign", False
        yield gold, written(value + 1, scale), "one more", False


def verdicts(mindgap, kind, options, cases):
    lines = "".join(json.dumps({"gold": gold, "response": response}) + "\n" for gold, response in cases)
    flags = [word for option in options for word in ("--option", option)]
    command = [mindgap, "judge", "-", "--judge", kind, *flags]
    done = subprocess.run(command, input=lines, check=True, capture_output=True, text=True)
    return [json.loads(line)["verdict"] == "correct" for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tatqa", type=pathlib.Path, required=True)
    parser.add_argument("--mindgap", default="mindgap", help="the program")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.tatqa.read_text("utf-8").splitlines()]
    numbers = [row for row in rows if number(row["answer"]) is not None]
    print(f"{len(rows)} references, {len(numbers)} of them one number")
    for form in ["So it is \\boxed{%s}.", "It is %s."]:
        for kind, options in JUDGES:
            # Words are no numbers, and prose does not say where they begin.
            judged = rows if kind == "math" and "boxed" in form else numbers
            made = list(pairs(judged))
            said = verdicts(args.mindgap, kind, options, [(gold, form % answer) for gold, answer, _, _ in made])
            tally = Counter()
            for (_, _, what, is_right), is_correct in zip(made, said, strict=True):
                tally[what, "pairs"] += 1
                tally[what, "accepted wrongly"] += is_correct and not is_right
                tally[what, "rejected wrongly"] += is_right and not is_correct
            print(f"{form} judged by {kind} {' '.join(options)}")
            for what in ["itself", "another scale", "the other sign", "one more"]:
                counts = [f"{tally[what, of]} {of}" for of in ["pairs", "accepted wrongly", "rejected wrongly"]]
                print(f"  {what}: " + ", ".join(counts))


if __name__ == "__main__":
    main()
