"""What cameras deliver and screens take: RGB, BGR, NV12, NV21, I420 and P010, as planes that are read in place.

A frame is read for a window only, and as RGB in float32. YUV follows ITU-R BT.601, BT.709 or BT.2020 (non-constant
luminance); limited range is 16 to 235 and 16 to 240 of 8 bits, times four for 10. Chroma of half size lies where its
siting says: `left` (MPEG-2, H.264 and what most cameras write: level with every other luma column, between two rows),
`center` (JPEG, MPEG-1: between both) or `top-left` (BT.2020 of broadcast). It is read with linear interpolation and
written with the triangle filter of the same width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import InputError, unknown_name
from zoomrt.runtime.buffers import host_array

__all__ = [
    "FORMATS",
    "CameraFrame",
    "Matrix",
    "PixelFormat",
    "Siting",
    "YuvNumbers",
    "chroma_planes",
    "empty_like",
    "read_window",
    "rows_to_write",
    "write_rows",
    "write_view",
    "yuv_numbers",
]

PixelFormat = Literal["rgb", "bgr", "nv12", "nv21", "i420", "p010"]
Matrix = Literal["bt601", "bt709", "bt2020"]
Siting = Literal["left", "center", "top-left"]

FORMATS: tuple[str, ...] = get_args(PixelFormat)
_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb, the weights of red and blue in luma: BT.601-7 2.5.1, BT.709-6 3.2, BT.2020-2 table 4."""


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One picture in planes that belong to somebody else; nothing is copied unless it lies on a GPU.

    planes : rgb, bgr : one, (H, W, 3) uint8.
        nv12, nv21 : luma (H, W) and chroma (H/2, W/2, 2) or (H/2, W), uint8; U first in nv12, V first in nv21.
        i420 : luma (H, W), U and V (H/2, W/2) each, uint8.
        p010 : as nv12, uint16 with the 10 bits on top, as the format has them.
        Any strides. Arrays, buffers of that shape, DLPack, `__cuda_array_interface__`; see `buffers.host_array`.
    matrix, full_range, siting : how YUV is meant; see above. Of no meaning for rgb and bgr.

    Raises InputError for planes that do not fit the format or for odd sides of a YUV frame, UsageError for a name that
    is not known.
    """

    planes: tuple[Any, ...]
    format: PixelFormat = "rgb"
    matrix: Matrix = "bt709"
    full_range: bool = False
    siting: Siting = "left"

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("pixel format", self.format, FORMATS),
            ("matrix", self.matrix, get_args(Matrix)),
            ("siting", self.siting, get_args(Siting)),
        ):
            if name not in known:
                raise unknown_name(kind, str(name), known)
        given = self.planes if isinstance(self.planes, (tuple, list)) else (self.planes,)
        planes = [host_array(plane) for plane in given]
        if planes and planes[0].ndim >= 2:
            height, width = planes[0].shape[:2]
            fitting = plane_shapes(self.format, height, width)
            pairs = zip(planes, fitting, strict=False)
            planes = [_paired(plane, shape) for plane, shape in pairs] + planes[len(fitting) :]
            dtype = _dtype(self.format)
            if [plane.shape for plane in planes] == fitting and all(plane.dtype == dtype for plane in planes):
                object.__setattr__(self, "planes", tuple(planes))
                return
        seen = ", ".join(f"{plane.dtype} {plane.shape}" for plane in planes) or "no planes"
        shapes = [", ".join(map(str, shape)) for shape in plane_shapes(self.format, "H", "W")]
        needed = f"{_dtype(self.format)} {', '.join(f'({shape})' for shape in shapes)}"
        raise InputError(f"cannot use these planes as {self.format}", seen=seen, needed=needed, remedy=_REMEDY)

    @classmethod
    def from_buffer(
        cls,
        buffer: object,
        width: int,
        height: int,
        format: PixelFormat = "nv12",
        *,
        stride: int | None = None,
        offsets: Sequence[int] | None = None,
        matrix: Matrix = "bt709",
        full_range: bool = False,
        siting: Siting = "left",
    ) -> CameraFrame:
        """A frame whose planes lie in one buffer, as cameras and decoders hand it over; it is not copied.

        stride : bytes from one row of the first plane to the next; None where rows touch. Chroma rows of nv12, nv21
            and p010 have the same stride, those of i420 half of it.
        offsets : byte at which each plane starts; None where planes follow one another.

        Raises InputError for a buffer that is too small or not contiguous, and for sizes, stride and offsets that make
        no sense; UsageError for a format that is not known.
        """
        if format not in FORMATS:
            raise unknown_name("pixel format", str(format), FORMATS)
        what, even = f"cannot read a {width}x{height} {format} frame", format not in ("rgb", "bgr")
        if not all(_is_whole(side) and side > 0 and not (even and side % 2) for side in (width, height)):
            needed = f"whole{', even' if even else ''} sides of 1 or more"
            raise InputError(what, seen=f"{width!r} x {height!r}", needed=needed, remedy=_REMEDY)
        shapes, dtype = plane_shapes(format, height, width), _dtype(format)
        starts = None if offsets is None else tuple(offsets)
        fitting = starts is None or (len(starts) == len(shapes) and all(_is_whole(start) for start in starts))
        if not fitting or not (stride is None or _is_whole(stride)):
            seen, needed = f"stride {stride!r}, offsets {offsets!r}", f"whole numbers, {len(shapes)} offsets"
            raise InputError(what, seen=seen, needed=needed, remedy=_REMEDY)
        whole = host_array(buffer)
        if not whole.flags.c_contiguous or whole.dtype.hasobject:  # a copy would be written to in vain
            seen = f"{whole.dtype} {whole.shape} with strides {whole.strides}"
            remedy = "Hand the planes to CameraFrame itself, which takes any strides."
            raise InputError(what, seen=seen, needed="a contiguous buffer", remedy=remedy)
        flat = whole.reshape(-1).view(np.uint8)
        planes, end = [], 0
        for index, shape in enumerate(shapes):
            row = int(np.prod(shape[1:])) * dtype.itemsize
            pitch = row if stride is None else stride // 2 if format == "i420" and index else stride
            start = end if starts is None else starts[index]
            last = start + (shape[0] - 1) * pitch + row
            end = start + shape[0] * pitch
            if pitch < row or start < 0 or last > flat.size:
                seen = f"{flat.size} bytes, plane {index} from byte {start} with stride {pitch}"
                needed = f"{shape[0]} rows of {row} bytes inside the buffer"
                raise InputError(what, seen=seen, needed=needed, remedy=_REMEDY)
            inner = [dtype.itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(1, len(shape))]
            planes.append(np.ndarray(shape, dtype, flat, start, (pitch, *inner)))
        return cls(tuple(planes), format, matrix, full_range, siting)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = self.planes[0].shape[:2]
        return height, width

    @property
    def pixels(self) -> NDArray[Any]:
        """The one plane of an rgb or bgr frame, the luma plane of the others."""
        plane: NDArray[Any] = self.planes[0]
        return plane


_REMEDY = "Check format, size and strides; YUV frames have even sides."


def plane_shapes(format: str, height: Any, width: Any) -> list[tuple[Any, ...]]:
    """Shape of each plane; words in place of numbers give words, for messages."""
    if format in ("rgb", "bgr"):
        return [(height, width, 3)]
    if isinstance(height, str):
        half: tuple[Any, ...] = (f"{height}/2", f"{width}/2")
    else:  # an odd side gets a shape that no plane has
        half = tuple(side // 2 if side % 2 == 0 else -1 for side in (height, width))
    return [(height, width), half, half] if format == "i420" else [(height, width), (*half, 2)]


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral)


def _dtype(format: str) -> np.dtype[Any]:
    return np.dtype(np.uint16 if format == "p010" else np.uint8)


def _paired(plane: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Chroma that came as (H/2, W), as its pairs; a view."""
    if len(shape) == 3 and plane.ndim == 2 and plane.shape == (shape[0], 2 * shape[1]):
        return np.lib.stride_tricks.as_strided(
            plane, shape, (plane.strides[0], 2 * plane.strides[1], plane.strides[1]), writeable=plane.flags.writeable
        )
    return plane


def empty_like(like: CameraFrame, size: tuple[int, int], format: PixelFormat | None = None) -> CameraFrame:
    """A frame of (height, width) pixels to be filled; format and meaning of `like` unless another format is given."""
    chosen = format or like.format
    shapes = plane_shapes(chosen, *size)
    if any(side < 1 for shape in shapes for side in shape):
        seen = f"{size[1]}x{size[0]}"
        raise InputError(
            f"cannot make a {chosen} frame", seen=seen, needed="even sides", remedy="Change the output size."
        )
    planes = tuple(np.empty(shape, _dtype(chosen)) for shape in shapes)
    return CameraFrame(planes, chosen, like.matrix, like.full_range, like.siting)


def read_window(frame: CameraFrame, rows: slice, columns: slice) -> NDArray[np.float32]:
    """A part of a frame as RGB, (3, rows, columns) float32 in [0, 1]; slices with whole bounds inside the frame."""
    out = np.empty((3, rows.stop - rows.start, columns.stop - columns.start), np.float32)
    if frame.format in ("rgb", "bgr"):
        pixels = frame.planes[0][rows, columns, :: 1 if frame.format == "rgb" else -1]
        np.multiply(pixels.transpose(2, 0, 1), np.float32(1 / 255), out=out)
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
    numbers = (black, 1 / luma_gain, middle, 1 / chroma_gain, red, blue, *green, *_offsets(frame.siting))
    return YuvNumbers(*map(np.float32, numbers))


def write_view(view: NDArray[np.float32], frame: CameraFrame) -> None:
    """Write RGB, (3, H, W) float32 in [0, 1], into a frame's planes, rounded; `frame` must be writable."""
    write_rows(view, frame, slice(0, frame.size[0]))


def rows_to_write(rows: slice, frame: CameraFrame) -> slice:
    """The rows of a view that `write_rows` needs for these: chroma is made from one row more above and below."""
    if frame.format in ("rgb", "bgr"):
        return rows
    return slice(max(rows.start - 1, 0), min(rows.stop + 1, frame.size[0]))


def write_rows(view: NDArray[np.float32], frame: CameraFrame, rows: slice) -> None:
    """Write some rows of a view into a frame's planes, as `write_view` does.

    view : (3, n, W), the rows that `rows_to_write` names. rows : even bounds, for half as many rows of chroma.
    """
    if frame.format in ("rgb", "bgr"):
        codes = view * np.float32(255)
        np.rint(codes, out=codes)
        for channel, plane in enumerate(codes if frame.format == "rgb" else codes[::-1]):
            np.copyto(frame.planes[0][rows, :, channel], plane, casting="unsafe")
        return
    first = rows_to_write(rows, frame).start
    around = np.clip(np.arange(rows.start - 1, rows.stop + 1), 0, frame.size[0] - 1) - first
    inner = slice(rows.start - first, rows.stop - first)
    chroma_rows = slice(rows.start // 2, rows.stop // 2)
    black, luma_gain, chroma_gain, middle = _levels(frame)
    weight_red, weight_blue = _WEIGHTS[frame.matrix]
    luma = view[0] * np.float32(weight_red)
    luma += view[1] * np.float32(1 - weight_red - weight_blue)
    luma += view[2] * np.float32(weight_blue)
    for channel, weight, plane in zip((2, 0), (weight_blue, weight_red), chroma_planes(frame), strict=True):
        chroma = _halved((view[channel] - luma)[around], frame.siting)
        chroma *= np.float32(chroma_gain / (2 * (1 - weight)))
        chroma += np.float32(middle)
        _store(chroma, plane[chroma_rows])
    luma = luma[inner]
    luma *= np.float32(luma_gain)
    luma += np.float32(black)
    _store(luma, frame.planes[0][rows])


def _store(values: NDArray[np.float32], plane: NDArray[Any]) -> None:
    """Round to codes; P010 keeps its 10 bits on top of 16."""
    step = 64 if plane.dtype == np.uint16 else 1
    if step > 1:
        values *= np.float32(1 / step)
    np.rint(values, out=values)
    np.clip(values, 0, np.iinfo(plane.dtype).max // step, out=values)
    values *= np.float32(step)
    np.copyto(plane, values, casting="unsafe")


def _levels(frame: CameraFrame) -> tuple[float, float, float, float]:
    """Code of black, codes from black to white, codes of chroma from -1/2 to 1/2, code of no chroma.

    For 8 bits; P010 in its 16-bit words has 256 times these in limited range. In full range its white is 1023 * 64.
    """
    unit = 256 if frame.format == "p010" else 1
    if not frame.full_range:
        return 16 * unit, 219 * unit, 224 * unit, 128 * unit
    peak = 1023 * 64 if frame.format == "p010" else 255
    return 0, peak, peak, 128 * unit


def chroma_planes(frame: CameraFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """U (blue) and V (red), (H/2, W/2) each."""
    if frame.format == "i420":
        return frame.planes[1], frame.planes[2]
    first, second = frame.planes[1][:, :, 0], frame.planes[1][:, :, 1]
    return (second, first) if frame.format == "nv21" else (first, second)


def _offsets(siting: Siting) -> tuple[float, float]:
    """Where the first chroma sample lies, (down, right), in luma pixels from the middle of the first one."""
    return {"left": (0.5, 0.0), "center": (0.5, 0.5), "top-left": (0.0, 0.0)}[siting]


_TAPS = {0.0: (0.25, 0.5, 0.25), 0.5: (0.125, 0.375, 0.375, 0.125)}
"""Weights of neighbours in a chroma sample that lies on a luma pixel, or between two; the first is the one before."""


def _enlarged(plane: NDArray[Any], rows: slice, columns: slice, frame: CameraFrame) -> NDArray[np.float32]:
    """Chroma at every luma pixel of a window, linear between samples, (rows, columns) float32."""
    down, right = _offsets(frame.siting)
    (top, below, low), (left, beside, across) = (
        _between(part, offset, side)
        for part, offset, side in zip((rows, columns), (down, right), plane.shape, strict=True)
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


def _between(part: slice, offset: float, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Sample before, sample after and weight of the latter at each luma pixel of a part of an axis."""
    position = (np.arange(part.start, part.stop) - offset) / 2
    before = np.floor(position)
    weight = (position - before).astype(np.float32)
    low = before.astype(np.intp)
    return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), weight


def _halved(plane: NDArray[np.float32], siting: Siting) -> NDArray[np.float32]:
    """Half the size, by the triangle that reaches two pixels to either side of a sample.

    plane : (1 + 2 n + 1, 2 m), with a row more above and below. Columns are repeated at the edge.
    """
    down, right = _offsets(siting)
    taps, count = _TAPS[down], len(plane) // 2 - 1
    plane = sum(np.float32(tap) * plane[k : k + 2 * count : 2] for k, tap in enumerate(taps))  # type: ignore[assignment]
    padded = np.concatenate([plane[:, :1], plane, plane[:, -1:]], axis=1)
    taps, count = _TAPS[right], plane.shape[1] // 2
    return sum(np.float32(tap) * padded[:, k : k + 2 * count : 2] for k, tap in enumerate(taps))  # type: ignore[return-value]
