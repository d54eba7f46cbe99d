"""Results for tasks of lm-evaluation-harness. In the file `utils.py` beside a task's YAML:

    from mindgap.lm_eval import process_results

and in the YAML `process_results: !function utils.process_results`, with `exact_match` in `metric_list`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mindgap import judge
from mindgap._references import reference

Results = Callable[[dict[str, Any], Sequence[Any]], dict[str, float]]


def process_results_for(
    gold: str | Callable[[dict[str, Any]], Any], metric: str = "exact_match", **options: Any
) -> Results:
    """A `process_results` for documents whose reference is in the field `gold`, or what `gold` makes of a document, with
    options of the judge: `process_results = process_results_for("target", scale="from_gold")`.

    Raises `ValueError` for an unknown option.
    """
    judge("", "", **options)  # a wrong option is told here and not at the end of an evaluation

    def process_results(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """The share of the responses that are correct."""
        wanted = reference(gold(doc) if callable(gold) else doc[gold])
        texts = [
            text for result in results for text in ([result] if isinstance(result, str) else result)
        ]
        correct = [judge(wanted, text, **options).correct for text in texts]
        return {metric: sum(correct) / len(correct) if correct else 0.0}

    return process_results


process_results = process_results_for("answer")
