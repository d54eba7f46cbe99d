"""What data sets keep as a reference, as text."""

from typing import Any

from mindgap import stated_answer


def reference(value: Any) -> str:
    """The reference answer in a value of a data set: text, a number, or a worked solution that states it.

    Raises `TypeError` for anything else.
    """
    if isinstance(value, str):
        return stated_answer(value) or value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise TypeError(
        f"a reference is a string or a number, not `{type(value).__name__}`: {value!r:.100}"
    )
