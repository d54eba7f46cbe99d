"""Log-probs of 50 real texts beside transformers, by the types that weights are held in.

    pip install torch==2.13.0 transformers==5.24.0
    python tests/peers/texts.py FOLDER [--mindgap target/release/mindgap] [--ours f32 bf16] [--theirs float32 bfloat16]

The texts are paragraphs of this project's own pages. FOLDER is a policy in Hugging Face layout. Prints the differences per token.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
COUNT = 50


def texts():
    """Paragraphs of some length: no tables, no code."""
    found = []
    for page in sorted(ROOT.glob("docs/**/*.md")):
        for paragraph in page.read_text().split("\n\n"):
            words = paragraph.split()
            if len(words) > 60 and not paragraph.lstrip().startswith(("|", "```", "#", "-")):
                found.append((" ".join(words[:8]), " " + " ".join(words[8:150])))
    return found[:: max(len(found) // COUNT, 1)][:COUNT]


def ours(args, rows, weights):
    lines = "\n".join(json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows)
    command = [args.mindgap, "score", "--policy", args.folder, "--raw", "--weights", weights, "-"]
    said = subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in said.splitlines()]


def theirs(args, rows, scored, dtype):
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    model = AutoModelForCausalLM.from_pretrained(args.folder, dtype=getattr(torch, dtype)).eval()
    values = []
    with torch.no_grad():
        for (prompt, _), row in zip(rows, scored):
            prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
            assert len(prompt_ids) == row["prompt_token_count"]
            ids = torch.tensor([prompt_ids + row["token_ids"]])
            log_probs = model(ids).logits[0].float().log_softmax(-1)
            places = range(len(prompt_ids) - 1, ids.shape[1] - 1)
            values.append([log_probs[place, ids[0, place + 1]].item() for place in places])
    return values


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--mindgap", default=str(ROOT / "target/release/mindgap"))
    parser.add_argument("--ours", nargs="*", default=["f32", "bf16"])
    parser.add_argument("--theirs", nargs="*", default=["float32", "bfloat16"])
    args = parser.parse_args()
    rows = texts()
    assert len(rows) == COUNT, len(rows)
    made = {f"ours {weights}": ours(args, rows, weights) for weights in args.ours}
    scored = next(iter(made.values()))
    values = {name: [row["logprob_policy"] for row in said] for name, said in made.items()}
    values |= {f"transformers {dtype}": theirs(args, rows, scored, dtype) for dtype in args.theirs}
    names = list(values)
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            differences = [abs(a - b) for x, y in zip(values[first], values[second]) for a, b in zip(x, y)]
            print(
                f"{first} and {second}: {len(differences)} tokens of {COUNT} texts, "
                f"largest {max(differences):.2e}, mean {statistics.fmean(differences):.2e}"
            )


if __name__ == "__main__":
    main()
