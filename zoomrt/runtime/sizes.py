"""Sizes: how large frames and results may be, which result was asked for, and how often the network must run for it.

A size is (width, height) wherever a user writes it, as in Pillow; arrays are (H, W) or (H, W, C).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral

from zoomrt.errors import InputError, UsageError

MAX_SIDE = 65535
"""Longest side of a frame, LR pixels: that of a JPEG."""
MAX_PIXELS = 2**28
"""Most pixels of a frame: 268 million, where phones make 200; at x4 the RGB output is 12.9 GB."""
MAX_DEVICE_SIDE = 16384
MAX_DEVICE_PIXELS = 8192 * 8192
"""The same of a frame that goes onto a GPU whole, twice DCI 8K: larger ones are cut into tiles before."""
MAX_RESULT_SIDE = 4 * MAX_SIDE
MAX_RESULT_PIXELS = 16 * MAX_PIXELS
"""Of a result whose size is asked for: what the largest frame gives at x4."""


@dataclass(frozen=True)
class ResultSize:
    """One of three ways to say how large results are to be.

    scale : pixels of the result per pixel of the picture, each axis. size : (width, height), exactly; only for pictures
    of that shape. longest : of the longer side, in pixels; the other follows.
    """

    scale: Fraction | None = None
    size: tuple[int, int] | None = None
    longest: int | None = None

    def of(self, width: int, height: int, picture: str = "this picture") -> tuple[int, int]:
        """(width, height) of the result for a picture; sides are rounded to the nearest pixel, and at least 1.

        picture : its name, for messages.

        Raises InputError for a result that is too large, and for a picture that `size` would stretch: by more than one
        pixel more or less, on one side of either picture, would explain.
        """
        if self.size is not None:
            wide, high = self.size
            if abs(wide * height - high * width) > max(wide, high, width, height):
                raise InputError(
                    f"cannot make {picture} {wide}x{high} without stretching it",
                    seen=f"{width}x{height} pixels, {width / height:.4g} to 1",
                    needed=f"{wide / high:.4g} to 1",
                    remedy=f"Crop it first, or use --longest {max(wide, high)} in place of --size.",
                )
            return wide, high
        ratio = self.scale if self.longest is None else Fraction(self.longest, max(width, height))
        assert ratio is not None
        wide, high = (max(int(side * ratio + Fraction(1, 2)), 1) for side in (width, height))
        check_result_size(wide, high, picture)
        return wide, high


def bands(length: int, step: int) -> Iterator[slice]:
    """An axis in consecutive parts, `step` long, at least 1, but for the last."""
    step = max(step, 1)
    return (slice(first, min(first + step, length)) for first in range(0, length, step))


def check_size(height: int, width: int, what: str) -> None:
    """InputError unless a frame of that many pixels can be upscaled; `what` opens the message."""
    seen = f"{width}x{height} pixels"
    if height < 1 or width < 1:
        raise InputError(what, seen=seen, needed="at least 1x1", remedy="Check how this picture was made.")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        needed = f"at most {MAX_SIDE} pixels a side and {MAX_PIXELS // 10**6} million in all"
        raise InputError(what, seen=seen, needed=needed, remedy="Cut the picture into parts first.")


def fits_device(height: int, width: int) -> bool:
    """Whether a frame of that many pixels may go onto a GPU whole."""
    return max(height, width) <= MAX_DEVICE_SIDE and height * width <= MAX_DEVICE_PIXELS


def check_result_size(width: int, height: int, picture: str = "this picture") -> None:
    """InputError unless a result may be that large."""
    if max(width, height) > MAX_RESULT_SIDE or width * height > MAX_RESULT_PIXELS:
        raise InputError(
            f"cannot make {picture} so large",
            seen=f"{width}x{height} pixels",
            needed=f"at most {MAX_RESULT_SIDE} pixels a side and {MAX_RESULT_PIXELS // 10**6} million in all",
            remedy="Ask for a smaller one.",
        )


def result_of_each_pass(
    frame: tuple[int, int], scale: int, size: object, picture: str = "this picture"
) -> list[tuple[int, int]]:
    """(height, width) of what each pass through the network gives, the last one resampled to the size asked for.

    frame : (height, width). scale : the network's. size : (width, height); None is one pass, not resampled. A network
    runs as often as its own scale needs to reach the size; one pixel short of it is near enough.
    picture : its name, for messages.

    Raises UsageError for a size that is not two whole numbers from 1 on, InputError for one that is too large or that
    cannot be reached.
    """
    height, width = frame
    if size is None:
        return [(height * scale, width * scale)]
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) >= 1 for side in sides):
        needed = "two whole numbers of pixels from 1 on, (width, height)"
        raise UsageError("cannot upscale to this size", seen=repr(size), needed=needed, remedy="Change it.")
    wide, high = (int(side) for side in sides)
    check_result_size(wide, high, picture)
    found = [(height * scale, width * scale)]
    while high > found[-1][0] + 1 or wide > found[-1][1] + 1:
        if scale == 1:
            seen, needed = f"{wide}x{high} from {width}x{height} pixels", "no more than those: the model's scale is 1"
            remedy = "Ask for a smaller result, or use a model that enlarges."
            raise InputError(f"cannot make {picture} so large", seen=seen, needed=needed, remedy=remedy)
        check_size(*found[-1], f"cannot run the network on {picture} once more to reach {wide}x{high}")
        found.append((found[-1][0] * scale, found[-1][1] * scale))
    return [*found[:-1], (high, wide)]
