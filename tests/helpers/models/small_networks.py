"""Networks of a few layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A residual stream between a convolution and a norm, as every network here has one."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.norm, self.norm_out = nn.GroupNorm(2, 8), nn.GroupNorm(2, 8)
        self.conv, self.shortcut = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        with torch.no_grad():
            self.conv_in.weight *= gain

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        h = self.shortcut(h) + self.conv(F.silu(self.norm(h)))
        return self.conv_out(F.silu(self.norm_out(h)))
