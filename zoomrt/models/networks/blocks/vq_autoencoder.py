"""The autoencoder of ResShift and SinSR: a picture to a latent a quarter its size, and back through a codebook.

Facts: ldm/models/autoencoder.py of github.com/zsyOAOA/ResShift. Encoding does not quantise, decoding does. The nearest
code is searched in FP32 and in parts, since all distances at once are 537 MB for a 512 x 512 picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.layout import sides

GROUPS, EPSILON = 32, 1e-6
CODES_AT_ONCE = 512
"""Columns of the score matrix that exist at a time: 34 MB for a 512 x 512 picture. By codes and not by pixels, so that
a network does the same operations for every tile."""


@dataclass(frozen=True)
class VqConfig:
    """`widths` of the levels, finest first. `blocks` : residual blocks in a level of the encoder; the decoder has one
    more."""

    widths: tuple[int, ...] = (128, 256, 512)
    blocks: int = 2
    channels: int = 3
    codes: int = 8192


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=EPSILON)


def convolution(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)


class ResidualBlock(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(width_in), convolution(width_in, width)
        self.norm2, self.conv2 = norm(width), convolution(width, width)
        self.nin_shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """One head over all pixels. Its size of 512 is beyond fused kernels: TensorRT-RTX takes it apart behind linear
    layers and a transpose, as here, and refuses it behind convolutions or an inserted axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, width = x.shape[:2]
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        parts = (_linear(part, tokens) for part in (self.q, self.k, self.v))
        query, key, value = (part.reshape(n, -1, 1, width).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, -1, width)
        return x + _linear(self.proj_out, mixed).transpose(1, 2).reshape(x.shape)


def _linear(convolution: nn.Conv2d, tokens: Tensor) -> Tensor:
    return F.linear(tokens, convolution.weight.flatten(1), convolution.bias)


class Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            ResidualBlock(width, width),
            Attention(width),
            ResidualBlock(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Down(nn.Module):
    """Zeros on the right and at the bottom only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks and a step to the next level; its key is `downsample` or `upsample`."""

    def __init__(self, width_in: int, width: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*(ResidualBlock(width if i else width_in, width) for i in range(blocks)))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.upsample(self.downsample(self.block(x)))
        return out


class Encoder(nn.Module):
    """(N, 3, 4h, 4w) -> (N, channels, h, w)."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = convolution(3, widths[0])
        before = (widths[0], *widths)
        self.down = nn.ModuleList(Level(a, b, config.blocks) for a, b in zip(before, widths, strict=False))
        for level, width in zip(self.down[:-1], widths, strict=False):
            level.downsample = Down(width)
        self.mid = Middle(widths[-1])
        self.norm_out, self.conv_out = norm(widths[-1]), convolution(widths[-1], config.channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """(N, channels, h, w) -> (N, 3, 4h, 4w). Levels are numbered as in the encoder: the last one runs first."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = convolution(config.channels, widths[-1])
        self.mid = Middle(widths[-1])
        before = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(Level(a, b, config.blocks + 1) for a, b in zip(before, widths, strict=True))
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = Up(width)
        self.norm_out, self.conv_out = norm(widths[0]), convolution(widths[0], 3)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))  # type: ignore[no-any-return]


class Codebook(nn.Module):
    """Replaces each latent pixel by the nearest code; FP32 inside, or nearness flips between codes."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codes, config.channels)

    def forward(self, z: Tensor) -> Tensor:
        """(N, channels, h, w), any float type -> the same, every pixel a code; of equally near codes the first."""
        codes = self.embedding.weight.float()
        pixels = z.float().permute(0, 2, 3, 1)
        nearest: Tensor | None = None
        best = pixels.new_zeros(())
        for first in range(0, len(codes), CODES_AT_ONCE):
            part = codes[first : first + CODES_AT_ONCE]
            # |z - e|^2 is smallest where z.e - |e|^2 / 2 is largest
            scores = F.linear(pixels, part, part.square().sum(1) / -2)
            # not max, whose two results are two nodes: a runtime that puts off one of them keeps all parts' scores
            index = scores.argmax(dim=-1, keepdim=True)
            score = scores.gather(-1, index)
            if nearest is None:
                nearest, best = index, score
            else:
                nearest, best = torch.where(score > best, index + first, nearest), torch.maximum(score, best)
        assert nearest is not None
        return F.embedding(nearest[..., 0], codes).permute(0, 3, 1, 2).to(z.dtype)


class VqAutoencoder(nn.Module):
    """Encoder, codebook and decoder under the published keys."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv, self.post_quant_conv = (nn.Conv2d(config.channels, config.channels, 1) for _ in range(2))
        self.quantize = Codebook(config)

    def encode(self, picture: Tensor) -> Tensor:
        """(N, 3, 4h, 4w) in [-1, 1] -> (N, channels, h, w), not quantised."""
        out: Tensor = self.quant_conv(self.encoder(picture))
        return out

    def decode(self, latent: Tensor) -> Tensor:
        """(N, channels, h, w) -> (N, 3, 4h, 4w) nominally in [-1, 1], not clamped."""
        out: Tensor = self.decoder(self.post_quant_conv(self.quantize(latent)))
        return out


def vq_config_of(tensors: Mapping[str, Tensor]) -> VqConfig:
    """Read widths and counts off a state dict. KeyError or ValueError if it is of no such network."""
    parts = [key.split(".") for key in tensors if key.startswith("encoder.down.") and key.endswith("conv2.weight")]
    levels = {int(part[2]) for part in parts}
    codes, channels = sides(tensors, "quantize.embedding.weight", 2)
    return VqConfig(
        widths=tuple(sides(tensors, f"encoder.down.{i}.block.0.conv2.weight", 4)[0] for i in sorted(levels)),
        blocks=len(parts) // len(levels),
        channels=channels,
        codes=codes,
    )
