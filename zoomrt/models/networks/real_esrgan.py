"""Real-ESRGAN (ICCVW 2021): residual-in-residual dense blocks, no normalisation, no attention.

Facts: github.com/xinntao/Real-ESRGAN. Variants differ by shapes alone, so they are read off the weights: x4plus (23
blocks), anime 6B (6 blocks), and x2plus, which folds 2 x 2 pixels into channels first and then enlarges by 4 as the
others do. Three generations of names for the same network: Real-ESRGAN's, BSRGAN's, and the first ESRGAN's with its
other scales.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.checkpoint import Checkpoint, load_weights
from zoomrt.models.family import Family
from zoomrt.models.layout import UnknownVariant, children, sides

SLOPE = 0.2  # of every leaky ReLU
RESIDUAL_SHARE = 0.2  # of a dense block in its sum, and of three of them in theirs


@dataclass(frozen=True)
class DenseConfig:
    """`unshuffle` : side of the pixel blocks folded into channels before the first convolution; 1 for x4.
    doublings : how often the picture is doubled at the end."""

    width: int = 64
    growth: int = 32
    blocks: int = 23
    unshuffle: int = 1
    doublings: int = 2

    @property
    def scale(self) -> int:
        return (1 << self.doublings) // self.unshuffle


def convolution(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and what all before it found."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = convolution(width, growth)
        self.conv2 = convolution(width + growth, growth)
        self.conv3 = convolution(width + 2 * growth, growth)
        self.conv4 = convolution(width + 3 * growth, growth)
        self.conv5 = convolution(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat([seen, activate(conv(seen))], dim=1)
        return x + RESIDUAL_SHARE * self.conv5(seen)  # type: ignore[no-any-return]


class ResidualOfDenseBlocks(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SHARE * self.rdb3(self.rdb2(self.rdb1(x)))  # type: ignore[no-any-return]


class DenseNetwork(nn.Module):
    """(N, 3, h, w) in [0, 1], h and w multiples of `unshuffle` -> (N, 3, scale*h, scale*w), not clamped."""

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.unshuffle = config.unshuffle
        width = config.width
        self.conv_first = convolution(3 * config.unshuffle**2, width)
        self.body = nn.Sequential(*(ResidualOfDenseBlocks(width, config.growth) for _ in range(config.blocks)))
        self.conv_body = convolution(width, width)
        self.doublings = config.doublings
        for i in range(config.doublings):
            self.add_module(f"conv_up{i + 1}", convolution(width, width))
        self.conv_hr = convolution(width, width)
        self.conv_last = convolution(width, 3)

    def forward(self, lr: Tensor) -> Tensor:
        # written only where it does something: a shuffle by 1 would stay in the graph
        first = self.conv_first(F.pixel_unshuffle(lr, self.unshuffle) if self.unshuffle > 1 else lr)
        h = first + self.conv_body(self.body(first))
        for i in range(self.doublings):
            h = activate(self.get_submodule(f"conv_up{i + 1}")(doubled(h)))
        out: Tensor = self.conv_last(activate(self.conv_hr(h)))
        return out


def config_of(tensors: Mapping[str, Tensor]) -> DenseConfig:
    """Read widths and counts off a state dict. KeyError or ValueError if it is of no such network."""
    width, channels = sides(tensors, "conv_first.weight", 4)[:2]
    doublings = sum(f"conv_up{i}.weight" in tensors for i in (1, 2, 3))
    unshuffle = math.isqrt(channels // 3)
    if not unshuffle or 3 * unshuffle**2 != channels or 2**doublings % unshuffle:
        seen = f"{channels} channel{'s' * (channels != 1)} (conv_first.weight)"
        raise UnknownVariant(seen, "one of " + ", ".join(str(3 * 4**i) for i in range(doublings + 1)))
    return DenseConfig(
        width=width,
        growth=sides(tensors, "body.0.rdb1.conv1.weight", 4)[0],
        blocks=children(tensors, "body."),
        unshuffle=unshuffle,
        doublings=doublings,
    )


def from_bsrgan(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of BSRGAN, RealSR and ESRGAN's second edition."""
    names = {
        "RRDB_trunk.": "body.",
        ".RDB": ".rdb",
        "trunk_conv": "conv_body",
        "upconv": "conv_up",
        "HRconv": "conv_hr",
    }
    return {
        functools.reduce(lambda key, old: key.replace(old, names[old]), names, key): tensors[key] for key in tensors
    }


def from_esrgan(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of ESRGAN's first edition, a list of layers: first convolution, body, one for each doubling, two more.

    Of the body, the last is the convolution that closes it. An index counts activations too, so its place tells.
    """
    layers = sorted({int(key.split(".")[1]) for key in tensors if key.startswith("model.")})
    ends = ["conv_first", "body", *(f"conv_up{i}" for i in range(1, len(layers) - 3)), "conv_hr", "conv_last"]
    names = {str(layer): name for layer, name in zip(layers, ends, strict=True)}
    found = {}
    for key, tensor in tensors.items():
        _, layer, rest = key.split(".", 2)
        block = re.fullmatch(r"sub\.(\d+)\.RDB(\d)\.(conv\w+)\.0\.(\w+)", rest)
        closing = re.fullmatch(r"sub\.\d+\.(weight|bias)", rest)
        if block:
            found["body.{}.rdb{}.{}.{}".format(*block.groups())] = tensor
        else:
            found[f"conv_body.{closing[1]}" if closing else f"{names[layer]}.{rest}"] = tensor
    return found


def fitted(family: Family, checkpoint: Checkpoint) -> Family:
    """See `Family.module`."""
    config = _config(family, family.layout.tensors(checkpoint), checkpoint)
    return replace(family, scale=config.scale, size=replace(family.size, multiple_of=config.unshuffle))


def network(family: Family, checkpoint: Checkpoint) -> DenseNetwork:
    """See `Family.module`."""
    tensors = family.layout.tensors(checkpoint)
    with torch.device("meta"):
        made = DenseNetwork(_config(family, tensors, checkpoint))
    load_weights(made, tensors, checkpoint.path)
    return made.eval()


def _config(family: Family, tensors: Mapping[str, Tensor], checkpoint: Checkpoint) -> DenseConfig:
    with family.layout.reading(checkpoint):
        return config_of(tensors)
