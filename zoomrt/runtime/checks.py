"""Numbers that callers hand in: whether they are in range, and how they read in a message, however absurd they are."""

from __future__ import annotations

import math
from numbers import Real

_LONGEST = 60  # characters of a value in a message


def within(value: object, low: float, high: float = math.inf) -> bool:
    """Whether a value is a number, of Python or numpy, from `low` to `high`; not-a-number is not.

    Compared as it is: a whole number of 400 digits has no float.
    """
    return isinstance(value, Real) and bool(low <= value <= high)  # type: ignore[operator]


def brief(value: object) -> str:
    """A value for a message, in 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        text = f"{type(value).__name__} with too many digits to show"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
