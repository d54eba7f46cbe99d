"""Is this response's final answer the reference answer?

>>> import mindgap
>>> mindgap.verify(r"\\frac{1}{2}", r"Half of it remains: $\\boxed{0.5}$.")
True
>>> mindgap.judge("24 million", "It was $\\\\boxed{24}$.", scale="from_gold").verdict
'correct'

Rewards for trainers: `mindgap.trl`, `mindgap.verl`; for evaluations: `mindgap.lm_eval`.
"""

from mindgap._mindgap import (
    JUDGE_VERSION,
    OPTIONS,
    Judgement,
    __version__,
    equal,
    extract,
    is_readable,
    judge,
    judge_batch,
    parse,
    stated_answer,
    verify,
)

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
