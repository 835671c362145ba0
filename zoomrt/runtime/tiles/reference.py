"""The reference of the colour step: whose colours the finished picture takes, see `bundle.ColourFacts`.

The input as it is, or enlarged to the size of the result, a few rows at a time. There are two enlargements, because the
authors of models use two. Pillow's cubic leaves out what lies beyond the picture's edge and rescales the rest, widens
where the picture shrinks, and is cut to [0, 1] after the columns and after the rows, as 8 bits are. torch's repeats the
last pixel, does not widen and is not cut.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import ColourFacts
from zoomrt.runtime.frames.rgb_view import Picture, peak_of
from zoomrt.runtime.sizes import bands
from zoomrt.runtime.tiles.moments import Moments
from zoomrt.runtime.tiles.resample import (
    BICUBIC,
    TORCH_BICUBIC,
    Band,
    add_resampled_rows,
    outputs,
    plan_axis,
    resampled_columns,
)

_BAND_PIXELS = 1 << 16  # pixels worked on at a time, so that temporaries stay small whatever the frame


class Reference(Protocol):
    """What a colour step asks of the picture whose colours are wanted. Black is 0 and white 1."""

    def moments(self) -> Moments:
        """Mean and variance of each channel."""

    def rows(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows of it at the size of the result, (channels, rows, width) float32."""


class InputReference:
    """The input of a whole picture.

    frame : (H, W, 3) or (H, W), uint8, uint16 or float32 in [0, 1], or YUV.
    size : (height, width) of the result.
    """

    def __init__(self, frame: Picture, size: tuple[int, int], colour: ColourFacts) -> None:
        self._frame, self._size, self._as_it_is = frame, size, colour.reference == "input"
        self._pillow = colour.reference == "pillow_bicubic"
        self._beyond = 0 if self._pillow else 2  # pixels that repeat the edge
        kernel, beyond = BICUBIC if self._pillow else TORCH_BICUBIC, self._beyond
        self._down, self._across = (
            plan_axis(beyond, old + beyond, new, old + 2 * beyond, kernel, antialias=self._pillow)
            for old, new in zip(frame.shape[:2], size, strict=True)
        )

    def moments(self) -> Moments:
        moments = Moments(1 if self._frame.ndim == 2 else 3)
        if self._as_it_is:
            height, width = self._frame.shape[:2]
            for rows in bands(height, _BAND_PIXELS // width):
                for columns in bands(width, _BAND_PIXELS):
                    moments.add(planes_of(self._frame[rows, columns]))
        else:
            for rows in bands(self._size[0], _BAND_PIXELS // self._size[1]):
                moments.add(self.rows(rows.start, rows.stop))
        return moments

    def rows(self, first: int, stop: int) -> NDArray[np.float32]:
        bands = outputs(self._down.bands, slice(first, stop))
        begin, end = bands[0].source, max(band.source + band.matrix.shape[1] for band in bands)
        top, bottom = max(begin - self._beyond, 0), min(end - self._beyond, self._frame.shape[0])
        planes = planes_of(self._frame[top:bottom, :])
        edges = (top - (begin - self._beyond), (end - self._beyond) - bottom)
        planes = np.pad(planes, ((0, 0), edges, (self._beyond, self._beyond)), mode="edge")
        wide = resampled_columns(planes, self._across.bands)
        if self._pillow:
            np.clip(wide, 0, 1, out=wide)
        out = np.zeros((len(planes), stop - first, self._size[1]), np.float32)
        add_resampled_rows(wide, [Band(band.start, band.source - begin, band.matrix) for band in bands], out)
        return np.clip(out, 0, 1, out=out) if self._pillow else out


def planes_of(part: NDArray[Any]) -> NDArray[np.float32]:
    """Pixels of a picture, (rows, columns, 3) or (rows, columns), as (channels, rows, columns) with white 1; a copy."""
    planes = part[None] if part.ndim == 2 else part.transpose(2, 0, 1)
    values: NDArray[np.float32] = np.multiply(planes, np.float32(1 / peak_of(part.dtype)), dtype=np.float32, order="C")
    return values
