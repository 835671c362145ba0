"""Mean and variance of a picture that comes in parts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Running float64 count, mean and variance of each channel, of values around [0, 1].

    channels : how many.
    """

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)  # of the deviations from the mean

    def add(self, block: NDArray[np.float32]) -> None:
        """Take pixels, (channels, rows, columns) float32.

        Deviations are summed, and parts put together, as Chan, Golub and LeVeque (1979) do it: a sum of squares would
        lose the variance of a picture with little contrast. A row is summed pairwise in float32 (numpy's `sum`;
        `einsum` adds one by one and loses 3e-4), rows in float64.
        """
        count = block.shape[1] * block.shape[2]
        mean = _sum(block) / count
        centre = mean.astype(np.float32)
        squares = _sum(np.square(block - centre[:, None, None])) - count * (mean - centre) ** 2
        apart, total = mean - self._mean, self._count + count
        self._squares += squares + apart**2 * (self._count * count / total)
        self._mean += apart * (count / total)
        self._count = total

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._mean

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased; 0 for a single pixel."""
        return np.maximum(self._squares, 0) / max(self._count - 1, 1)


def _sum(block: NDArray[np.float32]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = block.sum(axis=2).sum(axis=1, dtype=np.float64)
    return total


def matching_affine(wanted: Moments, found: Moments, epsilon: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and bias per channel that give what was `found` the mean and deviation that are `wanted`.

    epsilon : added to both variances, above 0: a flat picture would divide by 0 otherwise.
    """
    gain = np.sqrt((wanted.variance + epsilon) / (found.variance + epsilon))
    return gain, wanted.mean - gain * found.mean
