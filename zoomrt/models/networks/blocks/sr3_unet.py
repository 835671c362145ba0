"""A conditional UNet in the manner of SR3: the noisy picture beside the enlarged one, told the noise level; predicts
noise.

SkipDiff's own network was never published (doi 10.1609/aaai.v38i5.28195). This is the plain reading: residual blocks
with the noise level added between their convolutions, attention where the picture is smallest. Names of keys are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.layout import children, sides
from zoomrt.models.networks.blocks.swin_unet import Up

GROUPS = 32
HEAD = 64
"""Width of one head of attention, or of all of it where the network is narrower: what fuses on every GPU."""


@dataclass(frozen=True)
class Sr3Config:
    """`widths` of the levels, finest first. `blocks` : residual blocks in a level on the way down; one more back up."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    blocks: int = 2


class ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width: int, temb: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.noise = nn.Linear(temb, width)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.noise(level)[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Over all pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm, self.qkv, self.proj = (
            nn.GroupNorm(GROUPS, width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        n, width = x.shape[:2]
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = (
            part.reshape(n, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, -1, width)
        return x + self.proj(mixed).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Sr3UNet(nn.Module):
    """Noisy picture and enlarged picture, (N, 3, H, W) each, in [-1, 1] but for the noise, H and W multiples of
    2^(levels - 1), and temb (N, first width) -> the noise, (N, 3, H, W)."""

    def __init__(self, config: Sr3Config) -> None:
        super().__init__()
        self.config = config
        finest, coarsest, last = config.widths[0], config.widths[-1], len(config.widths) - 1
        temb = 4 * finest
        self.noise_level = nn.Sequential(nn.Linear(finest, temb), nn.SiLU(), nn.Linear(temb, temb), nn.SiLU())
        self.conv_in = nn.Conv2d(6, finest, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = finest, [finest]
        for level, target in enumerate(config.widths):
            for _ in range(config.blocks):
                self.down.append(ResidualBlock(width, target, temb))
                width = target
                skips.append(width)
            if level < last:
                self.down.append(Down(width))
                skips.append(width)
        self.middle = nn.ModuleList(
            [ResidualBlock(coarsest, coarsest, temb), Attention(coarsest), ResidualBlock(coarsest, coarsest, temb)]
        )
        for level, target in reversed(list(enumerate(config.widths))):
            for _ in range(config.blocks + 1):
                self.up.append(ResidualBlock(width + skips.pop(), target, temb))
                width = target
            if level:
                self.up.append(Up(width))
        self.norm_out, self.conv_out = nn.GroupNorm(GROUPS, finest), nn.Conv2d(finest, 3, 3, padding=1)

    def forward(self, noisy: Tensor, enlarged: Tensor, temb: Tensor) -> Tensor:
        level = self.noise_level(temb)
        x = self.conv_in(torch.cat([noisy, enlarged], dim=1))
        skips = [x]
        for part in self.down:
            x = part(x, level) if isinstance(part, ResidualBlock) else part(x)
            skips.append(x)
        for part in self.middle:
            x = part(x, level) if isinstance(part, ResidualBlock) else part(x)
        for part in self.up:
            x = part(torch.cat([x, skips.pop()], dim=1), level) if isinstance(part, ResidualBlock) else part(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


def sr3_config_of(tensors: Mapping[str, Tensor]) -> Sr3Config:
    """Read sizes off a state dict. KeyError, IndexError or ValueError if it is of no such network."""
    widths, counts = [sides(tensors, "conv_in.weight", 4)[0]], [0]
    for i in range(children(tensors, "down.")):
        block = tensors.get(f"down.{i}.conv1.weight")
        if block is None:  # a step down
            counts.append(0)
            continue
        if len(counts) > len(widths):
            widths.append(block.shape[0])
        counts[-1] += 1
    if len(set(counts)) != 1 or len(counts) != len(widths):
        raise ValueError(f"{counts} blocks in levels of width {widths}")
    return Sr3Config(tuple(widths), counts[0])
