"""PSNR: the one measure of how near two pictures, or what two engines make of one, are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

EQUAL_DB = 200.0
"""What stands for equal ones, as JSON knows no infinity; minus this for values that are not finite."""


def psnr_db(expected: ArrayLike, got: ArrayLike, peak: float) -> float:
    """Decibels, in FP64, of two arrays or CPU tensors of one shape. peak : width of the value range."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.mean(np.square(np.asarray(got, np.float64) - np.asarray(expected, np.float64))))
    if not math.isfinite(error):
        return -EQUAL_DB
    return min(EQUAL_DB, 10 * math.log10(peak**2 / error)) if error else EQUAL_DB


def added_up(decibels: Iterable[float]) -> list[float]:
    """PSNR of the first one, two, ... of these together, if their squared errors add up."""
    return [-10 * math.log10(error) for error in itertools.accumulate(10 ** (-one / 10) for one in decibels)]
