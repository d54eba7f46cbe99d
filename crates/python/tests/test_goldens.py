"""The golden cases of the verifier, as the Rust tests read them (`crates/math/tests/golden`)."""

import json
from pathlib import Path
from typing import Any

import mindgap

GOLDEN = Path(__file__).parents[2] / "math" / "tests" / "golden"


def cases() -> list[dict[str, Any]]:
    lines = (
        line
        for path in sorted(GOLDEN.glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    )
    return [json.loads(line) for line in lines]


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """A kind and its settings, `numeric rel_tol=0.01 abs_tol=0`; mathematics when nothing is said."""
    kind, *words = case.get("judge", "math").split(" ")
    return {"kind": kind, **dict(word.split("=") for word in words)}


def test_verdicts_and_methods() -> None:
    all_cases = cases()
    wrong = []
    for case in all_cases:
        found = mindgap.judge(case["gold"], case["response"], **settings(case))
        verified = mindgap.verify(case["gold"], case["response"], **settings(case))
        if (found.verdict, found.method, verified) != (
            case["verdict"],
            case["method"],
            found.correct,
        ):
            wrong.append((case, found))
    assert len(all_cases) > 300
    assert wrong == []


def test_batches() -> None:
    plain = [case for case in cases() if "judge" not in case] * 5
    golds, responses = [case["gold"] for case in plain], [case["response"] for case in plain]
    alone = [mindgap.judge(gold, response) for gold, response in zip(golds, responses, strict=True)]
    for threads in (None, 1, 2, 7):
        assert mindgap.judge_batch(golds, responses, threads=threads) == alone
