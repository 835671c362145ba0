"""edge: a one-step x4 student small enough to ship inside the package.

Same ingredients as the big one-step diffusion models (GroupNorm + SiLU residual blocks, self-attention
at the coarse level, a timestep embedding), so fusion, quantisation and seams behave like theirs.
It sees one fixed timestep and predicts the clean picture as a residual on the bicubic enlargement.
Its weights are trained by `training/train_edge.py` and described in `families/edge.md`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.checkpoint import Checkpoint, loaded
from zoomrt.models.family import Family
from zoomrt.models.layout import children, sides
from zoomrt.models.networks.blocks.bicubic import bicubic_kernel

SCALE = 4
TIMESTEP = 999.0  # the one timestep the student is distilled at; folded into constants on export
TIME_FEATURES = 64
HEAD_SIZE = 32  # within the 16..256 that TensorRT-RTX 1.7 fuses, as measured


@dataclass(frozen=True)
class EdgeConfig:
    """Widths of the three levels (full, half, quarter LR resolution) and residual blocks in each part."""

    widths: tuple[int, int, int] = (48, 96, 128)
    encoder_blocks: tuple[int, int] = (2, 2)
    middle_blocks: int = 2
    decoder_blocks: tuple[int, int] = (3, 2)
    groups: int = 8


def timestep_features(timestep: float, count: int = TIME_FEATURES) -> Tensor:
    """Sinusoidal features in the [cos, sin] order of Stable Diffusion's UNet in diffusers; (1, count) float32."""
    half = count // 2
    angles = timestep * torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    return torch.cat([angles.cos(), angles.sin()]).float()[None]


class ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.time_emb_proj = nn.Linear(TIME_FEATURES, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.conv_shortcut(x) + h
        return out


class SelfAttention(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.heads = width // HEAD_SIZE
        self.group_norm = nn.GroupNorm(groups, width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)

        def split(t: Tensor) -> Tensor:
            return t.reshape(n, h * w, self.heads, HEAD_SIZE).transpose(1, 2)

        out = F.scaled_dot_product_attention(
            split(self.to_q(tokens)), split(self.to_k(tokens)), split(self.to_v(tokens))
        )
        out = self.to_out(out.transpose(1, 2).reshape(n, h * w, c))
        return x + out.transpose(1, 2).reshape(n, c, h, w)  # type: ignore[no-any-return]


class EdgeNetwork(nn.Module):
    """(N, 3, H, W) in [-1, 1], H and W multiples of 4 -> (N, 3, 4H, 4W), nominally in [-1, 1], not clamped."""

    def __init__(self, config: EdgeConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EdgeConfig()
        fine, half, coarse = config.widths
        groups = config.groups

        def blocks(count: int, width_in: int, width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width_in if i == 0 else width, width, groups) for i in range(count))

        self.time_embedding = nn.Sequential(
            nn.Linear(TIME_FEATURES, TIME_FEATURES), nn.SiLU(), nn.Linear(TIME_FEATURES, TIME_FEATURES), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(3, fine, 3, padding=1)
        self.encoder_fine = blocks(config.encoder_blocks[0], fine, fine)
        self.down_half = nn.Conv2d(fine, half, 3, stride=2, padding=1)
        self.encoder_half = blocks(config.encoder_blocks[1], half, half)
        self.down_coarse = nn.Conv2d(half, coarse, 3, stride=2, padding=1)
        self.middle = blocks(config.middle_blocks, coarse, coarse)
        self.attention = nn.ModuleList(SelfAttention(coarse, groups) for _ in range(config.middle_blocks))
        self.up_half = nn.Conv2d(coarse, half, 3, padding=1)
        self.decoder_half = blocks(config.decoder_blocks[1], 2 * half, half)
        self.up_fine = nn.Conv2d(half, fine, 3, padding=1)
        self.decoder_fine = blocks(config.decoder_blocks[0], 2 * fine, fine)
        self.conv_norm_out = nn.GroupNorm(groups, fine)
        self.conv_out = nn.Conv2d(fine, 3 * SCALE * SCALE, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # training starts from plain bicubic
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        self.bicubic: Tensor
        self.timestep: Tensor
        self.register_buffer("bicubic", bicubic_kernel(SCALE), persistent=False)
        self.register_buffer("timestep", timestep_features(TIMESTEP), persistent=False)

    def forward(self, lr: Tensor) -> Tensor:
        time = self.time_embedding(self.timestep)
        fine = self.conv_in(lr)
        for block in self.encoder_fine:
            fine = block(fine, time)
        half = self.down_half(fine)
        for block in self.encoder_half:
            half = block(half, time)
        h = self.down_coarse(half)
        for block, attention in zip(self.middle, self.attention, strict=True):
            h = attention(block(h, time))
        h = torch.cat([self.up_half(F.interpolate(h, scale_factor=2.0, mode="nearest")), half], dim=1)
        for block in self.decoder_half:
            h = block(h, time)
        h = torch.cat([self.up_fine(F.interpolate(h, scale_factor=2.0, mode="nearest")), fine], dim=1)
        for block in self.decoder_fine:
            h = block(h, time)
        residual = self.conv_out(F.silu(self.conv_norm_out(h)))
        base = F.conv2d(F.pad(lr, (2, 2, 2, 2), mode="replicate"), self.bicubic)
        return F.pixel_shuffle(base + residual, SCALE)


def config_of(tensors: Mapping[str, Tensor]) -> EdgeConfig:
    """Read the widths and block counts off a state dict. KeyError or ValueError if it is not an `edge` one."""
    half, fine = sides(tensors, "down_half.weight", 4)[:2]
    return EdgeConfig(
        widths=(fine, half, sides(tensors, "down_coarse.weight", 4)[0]),
        encoder_blocks=(children(tensors, "encoder_fine."), children(tensors, "encoder_half.")),
        middle_blocks=children(tensors, "middle."),
        decoder_blocks=(children(tensors, "decoder_fine."), children(tensors, "decoder_half.")),
    )


def network(family: Family, checkpoint: Checkpoint) -> EdgeNetwork:
    """See `Family.module`."""
    tensors = family.layout.tensors(checkpoint)
    with family.layout.reading(checkpoint):
        config = config_of(tensors)
        return loaded(lambda: EdgeNetwork(config), tensors, checkpoint.path).eval()
