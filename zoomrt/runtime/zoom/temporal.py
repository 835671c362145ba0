"""Smoothing in time: what does not move is averaged over frames, what moves is left alone.

A network that sharpens also sharpens the noise of the sensor, and as noise is new in every frame, a still scene
flickers. So the frame is blended with what became of those before it, before the network sees it:

    kept = KEEP * gate(local mean of |now - kept before| / noise)
    out  = now + kept * (kept before - now)

The mean is over 7x7 pixels and the three channels. For pure noise it is about 0.85 standard deviations, with little
spread; the gate is open up to GATE[0] of them and shut from GATE[1] on. An open gate leaves (1 - KEEP) / (1 + KEEP) of
the noise's variance, a seventh. The memory is in frame coordinates, so it stays true under a pan or a zoom of the crop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEEP = 0.75
GATE = (1.25, 2.5)
_REACH = 3  # pixels to either side over which the difference is averaged


class Smoother:
    """The memory of one stream of frames.

    noise : standard deviation of the sensor's noise, in [0, 1], above 0.
    """

    def __init__(self, noise: float) -> None:
        self._noise = noise
        self._memory: NDArray[np.float32] | None = None
        self._seen: NDArray[np.bool_] | None = None

    def apply(
        self, window: NDArray[np.float32], place: tuple[slice, slice], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Smooth a window, (3, rows, columns) float32 in [0, 1], which lies at `place` in a frame of `size`; in place.

        Pixels that were never seen, and all of them after a change of size, are taken as they are.
        """
        if self._memory is None or self._seen is None or self._memory.shape[1:] != size:
            self._memory, self._seen = np.zeros((3, *size), np.float32), np.zeros(size, bool)
        before = self._memory[:, place[0], place[1]]
        change = before - window
        level = _local_mean(np.abs(change).mean(axis=0)) / max(self._noise, 1e-30)
        keep = np.clip((GATE[1] - level) / (GATE[1] - GATE[0]), 0, 1).astype(np.float32)
        keep *= np.float32(KEEP)
        keep[~self._seen[place]] = 0
        change *= keep
        window += change
        before[...] = window
        self._seen[place] = True
        return window


def _local_mean(plane: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over 7x7 pixels, the edge repeated: differences of running sums in float64."""
    result: NDArray[np.float64] = np.pad(plane, _REACH, mode="edge").astype(np.float64)
    side = 2 * _REACH + 1
    for axis in (0, 1):
        sums = np.cumsum(result, axis=axis).swapaxes(0, axis)
        sums = np.concatenate([np.zeros_like(sums[:1]), sums])
        result = (sums[side:] - sums[:-side]).swapaxes(0, axis)
    return result / side**2
