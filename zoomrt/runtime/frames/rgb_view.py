"""A camera's frame as the upscaler reads it: RGB in an array, or YUV that becomes RGB where it is read.

Nothing frame-sized is made. What reads pictures (`pixels`, `reference`) asks for `picture[rows, columns]` with
two slices, which an array answers with its codes and an `RgbView` with floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame
from zoomrt.runtime.frames.yuv import read_window


class RgbView:
    """A YUV frame seen as (H, W, 3) float32 RGB in [0, 1], as `read_window` has it: not rounded to 8 bits."""

    dtype: np.dtype[Any] = np.dtype(np.float32)
    ndim = 3

    def __init__(self, frame: CameraFrame) -> None:
        self.frame = frame

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.frame.shape, 3)

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.float32]:
        """Rows and columns, without a step: a new (rows, columns, 3)."""
        rows, columns = (slice(*one.indices(side)[:2]) for one, side in zip(part, self.frame.shape, strict=True))
        return read_window(self.frame, rows, columns).transpose(1, 2, 0)


Picture = NDArray[Any] | RgbView
"""What a frame is once it is inside."""


def peak_of(dtype: np.dtype[Any]) -> float:
    """The value of white: 255, 65535, or 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


def picture_of(frame: Any) -> Any:
    """A `CameraFrame` as a `Picture`: RGB is an array already, (H, W, 3) of 8 or 16 bits. Anything else comes back."""
    if not isinstance(frame, CameraFrame):
        return frame
    if LAYOUTS[frame.format].chroma == "none":
        return frame.pixels[:, :, :: -1 if frame.format == "bgr" else 1]
    return RgbView(frame)
