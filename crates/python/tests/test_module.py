"""What the module promises beside its verdicts."""

import _thread
import ast
import doctest
import multiprocessing
import pickle
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mindgap
import pytest

ROOT = Path(__file__).parents[3]
STUB = Path(mindgap.__file__).parent / "_mindgap.pyi"


def test_version() -> None:
    manifest = (ROOT / "Cargo.toml").read_text("utf-8")
    assert f'version = "{mindgap.__version__}"' in manifest, (
        "crates/python has the version of the workspace"
    )
    math = (ROOT / "crates/math/src/lib.rs").read_text("utf-8")
    assert f"JUDGE_VERSION: u32 = {mindgap.JUDGE_VERSION};" in math


def test_examples() -> None:
    assert doctest.testmod(mindgap) == (0, 3)


def test_functions() -> None:
    assert mindgap.equal("x = 3", "3") and not mindgap.equal("52 cm", "52 km")
    assert mindgap.equal("24 million", "24", scale="ignore")
    assert mindgap.extract("<think>3?</think> The final answer is $x = 4$.") == "x = 4"
    assert mindgap.extract("\\boxed{\\frac{1}{") is None
    assert mindgap.parse("x \\div \\sqrt{2}") == "\\frac{x}{\\sqrt{2}}"
    assert mindgap.parse("\\frac{1}{") is None
    assert mindgap.stated_answer("10 + 8 = 18\n#### 18") == "18"
    assert mindgap.stated_answer("18") is None
    assert mindgap.is_readable("\\frac12") and not mindgap.is_readable("\\frac{1}{")


def test_judgements() -> None:
    found = mindgap.judge("1/2", "It is $\\boxed{0.5}$.")
    assert (found.correct, found.verdict, found.extracted, found.method) == (
        True,
        "correct",
        "0.5",
        "boxed/rational",
    )
    assert repr(found) == "Judgement('correct', '0.5', 'boxed/rational')"
    assert (
        found
        == mindgap.Judgement("correct", "0.5", "boxed/rational")
        != mindgap.judge("1/2", "\\boxed{1}")
    )
    assert {found: 1}[pickle.loads(pickle.dumps(found))] == 1
    match mindgap.judge("1/2", ""):
        case mindgap.Judgement(verdict, extracted, _):
            assert (verdict, extracted) == ("no_answer", None)
    with pytest.raises(ValueError, match="there is no verdict `right`; there are correct"):
        mindgap.Judgement("right", None, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": "value"}, "there is no option `scales`; there are scale"),
        (
            {"scale": "gold"},
            "option `scale` has no value `gold`: it is one of value, ignore, from_gold",
        ),
        ({"units_optional": "no"}, "one of true, false"),
        ({"step_budget": -1}, "a whole number of steps, not `-1`"),
        (
            {"kind": "maths"},
            "there is no judge `maths`; there are math, exact, numeric, choice, json, tool_call, program",
        ),
        ({"kind": "exact", "scale": "value"}, "has no option `scale`; it has none"),
        ({"kind": "numeric", "rel_tol": float("nan")}, "`rel_tol` is `nan`, it must be 0 or more"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    for call in (mindgap.verify, mindgap.judge):
        with pytest.raises(ValueError, match=message):
            call("1", "1", **options)
    with pytest.raises(ValueError, match=message):
        mindgap.judge_batch([], [], **options)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="a bool, a number or a string, not `list`"):
        mindgap.verify("1", "1", scale=["value"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`responses\\[1\\]` is a `int`; it must be a string"):
        mindgap.judge_batch(["1", "2"], ["1", 2])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="`golds` is one string; pass a list of strings"):
        mindgap.judge_batch("1", ["1"])
    with pytest.raises(ValueError, match="2 golds and 1 responses"):
        mindgap.judge_batch(["1", "2"], ["1"])
    with pytest.raises((TypeError, ValueError)):
        mindgap.judge_batch(["1"], ["1"], threads=0)


def test_any_text_has_a_verdict() -> None:
    texts = [
        "",
        "\0",
        "\ud83d",
        "\\boxed{\ud800}",
        "{" * 100_000,
        "\\frac" * 5_000,
        "\\boxed{" * 3_000,
        "9^" * 900 + "9",
    ]
    for text in texts:
        assert mindgap.judge("5", text).verdict != "correct"
        assert isinstance(mindgap.parse(text), str | None)
    assert len(mindgap.judge_batch(texts, texts)) == len(texts)


def test_threads() -> None:
    """Verdicts asked for by many threads at once are those asked for alone."""
    pairs = [(str(i % 7), f"so it is $\\boxed{{{i % 5}}}$") for i in range(200)]
    alone = [mindgap.judge(*pair) for pair in pairs]
    found: list[list[mindgap.Judgement]] = []
    threads = [
        threading.Thread(target=lambda: found.append([mindgap.judge(*pair) for pair in pairs]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [alone] * 8


def big_batch(started: threading.Event, rows: int) -> tuple[list[str], Any]:
    """Golds, and responses of which the last one announces that the work begins."""

    def responses() -> Any:
        yield from ["The final answer is $\\sqrt{2} + \\sqrt{3} + \\pi^2$."] * (rows - 1)
        started.set()
        yield "3"

    return ["\\sqrt{2} + \\sqrt{3} + e^3"] * rows, responses()


def test_batches_release_the_lock() -> None:
    """Other threads run while a batch is judged. None is made to hand over the lock before it wants to."""
    started, turns = threading.Event(), 0
    golds, responses = big_batch(started, 4_000)
    worker = threading.Thread(target=mindgap.judge_batch, args=(golds, responses))
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1_000)
    try:
        worker.start()
        started.wait()
        while worker.is_alive():
            turns += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(usual)
    assert turns > 10


def test_batches_are_interrupted() -> None:
    """A batch ends with the user's interrupt, not behind it."""
    started = threading.Event()
    golds, responses = big_batch(started, 60_000)

    def interrupt() -> None:
        started.wait()
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    found: list[list[mindgap.Judgement]] = []
    with pytest.raises(KeyboardInterrupt):
        # no line of Python between the batch and its place in the list, where the interrupt could be told
        found.extend(map(mindgap.judge_batch, [golds], [responses]))
    assert found == []


def child_verdicts() -> list[str]:
    return [found.verdict for found in mindgap.judge_batch(["5"] * 500, ["5", "6"] * 250)]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forks() -> None:
    """A batch in a forked process ends, whatever the parent did before."""
    before = child_verdicts()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.apply_async(child_verdicts).get(timeout=60) == before


def test_signals_are_left_alone() -> None:
    numbers = [number for number in signal.valid_signals() if isinstance(number, signal.Signals)]
    before = {number: signal.getsignal(number) for number in numbers}
    child_verdicts()
    assert {number: signal.getsignal(number) for number in numbers} == before


def test_stub() -> None:
    """The stub names what the module has, and every option."""
    tree = ast.parse(STUB.read_text("utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    fields = {
        name: {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        for name, node in classes.items()
    }
    assert fields["_Conventions"] == mindgap.OPTIONS.keys()
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert functions == {name for name in mindgap.__all__ if name[0].islower()}


def test_defaults() -> None:
    assert mindgap.OPTIONS["scale"] == "value" and mindgap.OPTIONS["named_sums"] is True
    assert mindgap.verify("24", "24", **mindgap.OPTIONS)  # type: ignore[arg-type]
