"""The colour step `wavelet`: the finished picture keeps its detail and takes the coarse colours of its input.

As HYPIR and OSEDiff do it (osediff.md section 4): five blurs in a row, kernel [1 2 1; 2 4 2; 1 2 1] / 16 with its taps
1, 2, 4, 8 and 16 pixels apart and the edge repeated, are `low`; out = y - low(y) + low(reference), where the reference
is the input, enlarged bicubically. `low` is linear, so this is y + low(reference - y): one chain of blurs in float32.
Nothing is divided, so flat pictures need no epsilon.

The chain reaches 31 pixels far. It runs once over the whole picture, in bands of rows with 31 more on either side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.colour import peak_of
from zoomrt.runtime.rgb_view import Picture

__all__ = ["CUBIC", "REACH", "match_low_frequencies"]

_SPACINGS = (1, 2, 4, 8, 16)
REACH = sum(_SPACINGS)
"""Pixels to either side that have a part in one blurred pixel."""
CUBIC = -0.75
"""Of the reference's cubic: torch's without antialias, as HYPIR has it. OSEDiff's is Pillow's (-0.5, 8 bit, clipped);
once blurred it is within half an 8-bit step of this one on a photograph (tests/runtime/test_wavelet.py)."""
_BAND_ROWS = 64  # not fewer than REACH: a band keeps the rows above the next one


def match_low_frequencies(frame: NDArray[Any], source: Picture) -> None:
    """Replace the low frequencies of `frame` by those of `source`, in place.

    frame : (H, W, 3) or (H, W), uint8, uint16 or float32 in [0, 1]. What is corrected are the stored pixels, clipped
        and, where they are integers, rounded; the reference systems correct 8-bit (OSEDiff) or float pixels (HYPIR).
        Rounded and clipped again afterwards. Against float pixels rounded once this is less than 1.5 integer steps.
    source : the same type and rank, or YUV for (H, W, 3); each side a whole part of the frame's.

    Holds about 3 KB for each column of the frame, whatever its height.
    """
    planes = [frame] if frame.ndim == 2 else [frame[:, :, channel] for channel in range(frame.shape[2])]
    for channel, plane in enumerate(planes):
        _match_plane(plane, source, channel)


def _match_plane(plane: NDArray[Any], source: Picture, channel: int) -> None:
    rows, peak = plane.shape[0], peak_of(plane.dtype)
    unit = np.float32(peak / peak_of(source.dtype))
    above = plane[:0]  # rows as they were before the band above was corrected
    for top in range(0, rows, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, rows)
        first, last = top - len(above), min(bottom + REACH, rows)
        pixels = np.concatenate([above, plane[top:last]]).astype(np.float32)
        above = plane[max(top, bottom - REACH) : bottom].copy()
        difference = _enlarged(source, channel, range(first, last), plane.shape)
        difference *= unit
        difference -= pixels
        band = slice(top - first, bottom - first)
        corrected = pixels[band] + _low(difference)[band]
        np.clip(corrected, 0, peak, out=corrected)
        plane[top:bottom] = corrected if plane.dtype.kind == "f" else np.rint(corrected)


def _low(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    for spacing in _SPACINGS:
        for _ in range(2):  # columns, then rows, by way of the transpose
            pixels = _blurred_rows(pixels, spacing).T
    return pixels


def _blurred_rows(pixels: NDArray[np.float32], spacing: int) -> NDArray[np.float32]:
    """[1 2 1] / 4 down the columns, taps `spacing` apart, the edge repeated."""
    padded = np.pad(pixels, ((spacing, spacing), (0, 0)), mode="edge")
    blurred = padded[: -2 * spacing] + padded[2 * spacing :]
    blurred *= np.float32(0.5)
    blurred += pixels
    blurred *= np.float32(0.5)
    return blurred


def _enlarged(source: Picture, channel: int, rows: range, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Some rows of one channel of the source enlarged to `shape`, in the source's own unit, not clipped."""
    taps = _cubic_taps(rows, source.shape[0], shape[0])
    first, last = int(taps[0][0][0]), int(taps[-1][0][-1])
    coarse = source[first : last + 1, :]
    coarse = coarse if coarse.ndim == 2 else coarse[:, :, channel]
    tall = np.zeros((len(rows), source.shape[1]), np.float32)
    for indices, weights in taps:
        tall += coarse[indices - first] * weights[:, None]
    wide = np.zeros((len(rows), shape[1]), np.float32)
    for indices, weights in _cubic_taps(range(shape[1]), source.shape[1], shape[1]):
        wide += tall[:, indices] * weights
    return wide


def _cubic_taps(positions: range, size: int, enlarged: int) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """The four taps (index, weight) of each output position; indices beyond the edge repeat it."""
    centres = (np.arange(positions.start, positions.stop) + 0.5) * (size / enlarged) - 0.5
    first = np.floor(centres).astype(np.intp) - 1
    return [
        (np.clip(first + tap, 0, size - 1), _cubic(np.abs(centres - first - tap)).astype(np.float32))
        for tap in range(4)
    ]


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution (Keys 1981)."""
    near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
    far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
