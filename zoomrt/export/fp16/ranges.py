"""The largest magnitude of every value in a network, over as many tiles as one likes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoomrt.export.recording import Operation

FP16_MAX = 65504.0
"""Largest finite FP16 number (IEEE 754 binary16)."""

_SAMPLES = 1024


@dataclass
class Value:
    """What one operation makes: `largest` over all tiles seen, `sample` from the last one."""

    name: str
    place: str
    largest: float
    sample: Tensor


class Ranges:
    """A visitor for `recording.watched`: `values[i]` belongs to operation i. Run it over any number of tiles."""

    def __init__(self) -> None:
        self.values: list[Value] = []

    def __call__(self, operation: Operation) -> None:
        if operation.index is None:
            return
        largest = max(map(magnitude, operation.outputs), default=0.0)
        sample = sampled(operation.outputs)
        if operation.index == len(self.values):
            self.values.append(Value(operation.name, operation.place, largest, sample))
            return
        value = self.values[operation.index]
        assert value.name == operation.name, "two tiles went different ways through the network"
        value.largest, value.sample = max(value.largest, largest), sample


def magnitude(tensor: Tensor) -> float:
    """Largest absolute value; NaN or infinity if there is one."""
    if not tensor.numel():
        return 0.0
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(low.abs(), high.abs()))


def sampled(tensors: tuple[Tensor, ...]) -> Tensor:
    """About a thousand values of the first tensor, evenly spread, as float32; empty if there is none."""
    if not tensors:
        return torch.empty(0)
    flat = tensors[0].detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)].float().clone()
