"""The toy family's network: the picture enlarged by repetition, and one convolution's residual, `gain` times."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.family import Family


class Toy(nn.Module):
    """(N, 3, h, w) in [0, 1] -> (N, 3, 2h, 2w)."""

    def __init__(self, weight: Tensor, gain: float) -> None:
        super().__init__()
        self.weight, self.gain = nn.Parameter(weight), gain

    def forward(self, lr: Tensor) -> Tensor:
        residual = F.pixel_shuffle(F.conv2d(lr, self.weight, padding=1), 2)
        return F.interpolate(lr, scale_factor=2.0, mode="nearest") + self.gain * residual


def network(family: Family, checkpoint: Checkpoint, *, gain: float = 1.0) -> Toy:
    """See `Family.module`."""
    return Toy(family.layout.tensors(checkpoint)["toy.weight"].float(), gain).eval()
