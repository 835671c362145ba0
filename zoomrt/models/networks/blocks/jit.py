"""JiT-SR's network: a transformer on pixels that is told the time and shown the LR picture, and predicts the sharp one.

Facts: model_jitsr.py of github.com/flyingbucket/JiTSR; keys are the published ones without their prefix. Positions are
absolute twice: a stored table, and rotary angles that no file holds. LR tokens join in front of the others from block
`START` on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.half import keep_fp32
from zoomrt.models.layout import children, sides

START = 4
"""The first block that sees LR tokens, in every published configuration (JiTSR, model_jitsr.py)."""
FREQUENCIES = 256  # cosines and sines that tell the time
EPSILON = 1e-6
ROTARY_BASE = 10000.0


@dataclass(frozen=True)
class JitConfig:
    """`grid` : tokens per side. `patch`, `lr_patch` : pixels per token and side. `hidden` : of the feed-forward
    part."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    grid: int = 16
    patch: int = 16
    lr_patch: int = 4
    bottleneck: int = 128
    hidden: int = 2048

    @property
    def scale(self) -> int:
        return self.patch // self.lr_patch


class RmsNorm(nn.Module):
    """Over the last axis, in FP32 whatever the network is in: squares soon are too large for FP16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        keep_fp32(self)

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + EPSILON) * self.weight


class PatchEmbedding(nn.Module):
    """(N, channels, H, W) -> (N, tokens, width), row by row."""

    def __init__(self, channels: int, patch: int, bottleneck: int, width: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(channels, bottleneck, patch, stride=patch, bias=False)
        self.proj2 = nn.Conv2d(bottleneck, width, 1)

    def forward(self, picture: Tensor) -> Tensor:
        out: Tensor = self.proj2(self.proj1(picture)).flatten(2).transpose(1, 2)
        return out


class TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, temb: Tensor) -> Tensor:
        out: Tensor = self.mlp(temb)
        return out


class Attention(nn.Module):
    def __init__(self, config: JitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.q_norm, self.k_norm = (RmsNorm(config.width // config.heads) for _ in range(2))
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """cosines, sines : (tokens, width of a head)."""
        n, tokens, width = x.shape
        query, key, value = (
            part.reshape(n, tokens, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        query, key = _turned(self.q_norm(query), cosines, sines), _turned(self.k_norm(key), cosines, sines)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, tokens, width)
        out: Tensor = self.proj(mixed)
        return out


def _turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Each pair of neighbouring channels turned by its angle."""
    across = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * cosines + across * sines


class FeedForward(nn.Module):
    def __init__(self, config: JitConfig) -> None:
        super().__init__()
        self.w12 = nn.Linear(config.width, 2 * config.hidden)
        self.w3 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class Block(nn.Module):
    def __init__(self, config: JitConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = RmsNorm(config.width), RmsNorm(config.width)
        self.attn, self.mlp = Attention(config), FeedForward(config)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 6 * config.width))

    def forward(self, x: Tensor, c: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """c : (N, width), the condition that shifts, scales and gates."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c)[:, None].chunk(6, dim=-1)
        x = x + gate_a * self.attn(self.norm1(x) * (1 + scale_a) + shift_a, cosines, sines)
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m) + shift_m)  # type: ignore[no-any-return]


class FinalLayer(nn.Module):
    def __init__(self, config: JitConfig) -> None:
        super().__init__()
        self.norm_final = RmsNorm(config.width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))
        self.linear = nn.Linear(config.width, 3 * config.patch**2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=-1)
        out: Tensor = self.linear(self.norm_final(x) * (1 + scale) + shift)
        return out


class Jit(nn.Module):
    """All that a file holds: both ways to be shown the LR picture, of which a network was trained for one."""

    def __init__(self, config: JitConfig) -> None:
        super().__init__()
        self.config = config
        tokens, width = config.grid**2, config.width
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.lr_posemb = nn.Parameter(torch.zeros(1, tokens, width))
        self.t_embedder = TimeEmbedding(width)
        self.x_embedder = PatchEmbedding(3, config.patch, config.bottleneck, width)
        self.x_embedder_concat = PatchEmbedding(6, config.patch, config.bottleneck, width)
        self.lr_embedder = PatchEmbedding(3, config.lr_patch, config.bottleneck, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)
        self.angles: Tensor
        self.register_buffer("angles", _angles(config), persistent=False)


def _angles(config: JitConfig) -> Tensor:
    """(tokens, width of a head): half of a head's channels turn with the row, half with the column, pair by pair."""
    half = config.width // config.heads // 2
    frequencies = ROTARY_BASE ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)
    along = (torch.arange(config.grid)[:, None] * frequencies).repeat_interleave(2, dim=1)
    rows, columns = along[:, None].expand(-1, config.grid, -1), along[None].expand(config.grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def jit_config_of(tensors: Mapping[str, Tensor]) -> JitConfig:
    """Read sizes off a state dict without prefix. KeyError or ValueError if it is of no such network."""
    bottleneck, _, patch, _ = sides(tensors, "x_embedder.proj1.weight", 4)
    _, tokens, width = sides(tensors, "lr_posemb", 3)
    (head,) = sides(tensors, "blocks.0.attn.q_norm.weight", 1)
    grid = math.isqrt(tokens)
    if grid**2 != tokens or width % head or head % 4:
        raise ValueError(f"{tokens} tokens, heads of {head} in {width}")
    return JitConfig(
        width=width,
        depth=children(tensors, "blocks."),
        heads=width // head,
        grid=grid,
        patch=patch,
        lr_patch=sides(tensors, "lr_embedder.proj1.weight", 4)[3],
        bottleneck=bottleneck,
        hidden=sides(tensors, "blocks.0.mlp.w3.weight", 2)[1],
    )
