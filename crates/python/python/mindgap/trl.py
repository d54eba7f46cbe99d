"""Rewards for TRL's trainers.

    from mindgap.trl import accuracy_reward
    trainer = GRPOTrainer(..., reward_funcs=accuracy_reward)

The data set has a column `solution`: the reference answer, or a solution that states it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mindgap import is_readable, judge_batch
from mindgap._references import reference

Completion = str | Sequence[dict[str, Any]]


class AccuracyReward:
    """`accuracy_reward` with options of the judge: `AccuracyReward(scale="from_gold")`.

    A class and not a closure, so that it can be pickled where TRL sends it to another process.
    """

    __name__ = "accuracy_reward"

    def __init__(self, **options: Any) -> None:
        judge_batch([], [], **options)  # a wrong option is told here and not in training
        self.options = options

    def __call__(
        self,
        completions: Sequence[Completion],
        solution: Sequence[Any],
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        golds = [None if value is None else reference(value) for value in solution]
        found = judge_batch(
            [gold or "" for gold in golds],
            [_text(completion) for completion in completions],
            **self.options,
        )
        if log_extra is not None:
            log_extra("solution", golds)
            log_extra("extracted", [judgement.extracted for judgement in found])
            log_extra("verdict", [judgement.verdict for judgement in found])
        return [
            float(judgement.correct) if gold is not None and is_readable(gold) else None
            for gold, judgement in zip(golds, found, strict=True)
        ]


def accuracy_reward(
    completions: Sequence[Completion],
    solution: Sequence[Any],
    log_extra: Callable[[str, list[Any]], None] | None = None,
    **kwargs: Any,
) -> list[float | None]:
    """1.0 for a completion whose final answer is the reference answer, 0.0 for any other, None where the reference cannot be
    read: TRL skips such rows.

    `completions` are texts or conversations, of which the last message counts. `kwargs` are the data set's other columns and
    what else TRL passes; they are not looked at. Extracted answers and verdicts go to TRL's table of completions.

    Raises `TypeError` for a solution that is neither text nor a number nor None.
    """
    return _default(completions, solution, log_extra)


_default = AccuracyReward()


def _text(completion: Completion) -> str:
    """The text of a completion: its last message, of whose parts the texts."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or [])
