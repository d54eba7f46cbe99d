"""A judge for HumanEval: one case of JSON in, one verdict out. It runs what the policy wrote, so run it in a sandbox.

The tests run in a process of their own. Only one that gets through all of them says the word that was made up for it, so
neither leaving early nor printing is a way to be correct. (Code that looks for the word in the frames below it finds it.)"""

import json
import re
import secrets
import subprocess
import sys


# The word comes behind the source.
RUNNER = r"""
import sys
source, word = sys.stdin.read().rsplit("\n", 1)
exec(compile(source, "tests", "exec"), {"__name__": "tests"})
print("\n" + word)
"""


def answer(verdict, method, extracted=None):
    print(json.dumps({"verdict": verdict, "method": method, "extracted": extracted}))


def main():
    case = json.loads(sys.stdin.readline())
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)```", case["response"], re.S)
    code = blocks[-1] if blocks else case["response"]
    if not code.strip():
        return answer("no_answer", "empty")
    name = case["meta"]["entry_point"]
    # A function of its own, or what comes behind the prompt's last line.
    whole = re.search(rf"^def {re.escape(name)}\b", code, re.M)
    head = re.split(rf"^def {re.escape(name)}\b", case["question"], flags=re.M)[0] if whole else case["question"]
    program = f"{head}\n{code}" if whole else head + code
    try:
        compile(program, "answer", "exec")
    except (SyntaxError, ValueError) as error:
        return answer("incorrect", f"syntax: {error.__class__.__name__}", code)
    word = secrets.token_hex(16)
    tests = f"{program}\n\n{case['gold']}\n\ncheck({name})\n"
    done = subprocess.run([sys.executable, "-c", RUNNER], input=f"{tests}\n{word}", capture_output=True, text=True)
    if done.returncode == 0 and done.stdout.endswith(f"\n{word}\n"):
        return answer("correct", "tests", code)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    answer("incorrect", (said[-1] if said else f"exit {done.returncode}")[:200], code)


main()
