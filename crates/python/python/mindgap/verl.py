"""A reward function for verl.

custom_reward_function.path=pkg://mindgap.verl
custom_reward_function.name=compute_score
+custom_reward_function.reward_kwargs.options.scale=from_gold
"""

from collections.abc import Mapping
from typing import Any

from mindgap import judge
from mindgap._references import reference


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """The score of a response, 1.0 or 0.0, with the evidence that verl logs beside it.

    `ground_truth` is the reference answer, or a solution that states it. `options` are options of the judge. `data_source`,
    `extra_info` and what else verl passes are not looked at.

    Raises `TypeError` for a reference that is neither text nor a number, `ValueError` for an unknown option.
    """
    found = judge(reference(ground_truth), solution_str, **(options or {}))
    score = float(found.correct)
    return {
        "score": score,
        "acc": score,
        "verdict": found.verdict,
        "pred": found.extracted or "",
        "method": found.method,
    }
