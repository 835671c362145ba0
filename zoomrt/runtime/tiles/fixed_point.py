"""Finished pixels in 16 bits: half the memory of the engine's floats, for those that have to wait.

Values may lie outside [0, 1]: networks overshoot, and the colour step of some models looks at that. White is 16384, so
there is room for -2 to 2, at 1/64 of an 8-bit step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FIXED_WHITE = 1 << 14


def to_codes(values: NDArray[np.float32], out: NDArray[Any]) -> None:
    """Round values into `out`, integers of the same shape, and cut them to what it holds; they are overwritten."""
    np.rint(values, out=values)
    limits = np.iinfo(out.dtype)
    np.clip(values, limits.min, limits.max, out=values)
    np.copyto(out, values, casting="unsafe")
