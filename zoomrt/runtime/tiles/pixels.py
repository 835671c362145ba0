"""Pixels in and out: what a frame is, its tiles in the engine's values, and blended blocks back in the frame's type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError, OutOfMemory
from zoomrt.runtime.frames.rgb_view import Picture, RgbView, peak_of
from zoomrt.runtime.sizes import check_size
from zoomrt.runtime.tiles.plan import TilePlan

_Part = slice | NDArray[np.intp]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G, B in luma (ITU-R BT.601), as JPEG and Pillow's grey use them."""


FIXED_WHITE = 1 << 14
"""White of finished pixels that wait in 16 bits, half the memory of the engine's floats. Networks overshoot, and the
colour step of some models looks at that: there is room for -2 to 2, at 1/64 of an 8-bit step."""


def check_frame(frame: object) -> None:
    """InputError unless frame is a `Picture` within the size limits: an `RgbView`, or an array, (H, W, 3) or (H, W),
    uint8, uint16 or float32 in [0, 1]."""
    what = "cannot upscale this frame"
    if isinstance(frame, RgbView):
        check_size(frame.shape[0], frame.shape[1], what)
        return
    if not isinstance(frame, np.ndarray):
        remedy = "Use np.asarray(frame)."
        raise InputError(what, seen=type(frame).__name__, needed="a numpy array or a CameraFrame", remedy=remedy)
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] != 3):
        remedy = "Pass RGB or grey, channels last; upscale alpha apart."
        raise InputError(what, seen=f"shape {frame.shape}", needed="(H, W, 3) or (H, W)", remedy=remedy)
    if frame.dtype not in (np.uint8, np.uint16, np.float32):
        remedy = "Convert it with frame.astype(...)."
        raise InputError(what, seen=frame.dtype, needed="uint8, uint16 or float32", remedy=remedy)
    check_size(frame.shape[0], frame.shape[1], what)
    if frame.dtype.kind == "f":
        low, high = float(frame.min()), float(frame.max())  # NaN passes through both
        if not (low >= 0 and high <= 1):
            seen = f"values from {low:g} to {high:g}" if low <= high else "NaN"
            remedy = "Replace NaN, divide by the value of white, or use np.clip(frame, 0, 1)."
            raise InputError(what, seen=seen, needed="float32 in [0, 1]", remedy=remedy)


def result_dtype(frame: Picture) -> np.dtype[Any]:
    """Type of what a frame is upscaled to: its own, uint8 of YUV."""
    return np.dtype(np.uint8) if isinstance(frame, RgbView) else frame.dtype


def empty(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    what: str = "cannot hold the result",
    use: str = "for the output frame",
    remedy: str = "Cut the picture into parts first, or close other programs.",
) -> NDArray[Any]:
    """Room for pixels, not filled. Raises OutOfMemory, in the words given."""
    try:
        return np.empty(shape, dtype)
    except MemoryError as cause:
        needed = f"{math.prod(shape) * dtype.itemsize / 1e6:.0f} MB {use}"
        raise OutOfMemory(what, seen="no room", needed=needed, remedy=remedy) from cause


def gather(frame: Picture, plan: TilePlan, index: int, tile: TileFacts, out: NDArray[np.float32]) -> None:
    """Read one tile, mirrored beyond the picture, into `out`, (3, tile height, tile width), in tile.value_range."""
    row, column = plan.position(index)
    pixels = _read(frame, plan.rows.indices(row), plan.columns.indices(column))
    low, high = tile.value_range
    planes = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]  # grey: three equal channels
    np.multiply(planes, np.float32((high - low) / peak_of(pixels.dtype)), out=out)
    out += np.float32(low)


def _read(frame: Picture, rows: _Part, columns: _Part) -> NDArray[Any]:
    """A tile's pixels. Where it reaches beyond the picture it has indices, and reads the whole axis."""
    pixels: NDArray[Any] = frame[
        rows if isinstance(rows, slice) else slice(None), columns if isinstance(columns, slice) else slice(None)
    ]
    for axis, part in enumerate((rows, columns)):
        if not isinstance(part, slice):
            pixels = pixels.take(part, axis)
    return pixels


def values_of(block: NDArray[np.float32], tile: TileFacts, channels: int, white: float) -> NDArray[np.float32]:
    """What a network answered, (3, rows, columns) in tile.value_range, with black 0, not cut; overwritten.

    channels : 3, or 1 for its luma. white : the value of white in what is returned.
    """
    low, high = tile.value_range
    grey = block[:1]
    if channels == 1:
        block *= LUMA[:, None, None]
        grey += block[1:2]
        grey += block[2:]
    values = block if channels == 3 else grey
    values *= np.float32(white / (high - low))
    values -= np.float32(low * white / (high - low))
    return values


def store(block: NDArray[np.float32], out: NDArray[Any], white: float) -> None:
    """Write finished pixels, (channels, rows, columns), into a window of the output frame; they are overwritten.

    out : (rows, columns, 3) or (rows, columns), of any frame type; rounded and cut to what it holds.
    """
    peak = peak_of(out.dtype)
    if white != peak:
        block *= np.float32(peak / white)
    np.clip(block, 0, peak, out=block)
    if out.dtype.kind == "u":
        np.rint(block, out=block)
    for channel, plane in enumerate(block):  # by planes: numpy's inner loop would otherwise be 3 long
        np.copyto(out if out.ndim == 2 else out[:, :, channel], plane, casting="unsafe")


def to_codes(values: NDArray[np.float32], out: NDArray[Any]) -> None:
    """Round values into `out`, integers of the same shape, and cut them to what it holds; they are overwritten."""
    np.rint(values, out=values)
    limits = np.iinfo(out.dtype)
    np.clip(values, limits.min, limits.max, out=values)
    np.copyto(out, values, casting="unsafe")
