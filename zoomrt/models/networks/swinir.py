"""SwinIR (ICCVW 2021): residual groups of window attention, in four published kinds.

Facts: models/network_swinir.py of github.com/JingyunLiang/SwinIR. Classical (x2, x3, x4, x8), lightweight and
real-world M and L differ in widths, in the convolution that closes a group and in the tail; all of it is read off the
weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.checkpoint import Checkpoint, loaded
from zoomrt.models.family import Family
from zoomrt.models.layout import UnknownVariant, children, sides
from zoomrt.models.networks.blocks.windows import WINDOW, WindowAttention, cyclic_masks

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K; RGB
Tail = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv"]


@dataclass(frozen=True)
class SwinConfig:
    """What tells the kinds apart.

    depths : blocks in each group. mlp : hidden width of the two-layer networks. long_end : whether three convolutions
    close a group, instead of one. tail : how it enlarges, as its authors call it. features : width of the tail.
    """

    width: int = 180
    depths: tuple[int, ...] = (6,) * 6
    heads: int = 6
    mlp: int = 360
    long_end: bool = False
    tail: Tail = "nearest+conv"
    features: int = 64
    scale: int = 4


def convolution(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)


def end_of_group(width: int, long: bool) -> nn.Module:
    if not long:
        return convolution(width, width)
    narrow = width // 4
    middle = (nn.LeakyReLU(0.2), nn.Conv2d(narrow, narrow, 1), nn.LeakyReLU(0.2))
    return nn.Sequential(convolution(width, narrow), *middle, convolution(narrow, width))


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """(N, H, W, C); every second one works on shifted windows."""

    def __init__(self, config: SwinConfig, masks: Tensor | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = WindowAttention(config.width, config.heads, masks)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Group(nn.Module):
    """(N, H, W, C): blocks, a convolution, and the input again."""

    def __init__(self, config: SwinConfig, depth: int) -> None:
        super().__init__()
        blocks = (Block(config, cyclic_masks() if i % 2 else None) for i in range(depth))
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.Sequential(*blocks)
        self.conv = end_of_group(config.width, config.long_end)

    def forward(self, x: Tensor) -> Tensor:
        return x + channels_last(self.conv(channels_first(self.residual_group.blocks(x))))  # type: ignore[operator]


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


class SwinNetwork(nn.Module):
    """(N, 3, h, w) in [0, 1], h and w multiples of 8, at least 16 -> (N, 3, scale*h, scale*w), not clamped."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.scale, self.tail = config.scale, config.tail
        width, features = config.width, config.features
        self.conv_first = convolution(3, width)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(Group(config, depth) for depth in config.depths))
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = end_of_group(width, config.long_end)
        if config.tail == "pixelshuffledirect":
            self.upsample = nn.Sequential(convolution(width, 3 * config.scale**2), nn.PixelShuffle(config.scale))
        else:
            self.conv_before_upsample = nn.Sequential(convolution(width, features), nn.LeakyReLU(0.01))
            if config.tail == "pixelshuffle":
                self.upsample = nn.Sequential(*shuffles(features, config.scale))
            else:
                self.conv_up1 = convolution(features, features)
                if config.scale == 4:
                    self.conv_up2 = convolution(features, features)
                self.conv_hr = convolution(features, features)
            self.conv_last = convolution(features, 3)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, lr: Tensor) -> Tensor:
        first = self.conv_first(lr - self.mean)
        tokens = self.norm(self.layers(self.patch_embed.norm(channels_last(first))))  # type: ignore[operator]
        h = first + self.conv_after_body(channels_first(tokens))
        if self.tail == "pixelshuffledirect":
            return self.upsample(h) + self.mean  # type: ignore[no-any-return]
        h = self.conv_before_upsample(h)
        if self.tail == "pixelshuffle":
            h = self.upsample(h)
        else:
            for enlarge in (self.conv_up1, self.conv_up2) if self.scale == 4 else (self.conv_up1,):
                h = F.leaky_relu(enlarge(F.interpolate(h, scale_factor=2.0, mode="nearest")), 0.2)
            h = F.leaky_relu(self.conv_hr(h), 0.2)
        return self.conv_last(h) + self.mean  # type: ignore[no-any-return]


def shuffles(features: int, scale: int) -> list[nn.Module]:
    steps = (3,) if scale == 3 else (2,) * int(math.log2(scale))
    pairs = ((convolution(features, step**2 * features), nn.PixelShuffle(step)) for step in steps)
    return [module for pair in pairs for module in pair]


def config_of(tensors: Mapping[str, Tensor]) -> SwinConfig:
    """Read widths, counts, tail and scale off a state dict. KeyError or ValueError if it is of no such network."""
    block = "layers.0.residual_group.blocks.0"
    width, colours = sides(tensors, "conv_first.weight", 4)[:2]
    if colours != 3:
        seen = f"{colours} channel{'s' * (colours != 1)} (conv_first.weight)"
        raise UnknownVariant(seen, "3 channels: files for grey pictures are for other tasks")
    offsets, heads = sides(tensors, f"{block}.attn.relative_position_bias_table", 2)
    if offsets != (2 * WINDOW - 1) ** 2:
        seen = f"windows of {(math.isqrt(offsets) + 1) // 2} pixels ({block}.attn.relative_position_bias_table)"
        raise UnknownVariant(seen, f"windows of {WINDOW}: files for JPEG have others")
    tail, features, scale = _tail_of(tensors)
    return SwinConfig(
        width=width,
        depths=tuple(
            children(tensors, f"layers.{i}.residual_group.blocks.") for i in range(children(tensors, "layers."))
        ),
        heads=heads,
        mlp=sides(tensors, f"{block}.mlp.fc1.weight", 2)[0],
        long_end="conv_after_body.4.weight" in tensors,
        tail=tail,
        features=features,
        scale=scale,
    )


def _tail_of(tensors: Mapping[str, Tensor]) -> tuple[Tail, int, int]:
    """Kind, width and scale."""
    if "conv_up1.weight" in tensors:
        features = sides(tensors, "conv_up1.weight", 4)[0]
        return "nearest+conv", features, 4 if "conv_up2.weight" in tensors else 2
    if "conv_last.weight" not in tensors:
        scale = math.isqrt(sides(tensors, "upsample.0.weight", 4)[0] // 3)
        return "pixelshuffledirect", 0, scale
    features = sides(tensors, "conv_last.weight", 4)[1]
    layers = [key for key in tensors if key.startswith("upsample.") and key.endswith("weight")]
    scale = math.isqrt(math.prod(sides(tensors, key, 4)[0] // features for key in layers))
    if scale not in (2, 3, 4, 8):
        raise UnknownVariant(f"x{scale}", "x2, x3, x4 or x8: files for denoising and JPEG enlarge nothing")
    return "pixelshuffle", features, scale


def fitted(family: Family, checkpoint: Checkpoint) -> Family:
    """See `Family.module`."""
    return replace(family, scale=_config(family, checkpoint).scale)


def network(family: Family, checkpoint: Checkpoint) -> SwinNetwork:
    """See `Family.module`."""
    config = _config(family, checkpoint)
    with family.layout.reading(checkpoint):
        return loaded(lambda: SwinNetwork(config), family.layout.tensors(checkpoint), checkpoint.path).eval()


def _config(family: Family, checkpoint: Checkpoint) -> SwinConfig:
    tensors = family.layout.tensors(checkpoint)
    with family.layout.reading(checkpoint):
        return config_of(tensors)
