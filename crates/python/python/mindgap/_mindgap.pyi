from collections.abc import Iterable
from typing import Literal, TypeAlias, TypedDict, final

from typing_extensions import Unpack

_Kind: TypeAlias = Literal["math", "exact", "numeric", "choice", "json", "tool_call", "program"]
_Verdict: TypeAlias = Literal["correct", "incorrect", "no_answer", "unparsed", "budget_exceeded"]

class _Conventions(TypedDict, total=False):
    """Options of the judge `math`: what mathematics alone does not settle."""

    units_optional: bool
    """`126` is `126 hours`; two units must agree."""
    scale: Literal["value", "ignore", "from_gold"]
    """What `million`, `k` and the like do: multiply; nothing where one side has none; nothing where the response has none."""
    percent_as_number: bool
    """The reference `28\\%` accepts 28."""
    percent: Literal["value", "sign_optional"]
    """Whether the reference 20 accepts `20\\%`."""
    accounting_negatives: bool
    """`(12.6)` is -12.6."""
    degrees_optional: bool
    """45 is 45 degrees."""
    round_to_gold: bool
    """70/9 is accepted for 7.78."""
    rounded_decimals: bool
    """0.333333 is accepted for 1/3."""
    interval_as_inequality: bool
    """`(1, 2)` is `1 < x < 2`."""
    list_as_tuple: bool
    """`3, 2` is `(3, 2)`."""
    square_lists: bool
    """`[1, 2, 3]` is `1, 2, 3`."""
    ordered_lists: bool
    """The order of a list without brackets matters."""
    assignment_as_value: bool
    """`x = 5` is 5."""
    named_sums: bool
    """`m + n = 293` is 293."""
    qualifiers_optional: bool
    """Words behind an answer that qualify it may be left out."""
    combinations: bool
    """`C_6^2` is 15."""
    choice_letters: bool
    """`(D) 25` is D where the reference is a letter."""
    base_optional: bool
    """`4210` is `4210_5`."""
    times_across_fonts: bool
    """A time set as text is one that is half a formula."""
    join_boxes: bool
    """Boxes side by side are one answer."""
    step_budget: int
    """Steps of one comparison."""

class _Options(_Conventions, total=False):
    """Options of every kind of judge; `numeric` takes `scale`, `percent` and `accounting_negatives` too."""

    rel_tol: float
    """Of `numeric`: tolerance relative to the reference, 1e-6 unless given."""
    abs_tol: float
    """Of `numeric`: absolute tolerance, 0 unless given."""
    ordered: bool
    """Of `tool_call`: the order of calls counts, unless given otherwise."""
    text: bool
    """Of `program`: the reference's own steps are asked for."""

__all__ = [
    "JUDGE_VERSION",
    "OPTIONS",
    "Judgement",
    "__version__",
    "equal",
    "extract",
    "is_readable",
    "judge",
    "judge_batch",
    "parse",
    "stated_answer",
    "verify",
]

JUDGE_VERSION: int
"""Moves whenever a verdict can change."""

OPTIONS: dict[str, bool | int | str]
"""The options of the judge `math` with their defaults."""

__version__: str

@final
class Judgement:
    """A verdict with its evidence."""

    __match_args__ = ("verdict", "extracted", "method")
    def __new__(cls, verdict: str, extracted: str | None, method: str) -> Judgement: ...
    @property
    def correct(self) -> bool:
        """True for the verdict `correct`."""
    @property
    def verdict(self) -> _Verdict:
        """`correct`, `incorrect`, `no_answer`, `unparsed` or `budget_exceeded`."""
    @property
    def extracted(self) -> str | None:
        """The final answer found in the response."""
    @property
    def method(self) -> str:
        """Where the answer was found and how equality was decided: `boxed/rational`."""
    def __hash__(self) -> int: ...

def verify(gold: str, answer: str, *, kind: _Kind = "math", **options: Unpack[_Options]) -> bool:
    """True when the final answer of a response is the reference answer.

    `gold` is an answer (`\\frac{1}{2}`, `(B)`, `24 million`) or a solution with a box; `stated_answer` takes it out of other
    solutions. `answer` is a whole response, or an answer alone.

    Raises `ValueError` for an unknown kind, option or value.
    """

def judge(
    gold: str, response: str, *, kind: _Kind = "math", **options: Unpack[_Options]
) -> Judgement:
    """The verdict on one response, with its evidence. Arguments and errors as of `verify`."""

def judge_batch(
    golds: Iterable[str],
    responses: Iterable[str],
    *,
    threads: int | None = None,
    kind: _Kind = "math",
    **options: Unpack[_Options],
) -> list[Judgement]:
    """The verdict on every response against the reference in the same place.

    The work is done by `threads` threads (as many as the process may use CPUs, unless given) without the interpreter's lock.
    They end with the call, so it is safe behind a fork. Control-C interrupts.

    Raises `TypeError` for an item that is no string, naming it, and `ValueError` as `verify` does, or when the lengths differ.
    """

def extract(response: str) -> str | None:
    """The final answer in a response, as it stands there; None where there is none, or only the beginning of one."""

def parse(answer: str) -> str | None:
    """An answer in the judge's own notation; None where it cannot be read."""

def equal(gold: str, answer: str, **options: Unpack[_Conventions]) -> bool:
    """True when two answers are the same; nothing is extracted. Errors as of `verify`."""

def stated_answer(solution: str) -> str | None:
    """The answer that a worked solution states in a box, behind `####` or in words; None where it states none."""

def is_readable(gold: str) -> bool:
    """True when a reference is read as mathematics, a choice or words, and not only compared as a string."""
