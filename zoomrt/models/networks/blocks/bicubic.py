"""Cubic enlargement by a whole factor as one convolution and a pixel shuffle: what every compiler fuses.

`a` tells the bicubics apart: -0.5 is PIL's, -0.75 is torch's (without antialias, align_corners false; equal to it up
to the border). PIL renormalises at the border where this one repeats the edge, so two LR pixels there differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PIL, TORCH = -0.5, -0.75


def bicubic_kernel(scale: int = 4, a: float = PIL) -> Tensor:
    """Cubic convolution (Keys 1981) as a polyphase filter.

    Returns (3*scale*scale, 3, 5, 5) float32 for `conv2d` on a replicate-padded picture, ordered for `pixel_shuffle`.
    """

    def cubic(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    phases = [(p + 0.5) / scale - 0.5 for p in range(scale)]
    taps = torch.tensor([[cubic(phase - offset) for offset in range(-2, 3)] for phase in phases], dtype=torch.float64)
    kernel = torch.zeros(3, scale * scale, 3, 5, 5, dtype=torch.float64)
    for channel in range(3):
        kernel[channel, :, channel] = torch.einsum("yi,xj->yxij", taps, taps).reshape(scale * scale, 5, 5)
    return kernel.reshape(3 * scale * scale, 3, 5, 5).float()


class Enlarge(nn.Module):
    """(N, 3, h, w) -> (N, 3, scale*h, scale*w), any value range, not clamped."""

    def __init__(self, scale: int = 4, a: float = PIL) -> None:
        super().__init__()
        self.scale = scale
        self.kernel: Tensor
        self.register_buffer("kernel", bicubic_kernel(scale, a), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        padded = F.pad(picture, (2, 2, 2, 2), mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.kernel), self.scale)
