"""What cameras deliver and screens take: which planes a picture has, how its codes lie in them, and what they mean.

YUV follows ITU-R BT.601, BT.709 or BT.2020 (non-constant luminance); limited range is 16 to 235 and 16 to 240 of 8
bits, times four for 10. `yuv` turns codes into RGB and back.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from zoomrt._deprecated import deprecated
from zoomrt.errors import InputError, unknown_name
from zoomrt.runtime.checks import brief, within
from zoomrt.runtime.frames.buffers import host_array

PixelFormat = Literal["rgb", "bgr", "rgb48", "nv12", "nv21", "i420", "i422", "i444", "p010", "i010", "i210", "i410"]
"""Names of how a picture lies in memory, see `CameraFrame`."""
Matrix = Literal["bt601", "bt709", "bt2020"]
Siting = Literal[
    "left", "center", "top-left", "top", "bottom-left", "bottom", "right", "top-right", "bottom-right"
]  # fmt: skip


class Layout(NamedTuple):
    """How a format stores a picture."""

    chroma: Literal["none", "pairs", "planes"]
    """RGB has none; `pairs` are U and V side by side in one plane."""
    step: tuple[int, int]
    """Luma pixels for each sample of chroma, (down, across); an odd side has one sample more than half."""
    bits: int
    """Of a code: 8 in uint8, more in uint16."""
    shift: int = 0
    """Empty bits below a code."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)


LAYOUTS: dict[str, Layout] = {
    "rgb": Layout("none", (1, 1), 8),
    "bgr": Layout("none", (1, 1), 8),
    "rgb48": Layout("none", (1, 1), 16),
    "nv12": Layout("pairs", (2, 2), 8),
    "nv21": Layout("pairs", (2, 2), 8),
    "i420": Layout("planes", (2, 2), 8),
    "i422": Layout("planes", (1, 2), 8),
    "i444": Layout("planes", (1, 1), 8),
    "p010": Layout("pairs", (2, 2), 10, 6),
    "i010": Layout("planes", (2, 2), 10),
    "i210": Layout("planes", (1, 2), 10),
    "i410": Layout("planes", (1, 1), 10),
}
"""The pixel formats, one record each; `PixelFormat` repeats the names for type checkers."""


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One picture in planes that belong to somebody else; nothing is copied unless it lies on a GPU.

    Parameters
    ----------
    planes
        rgb, bgr : one, (H, W, 3) uint8; rgb48 : the same in uint16, 0 to 65535. nv12, nv21 : luma (H, W) and chroma
        (H/2, W/2, 2) or (H/2, W), uint8; U first in nv12, V first in nv21. i420, i422, i444 : luma (H, W), U and V
        (H/2, W/2), (H, W/2) or (H, W) each, uint8. p010 : as nv12, uint16 with the 10 bits on top, as the format has
        them. i010, i210, i410 : as i420, i422 and i444, uint16 of 10 bits, 0 to 1023. Halves of odd sides are rounded
        up. Any strides. Arrays, buffers of that shape, DLPack, `__cuda_array_interface__`.
    format
        Which of these it is.
    matrix
        `bt601`, `bt709` or `bt2020` (non-constant luminance): how YUV is meant. Of no meaning for RGB.
    full_range
        False is limited range: 16 to 235 and 16 to 240 of 8 bits, times four for 10.
    siting
        Where chroma of half size lies: `left` (MPEG-2, H.264 and what most cameras write: level with every other luma
        column, between two rows), `center` (JPEG, MPEG-1: between both, spelled as FFmpeg has it), `top-left` (BT.2020
        of broadcast), and what these become in pictures that are turned.
    pixel_aspect
        Width of a pixel over its height, 1/64 to 64. A `ZoomSession` makes views of square pixels from it; an
        `Upscaler` keeps pixels as they are.

    Raises
    ------
    InputError
        The planes do not fit the format, or the aspect is out of range.
    UsageError
        The name of a format, matrix or siting is not known.
    """

    planes: tuple[Any, ...]
    format: PixelFormat = "rgb"
    matrix: Matrix = "bt709"
    full_range: bool = False
    siting: Siting = "left"
    pixel_aspect: float = 1.0

    def __post_init__(self) -> None:
        if not within(self.pixel_aspect, 1 / 64, 64):
            seen, needed = brief(self.pixel_aspect), "a number from 1/64 to 64"
            raise InputError("cannot use this pixel aspect", seen=seen, needed=needed, remedy="Divide width by height.")
        object.__setattr__(self, "pixel_aspect", float(self.pixel_aspect))
        for kind, name, known in (
            ("pixel format", self.format, LAYOUTS),
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
            dtype = LAYOUTS[self.format].dtype
            if [plane.shape for plane in planes] == fitting and all(plane.dtype == dtype for plane in planes):
                object.__setattr__(self, "planes", tuple(planes))
                return
        seen = ", ".join(f"{plane.dtype} {plane.shape}" for plane in planes) or "no planes"
        shapes = [", ".join(map(str, shape)) for shape in plane_shapes(self.format, "H", "W")]
        needed = f"{LAYOUTS[self.format].dtype} {', '.join(f'({shape})' for shape in shapes)}"
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
        pixel_aspect: float = 1.0,
    ) -> CameraFrame:
        """A frame whose planes lie in one buffer, as cameras and decoders hand it over; it is not copied.

        Parameters
        ----------
        buffer
            Contiguous memory.
        width, height
            In pixels.
        format, matrix, full_range, siting, pixel_aspect
            As for `CameraFrame`.
        stride
            Bytes from one row of the first plane to the next; None where rows touch. Rows of pairs of chroma have the
            same stride, rows of planes of half width half of it.
        offsets
            Byte at which each plane starts; None where planes follow one another.

        Raises
        ------
        InputError
            The buffer is too small or not contiguous, or sizes, stride and offsets make no sense.
        UsageError
            The format is not known.
        """
        if format not in LAYOUTS:
            raise unknown_name("pixel format", str(format), LAYOUTS)
        what = f"cannot read a {brief(width)}x{brief(height)} {format} frame"
        if not all(_is_whole(side) and within(side, 1, _HUGE) for side in (width, height)):
            seen, needed = f"{brief(width)} x {brief(height)}", f"whole sides of 1 to {_HUGE}"
            raise InputError(what, seen=seen, needed=needed, remedy=_REMEDY)
        shapes, layout = plane_shapes(format, height, width), LAYOUTS[format]
        dtype = layout.dtype
        starts = None if offsets is None else tuple(offsets)
        fitting = starts is None or len(starts) == len(shapes)
        places = [*(starts or ()), 0 if stride is None else stride]
        if not fitting or not all(_is_whole(place) and within(place, -_HUGE, _HUGE) for place in places):
            seen = f"stride {brief(stride)}, offsets {brief(offsets)}"
            needed = f"whole numbers, {len(shapes)} offsets"
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
            narrow = index > 0 and layout.chroma == "planes"
            pitch = row if stride is None else -(-stride // layout.step[1]) if narrow else stride
            start = end if starts is None else starts[index]
            last = start + (shape[0] - 1) * pitch + row
            end = start + shape[0] * pitch
            if pitch < row or start < 0 or last > flat.size:
                seen = f"{flat.size} bytes, plane {index} from byte {start} with stride {pitch}"
                needed = f"{shape[0]} rows of {row} bytes inside the buffer"
                raise InputError(what, seen=seen, needed=needed, remedy=_REMEDY)
            inner = [dtype.itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(1, len(shape))]
            planes.append(np.ndarray(shape, dtype, flat, start, (pitch, *inner)))
        return cls(tuple(planes), format, matrix, full_range, siting, pixel_aspect)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels, as numpy has it."""
        height, width = self.planes[0].shape[:2]
        return height, width

    @property
    def size(self) -> tuple[int, int]:
        """Deprecated name of `shape`: every other size here is (width, height)."""
        warnings.warn(deprecated("CameraFrame.size", "CameraFrame.shape"), DeprecationWarning, stacklevel=2)
        return self.shape

    @property
    def pixels(self) -> NDArray[Any]:
        """The one plane of an RGB frame, the luma plane of the others."""
        plane: NDArray[Any] = self.planes[0]
        return plane


_REMEDY = "Check format, size and strides."
_HUGE = 2**40  # beyond any memory, and far from what overflows


def plane_shapes(format: str, height: Any, width: Any) -> list[tuple[Any, ...]]:
    """Shape of each plane; words in place of numbers give words, for messages."""
    chroma, step, _, _ = LAYOUTS[format]
    if chroma == "none":
        return [(height, width, 3)]
    part = tuple(
        side if every == 1 else f"{side}/{every}" if isinstance(side, str) else -(-side // every)
        for side, every in zip((height, width), step, strict=True)
    )
    return [(height, width), (*part, 2)] if chroma == "pairs" else [(height, width), part, part]


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral)


def _paired(plane: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Chroma that came as (H/2, W), as its pairs; a view."""
    if len(shape) == 3 and plane.ndim == 2 and plane.shape == (shape[0], 2 * shape[1]):
        return np.lib.stride_tricks.as_strided(
            plane, shape, (plane.strides[0], 2 * plane.strides[1], plane.strides[1]), writeable=plane.flags.writeable
        )
    return plane


def empty_like(like: CameraFrame, size: tuple[int, int], format: PixelFormat | None = None) -> CameraFrame:
    """A frame of (height, width) square pixels to be filled; format and meaning of `like` unless another is given."""
    chosen = format or like.format
    planes = tuple(np.empty(shape, LAYOUTS[chosen].dtype) for shape in plane_shapes(chosen, *size))
    return CameraFrame(planes, chosen, like.matrix, like.full_range, like.siting)
