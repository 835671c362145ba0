"""What a zoom session may be asked for: numbers that make sense, and that the clocks and arrays below can hold."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from zoomrt.errors import UsageError, unknown_name
from zoomrt.runtime.checks import brief, within
from zoomrt.runtime.frames.pixel_formats import LAYOUTS

_MAX_SIDE = 16384
_MAX_BUDGET_MS = 1_000_000
"""17 minutes: far above any frame's time, far below what overflows a system's clock."""
_MAX_WAIT_S = 4e6
"""46 days: on Windows no wait may be longer (threading.TIMEOUT_MAX)."""


def check_settings(
    output_size: object, budget_ms: object, output_format: object, cache_bytes: object, tolerance: object, noise: object
) -> None:
    """UsageError unless `ZoomSession` can work like this; arguments as there."""
    if output_format is not None and output_format not in LAYOUTS:
        raise unknown_name("pixel format", str(output_format), LAYOUTS)
    sides = tuple(output_size) if isinstance(output_size, (tuple, list, np.ndarray)) else ()
    fits = len(sides) == 2 and all(isinstance(side, Integral) and within(side, 1, _MAX_SIDE) for side in sides)
    needed = f"two whole sides of 1 to {_MAX_SIDE} pixels, (width, height)"
    _require(fits, "output_size", output_size, needed)
    fits = budget_ms is None or (within(budget_ms, 0, _MAX_BUDGET_MS) and budget_ms != 0)
    _require(fits, "budget_ms", budget_ms, f"more than 0, at most {_MAX_BUDGET_MS}, or None for no limit")
    _require(within(cache_bytes, 0), "cache_bytes", cache_bytes, "0 or more")
    _require(within(tolerance, 0, 1), "still_tolerance", tolerance, "0 to 1")
    _require(within(noise, 0, 1), "noise", noise, "0 to 1")


def check_wait(timeout_s: object) -> None:
    """UsageError unless a thread can wait for so long."""
    fits = timeout_s is None or within(timeout_s, 0, _MAX_WAIT_S)
    _require(fits, "timeout_s", timeout_s, f"0 to {_MAX_WAIT_S:.0f}, or None for no limit")


def _require(fits: bool, name: str, seen: object, needed: str) -> None:
    if not fits:
        raise UsageError(f"cannot zoom with this {name}", seen=brief(seen), needed=needed, remedy="Change it.")
