"""The UNet of ResShift and SinSR: residual blocks told the timestep by scale and shift, window attention in each level.

Facts: models/unet.py and swin_transformer.py of github.com/zsyOAOA/ResShift. Three things are not textbook: the mask of
shifted windows, windows that are not shifted in the coarsest level, and a window unit whose result replaces its input
instead of being added to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.layout import children, sides
from zoomrt.models.networks.blocks.windows import MASKED, SHIFT, WINDOW, WindowAttention

GROUPS = 32
TRAINED_SIDE = 64  # latent pixels; a level that was one window wide then is never shifted
UNIT_DEPTH = 2


@dataclass(frozen=True)
class SwinUNetConfig:
    """`widths` of the levels, finest first. `blocks` : residual blocks in a level on the way down. `embed`, `heads`,
    `mlp` : of the window units, the same in every level."""

    widths: tuple[int, ...] = (160, 320, 320, 640)
    blocks: int = 2
    embed: int = 192
    heads: int = 6
    mlp: int = 768


def last_row_masks() -> Tensor:
    """The public code's masks, for `WindowAttention`: in the last row of windows, whatever the column, the left and the
    right half do not see each other; nothing else is masked. Training knew no other, so neither may we.
    """
    right = torch.arange(WINDOW).repeat(WINDOW) >= SHIFT
    apart = (right[:, None] != right[None, :]).float() * MASKED
    free = torch.zeros_like(apart)
    return torch.stack([torch.stack([free, free]), torch.stack([apart, apart])])


class ResidualBlock(nn.Module):
    """Told the timestep by scale and shift, or folded for one."""

    def __init__(self, width_in: int, width: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1)
        )
        self.emb_layers: nn.Sequential | None = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * width))
        # the third place is the published dropout's, which keeps the keys
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Identity(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def fold_time(self, embedding: Tensor) -> None:
        """norm(h) * (1 + scale) + shift is a norm with another weight and bias. embedding : (1, time)."""
        assert self.emb_layers is not None
        scale, shift = self.emb_layers(embedding)[0].chunk(2)
        norm = self.out_layers[0]
        norm.weight, norm.bias = (nn.Parameter(t) for t in (norm.weight * (1 + scale), norm.bias * (1 + scale) + shift))
        self.emb_layers = None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """time : (N, time), the embedded timestep; None once it is folded."""
        h = self.out_layers[0](self.in_layers(x))
        if self.emb_layers is not None:
            scale, shift = self.emb_layers(time)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class WindowBlock(nn.Module):
    """(N, C, H, W); group norms, not layer norms."""

    def __init__(self, config: SwinUNetConfig, masks: Tensor | None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, config.embed)
        self.attn = WindowAttention(config.embed, config.heads, masks)
        self.norm2 = nn.GroupNorm(GROUPS, config.embed)
        self.mlp = Mlp(config.embed, config.mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Projection(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


class WindowUnit(nn.Module):
    """Into the width of attention, two blocks, and out again; every second block is shifted, but none in a level of
    `level` halvings that was one window wide in training."""

    def __init__(self, width: int, config: SwinUNetConfig, level: int) -> None:
        super().__init__()
        shifts = TRAINED_SIDE >> level > WINDOW
        self.patch_embed = Projection(width, config.embed)
        self.blocks = nn.Sequential(
            *(WindowBlock(config, last_row_masks() if shifts and i % 2 else None) for i in range(UNIT_DEPTH))
        )
        self.patch_unembed = Projection(config.embed, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.patch_unembed(self.blocks(self.patch_embed(x)))
        return out


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class SwinUNet(nn.Module):
    """(N, 6, h, w) -> (N, 3, h, w), h and w multiples of 64: scaled noisy latent and LR picture in, clean latent out.

    Keys are the published ones. `fold_time` makes it a network of one timestep.
    """

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__()
        self.config = config
        finest, coarsest = config.widths[0], config.widths[-1]
        time, last = 4 * finest, len(config.widths) - 1
        self.time_embed: nn.Sequential | None = nn.Sequential(nn.Linear(finest, time), nn.SiLU(), nn.Linear(time, time))
        width, skips = finest, [finest]
        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(6, finest, 3, padding=1))])
        for level, target in enumerate(config.widths):
            for j in range(config.blocks):
                unit = [WindowUnit(target, config, level)] if j == 0 else []
                self.input_blocks.append(nn.Sequential(ResidualBlock(width, target, time), *unit))
                width = target
                skips.append(width)
            if level < last:
                self.input_blocks.append(nn.Sequential(Down(width)))
                skips.append(width)
        self.middle_block = nn.Sequential(
            ResidualBlock(coarsest, coarsest, time),
            WindowUnit(coarsest, config, last),
            ResidualBlock(coarsest, coarsest, time),
        )
        self.output_blocks = nn.ModuleList()
        for level, target in reversed(list(enumerate(config.widths))):
            for j in range(config.blocks + 1):
                more: list[nn.Module] = [WindowUnit(target, config, level)] if j == 0 else []
                if level and j == config.blocks:
                    more.append(Up(target))
                self.output_blocks.append(nn.Sequential(ResidualBlock(width + skips.pop(), target, time), *more))
                width = target
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, finest), nn.SiLU(), nn.Conv2d(finest, 3, 3, padding=1))

    @torch.no_grad()
    def fold_time(self, timestep: int) -> None:
        """Write what the blocks are told of the timestep (0-based, not rescaled) into their norms; drop the rest."""
        assert self.time_embed is not None
        half = self.config.widths[0] // 2
        angles = timestep * torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
        embedding = self.time_embed(torch.cat([angles.cos(), angles.sin()]).float()[None])
        self.time_embed = None
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.fold_time(embedding)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """temb : (N, width of the finest level), the timestep's cosines and sines; None once it is folded."""
        time = None if self.time_embed is None else self.time_embed(temb)
        skips = []
        for block in self.input_blocks:
            x = _through(block, x, time)
            skips.append(x)
        x = _through(self.middle_block, x, time)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, skips.pop()], dim=1), time)
        out: Tensor = self.out(x)
        return out


def _through(block: nn.Module, x: Tensor, time: Tensor | None) -> Tensor:
    for part in block.children():
        x = part(x, time) if isinstance(part, ResidualBlock) else part(x)
    return x


def swin_unet_config_of(tensors: Mapping[str, Tensor]) -> SwinUNetConfig:
    """Read widths and counts off a state dict. KeyError, IndexError or ValueError if it is of no such network."""
    widths: list[int] = []
    counts: list[int] = []
    for i in range(1, children(tensors, "input_blocks.")):
        block = tensors.get(f"input_blocks.{i}.0.in_layers.2.weight")
        if block is None:  # a step down
            continue
        if f"input_blocks.{i}.1.patch_embed.proj.weight" in tensors:  # the first of its level
            widths.append(block.shape[0])
            counts.append(0)
        counts[-1] += 1
    unit = "input_blocks.1.1"
    offsets, heads = sides(tensors, f"{unit}.blocks.0.attn.relative_position_bias_table", 2)
    if offsets != (2 * WINDOW - 1) ** 2 or len(set(counts)) != 1:
        raise ValueError(f"{offsets} relative positions, {counts} blocks in the levels")
    return SwinUNetConfig(
        widths=tuple(widths),
        blocks=counts[0],
        embed=sides(tensors, f"{unit}.patch_embed.proj.weight", 4)[0],
        heads=heads,
        mlp=sides(tensors, f"{unit}.blocks.0.mlp.fc1.weight", 4)[0],
    )
