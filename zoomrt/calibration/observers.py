"""What values a layer's input takes: a histogram of magnitudes that grows as tiles stream by, and maxima by channel.

The range of the histogram is a power of two. Growing it doubles the bins' width, which merges neighbours exactly, so
the result does not depend on how the values were cut into tiles. `ranges` turns a histogram into one number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from zoomrt.errors import RuntimeFault

BINS = 2048
_SMALLEST_EXPONENT = -100  # of an empty histogram; magnitudes below 2**-100 count as zero
_EXACT_COUNT = 1 << 24  # torch.histc counts in float32, which is exact up to here


class Observer:
    """Magnitudes of a stream of tensors.

    counts : (2048,) int64; bin i holds the values with i <= |x| / width < i + 1, width = 2**exponent / 2048.
    channel_max : (channels,) float32, the largest magnitude of each channel; its maximum is exact, not a bin's edge.
    """

    def __init__(self, channels: int) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.exponent = _SMALLEST_EXPONENT
        self.channel_max = torch.zeros(channels)

    @property
    def width(self) -> float:
        """Of one bin."""
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def largest(self) -> float:
        return float(self.channel_max.max())

    def update(self, values: Tensor, channel_axis: int) -> None:
        """Count the values of one tensor. Raises RuntimeFault for NaN and infinities."""
        magnitudes = values.detach().float().abs()
        others = [axis for axis in range(values.ndim) if axis != channel_axis % values.ndim]
        channel_max = magnitudes.amax(others) if others else magnitudes
        largest = float(channel_max.max())
        if not math.isfinite(largest):
            raise RuntimeFault(
                "cannot find the range of values",
                seen=f"a magnitude of {largest}",
                needed="finite values",
                remedy="Check the weights and the calibration pictures; a finite network gives finite values.",
            )
        self.channel_max = torch.maximum(self.channel_max, channel_max)
        if largest:  # frexp gives zero the exponent of 0.5
            self._grow(math.frexp(largest)[1])
        for part in torch.split(magnitudes.flatten(), _EXACT_COUNT):
            self.counts += torch.histc(part, BINS, 0.0, math.ldexp(1.0, self.exponent)).long()

    def _grow(self, exponent: int) -> None:
        if exponent <= self.exponent:
            return
        merged = min(BINS, 1 << min(11, exponent - self.exponent))  # 2**11 = 2048: all into the first bin
        grown = torch.zeros_like(self.counts)
        grown[: BINS // merged] = self.counts.reshape(-1, merged).sum(1)
        self.counts, self.exponent = grown, exponent

    def state(self) -> dict[str, Tensor]:
        """For `from_state`; plain tensors, as safetensors stores them."""
        return {
            "counts": self.counts,
            "exponent": torch.tensor(self.exponent),
            "channel_max": self.channel_max,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Observer:
        observer = cls(state["channel_max"].numel())
        observer.counts, observer.channel_max = state["counts"].clone(), state["channel_max"].clone()
        observer.exponent = int(state["exponent"])
        return observer
