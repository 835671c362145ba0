"""Codes to RGB and back: a window of a `CameraFrame` as float32, and rows of a view into a frame's planes.

Chroma of half size is read with linear interpolation from where its siting has it, and written with the triangle filter
of the same width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame, Siting

_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb, the weights of red and blue in luma: BT.601-7 2.5.1, BT.709-6 3.2, BT.2020-2 table 4."""
_OFFSETS: dict[Siting, tuple[float, float]] = {
    "top-left": (0.0, 0.0),
    "top": (0.0, 0.5),
    "top-right": (0.0, 1.0),
    "left": (0.5, 0.0),
    "center": (0.5, 0.5),
    "right": (0.5, 1.0),
    "bottom-left": (1.0, 0.0),
    "bottom": (1.0, 0.5),
    "bottom-right": (1.0, 1.0),
}
"""Where the first chroma sample lies, (down, right), in luma pixels from the middle of the first one."""
_TAPS = {0.0: (0.25, 0.5, 0.25), 0.5: (0.125, 0.375, 0.375, 0.125), 1.0: (0.0, 0.25, 0.5, 0.25)}
"""Weights of neighbours in a chroma sample at such an offset; the first is of the luma pixel before it."""


def read_window(frame: CameraFrame, rows: slice, columns: slice) -> NDArray[np.float32]:
    """A part of a frame as RGB, (3, rows, columns) float32 in [0, 1]; slices with whole bounds inside the frame."""
    out = np.empty((3, rows.stop - rows.start, columns.stop - columns.start), np.float32)
    layout = LAYOUTS[frame.format]
    if layout.chroma == "none":
        pixels = frame.planes[0][rows, columns, :: -1 if frame.format == "bgr" else 1]
        np.multiply(pixels.transpose(2, 0, 1), np.float32(1 / (2**layout.bits - 1)), out=out)
        return out
    numbers = yuv_numbers(frame)
    luma = (frame.planes[0][rows, columns] - numbers.black) * numbers.luma_gain
    blue, red = (_enlarged(plane, rows, columns, frame) for plane in chroma_planes(frame))
    for plane in (blue, red):
        plane -= numbers.chroma_middle
        plane *= numbers.chroma_gain
    np.add(luma, numbers.red * red, out=out[0])
    np.add(luma, numbers.blue * blue, out=out[2])
    red *= numbers.green_red
    blue *= numbers.green_blue
    red += blue
    np.add(luma, red, out=out[1])
    return np.clip(out, 0, 1, out=out)


class YuvNumbers(NamedTuple):
    """What turns codes into RGB in [0, 1], in FP32, under the names that `zoomrt/kernels/tile_gather.py` has for them.

    y = (Y - black) * luma_gain, and u and v likewise with chroma_middle and chroma_gain; then R = y + red * v,
    B = y + blue * u and G = y + (green_red * v + green_blue * u). down, right : where the first chroma sample lies, in
    luma pixels from the middle of the first one.
    """

    black: np.float32
    luma_gain: np.float32
    chroma_middle: np.float32
    chroma_gain: np.float32
    red: np.float32
    blue: np.float32
    green_red: np.float32
    green_blue: np.float32
    down: np.float32
    right: np.float32


def yuv_numbers(frame: CameraFrame) -> YuvNumbers:
    """The numbers of a YUV frame's matrix, range, siting and bits."""
    black, luma_gain, chroma_gain, middle = _levels(frame)
    weight_red, weight_blue = _WEIGHTS[frame.matrix]
    weight_green = 1 - weight_red - weight_blue
    red, blue = 2 * (1 - weight_red), 2 * (1 - weight_blue)
    green = -red * weight_red / weight_green, -blue * weight_blue / weight_green
    numbers = (black, 1 / luma_gain, middle, 1 / chroma_gain, red, blue, *green, *_OFFSETS[frame.siting])
    return YuvNumbers(*map(np.float32, numbers))


def write_view(view: NDArray[np.float32], frame: CameraFrame) -> None:
    """Write RGB, (3, H, W) float32 in [0, 1], into a frame's planes, rounded; `frame` must be writable."""
    write_rows(view, frame, slice(0, frame.shape[0]))


def rows_to_write(rows: slice, frame: CameraFrame) -> slice:
    """The rows of a view that `write_rows` needs for these: chroma is made from one row more above and below."""
    if LAYOUTS[frame.format].step[0] == 1:
        return rows
    return slice(max(rows.start - 1, 0), min(rows.stop + 1, frame.shape[0]))


def write_rows(view: NDArray[np.float32], frame: CameraFrame, rows: slice) -> None:
    """Write some rows of a view into a frame's planes, as `write_view` does.

    view : (3, n, W), the rows that `rows_to_write` names. rows : even bounds, or the frame's last row.
    """
    layout = LAYOUTS[frame.format]
    if layout.chroma == "none":
        codes = view * np.float32(2**layout.bits - 1)
        np.rint(codes, out=codes)
        for channel, plane in enumerate(codes[::-1] if frame.format == "bgr" else codes):
            np.copyto(frame.planes[0][rows, :, channel], plane, casting="unsafe")
        return
    first = rows_to_write(rows, frame).start
    parts = (first, rows), (0, slice(0, frame.shape[1]))
    inner = slice(rows.start - first, rows.stop - first)
    chroma_rows = slice(rows.start // layout.step[0], -(-rows.stop // layout.step[0]))
    black, luma_gain, chroma_gain, middle = _levels(frame)
    weight_red, weight_blue = _WEIGHTS[frame.matrix]
    luma = view[0] * np.float32(weight_red)
    luma += view[1] * np.float32(1 - weight_red - weight_blue)
    luma += view[2] * np.float32(weight_blue)
    for channel, weight, plane in zip((2, 0), (weight_blue, weight_red), chroma_planes(frame), strict=True):
        chroma = view[channel] - luma
        for axis, (start, part) in enumerate(parts):
            if layout.step[axis] == 2:
                chroma = _halved(chroma, axis, _OFFSETS[frame.siting][axis], start, part, frame.shape[axis])
        chroma *= np.float32(chroma_gain / (2 * (1 - weight)))
        chroma += np.float32(middle)
        _store(chroma, plane[chroma_rows], frame)
    luma = luma[inner]
    luma *= np.float32(luma_gain)
    luma += np.float32(black)
    _store(luma, frame.planes[0][rows], frame)


def _store(values: NDArray[np.float32], plane: NDArray[Any], frame: CameraFrame) -> None:
    """Round to codes, in place."""
    layout = LAYOUTS[frame.format]
    step = np.float32(1 << layout.shift)
    values /= step
    np.rint(values, out=values)
    np.clip(values, 0, 2**layout.bits - 1, out=values)
    values *= step
    np.copyto(plane, values, casting="unsafe")


def _levels(frame: CameraFrame) -> tuple[float, float, float, float]:
    """Code of black, codes from black to white, codes of chroma from -1/2 to 1/2, code of no chroma."""
    layout = LAYOUTS[frame.format]
    unit = 1 << (layout.bits - 8 + layout.shift)  # a step of 8 bits
    if not frame.full_range:
        return 16 * unit, 219 * unit, 224 * unit, 128 * unit
    peak = (2**layout.bits - 1) << layout.shift
    return 0, peak, peak, 128 * unit


def chroma_planes(frame: CameraFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """U (blue) and V (red), of the same size."""
    if LAYOUTS[frame.format].chroma == "planes":
        return frame.planes[1], frame.planes[2]
    first, second = frame.planes[1][:, :, 0], frame.planes[1][:, :, 1]
    return (second, first) if frame.format == "nv21" else (first, second)


def _enlarged(plane: NDArray[Any], rows: slice, columns: slice, frame: CameraFrame) -> NDArray[np.float32]:
    """Chroma at every luma pixel of a window, linear between samples, (rows, columns) float32."""
    (top, below, low), (left, beside, across) = map(
        _between, (rows, columns), _OFFSETS[frame.siting], LAYOUTS[frame.format].step, plane.shape
    )
    first, last = int(left[0]), int(beside[-1]) + 1
    upper, lower = plane[top, first:last].astype(np.float32), plane[below, first:last].astype(np.float32)
    lower -= upper
    lower *= low[:, None]
    lower += upper
    begin, end = lower[:, left - first], lower[:, beside - first]
    end -= begin
    end *= across
    end += begin
    return end


def _between(
    part: slice, offset: float, step: int, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Sample before, sample after and weight of the latter at each luma pixel of a part of an axis."""
    position = (np.arange(part.start, part.stop) - offset) / 2 if step == 2 else np.arange(part.start, part.stop)
    before = np.floor(position)
    weight = (position - before).astype(np.float32)
    low = before.astype(np.intp)
    return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), weight


def _halved(
    plane: NDArray[np.float32], axis: int, offset: float, first: int, part: slice, size: int
) -> NDArray[np.float32]:
    """Half the length of an axis, by the triangle that reaches two pixels to either side of a sample.

    plane : its pixels from `first` on. part : those to make samples of, from an even one. size : of the whole axis,
    whose ends are repeated.
    """
    count = -(-(part.stop - part.start) // 2)
    around = np.clip(np.arange(part.start - 1, part.start + 2 * count + 1), 0, size - 1) - first
    plane = plane.take(around, axis).swapaxes(0, axis)
    halved = sum(np.float32(tap) * plane[k : k + 2 * count : 2] for k, tap in enumerate(_TAPS[offset]))
    return halved.swapaxes(0, axis)  # type: ignore[union-attr]
