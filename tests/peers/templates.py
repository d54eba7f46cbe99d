#!/usr/bin/env python3
"""Chat templates: the texts this crate renders beside those of transformers.

    cargo build --release --example render_chat
    python tests/peers/templates.py FOLDER [--ours target/release/examples/render_chat]
    python tests/peers/templates.py --golden crates/lm/src/model/chat/constructs.json

FOLDER holds templates as files `*.jinja`. Each is rendered with several conversations by both; texts are compared byte for
byte. A template that refuses a conversation must be refused by both. The date is the fixed one on both sides. With
--golden, the texts of that file's small templates are written anew. Needs transformers with Jinja2. Exit code 1 where
anything differs.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template as compiled

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
USER = "What is 2+3? 数学 {x} <b>&\"q\" it's"
ANSWER = "<think>\nTwo and three.\n</think>\n\nIt is \\boxed{5}."


def turn(role, content):
    return {"role": role, "content": content}


# Name, messages, whether the answer is asked for, further variables.
CONVERSATIONS = [
    ("user", [turn("user", USER)], True, {}),
    ("white space", [turn("user", "  Leading and trailing white space?\n\n")], True, {}),
    ("system", [turn("system", " Be brief. "), turn("user", USER)], True, {}),
    ("answered", [turn("user", USER), turn("assistant", ANSWER)], False, {}),
    ("turns", [turn("system", "Be brief."), turn("user", "1?"), turn("assistant", ANSWER), turn("user", USER)], True, {}),
    ("no thinking", [turn("user", USER)], True, {"enable_thinking": False}),
    ("thinking", [turn("user", USER), turn("assistant", "No tags."), turn("user", "And?")], True, {"enable_thinking": True}),
    ("unasked", [turn("user", USER)], False, {}),
]


def fixed_date(pattern):
    return datetime.datetime(2024, 7, 26).strftime(pattern)


def theirs(template, messages, generation, variables):
    try:
        template = compiled(template)
        template.environment.globals["strftime_now"] = template.globals["strftime_now"] = fixed_date
        text = template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=generation, **{**TOKENS, **variables}
        )
        return {"text": text}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def cases(folder):
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        for name, messages, generation, variables in CONVERSATIONS:
            yield path.stem, name, path.read_text(), messages, generation, variables


def golden(path):
    data = json.loads(path.read_text())
    for case in data["cases"]:
        case["text"] = theirs(case["template"], data["messages"], True, {}).get("text")
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(data['cases'])} templates")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--golden", type=pathlib.Path)
    parser.add_argument("--ours", default="target/release/examples/render_chat")
    args = parser.parse_args()
    if args.golden:
        return golden(args.golden)
    rows = list(cases(args.folder))
    lines = "".join(
        json.dumps({"template": source, "tokens": TOKENS, "messages": messages, "generation": generation, "kwargs": variables})
        + "\n"
        for _, _, source, messages, generation, variables in rows
    )
    done = subprocess.run([args.ours], input=lines, capture_output=True, text=True, check=True)
    ours = [json.loads(line) for line in done.stdout.strip().split("\n")]
    equal = refused = 0
    templates = {row[0]: True for row in rows}
    for row, mine in zip(rows, ours, strict=True):
        stem, name, source, messages, generation, variables = row
        other = theirs(source, messages, generation, variables)
        both_refuse = "error" in mine and "error" in other
        if both_refuse or mine.get("text", mine) == other.get("text", other):
            equal, refused = equal + 1, refused + both_refuse
            continue
        templates[stem] = False
        print(f"{stem}, {name}\n  ours:   {json.dumps(mine, ensure_ascii=False)}\n  theirs: {json.dumps(other, ensure_ascii=False)}")
    whole = sum(templates.values())
    print(f"{equal} of {len(rows)} texts equal, {refused} of them refused by both; {whole} of {len(templates)} templates in all")
    sys.exit(whole != len(templates))


if __name__ == "__main__":
    main()
