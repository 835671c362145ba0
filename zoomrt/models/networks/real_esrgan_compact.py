"""Real-ESRGAN's compact networks: a plain chain of convolutions at input size, on top of the repeated input pixels.

Facts: github.com/xinntao/Real-ESRGAN. realesr-animevideov3 has 16 convolutions between the first and the last,
realesr-general-x4v3 has 32. The latter comes as two files, of which one keeps noise (wdn): a mixture of both, tensor
by tensor, sets how much noise goes (`--wdn-weights`, `--denoise-strength`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.models.checkpoint import Checkpoint, load_checkpoint, load_weights
from zoomrt.models.family import Family
from zoomrt.models.layout import UnknownVariant, children, sides

DENOISE_STRENGTH = 0.5  # what the authors' script takes when none is given


@dataclass(frozen=True)
class CompactConfig:
    """`middle` : convolutions of equal width between the first and the last."""

    width: int = 64
    middle: int = 32
    scale: int = 4


class CompactNetwork(nn.Module):
    """(N, 3, h, w) in [0, 1] -> (N, 3, scale*h, scale*w), not clamped."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.scale = config.scale
        width = config.width
        layers: list[nn.Module] = []
        for width_in in (3, *[width] * config.middle):
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * config.scale**2, 3, padding=1))

    def forward(self, lr: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.body(lr), self.scale)
        return residual + F.interpolate(lr, scale_factor=float(self.scale), mode="nearest")


def config_of(tensors: Mapping[str, Tensor]) -> CompactConfig:
    """Read width, count and scale off a state dict. KeyError or ValueError if it is of no such network."""
    last = children(tensors, "body.") - 1
    width, colours = sides(tensors, "body.0.weight", 4)[:2]
    channels = sides(tensors, f"body.{last}.weight", 4)[0]
    scale = math.isqrt(channels // 3)
    if last % 2 or colours != 3 or 3 * scale**2 != channels:
        seen = f"{colours} channel{'s' * (colours != 1)} (body.0.weight), {channels} at the end (body.{last}.weight)"
        raise UnknownVariant(seen, "3, and at the end 3 times the scale's square")
    return CompactConfig(width=width, middle=last // 2 - 1, scale=scale)


def fitted(family: Family, checkpoint: Checkpoint) -> Family:
    """See `Family.module`."""
    return replace(family, scale=_config(family, checkpoint).scale)


def network(
    family: Family, checkpoint: Checkpoint, *, wdn_weights: Path | None = None, denoise_strength: float | None = None
) -> CompactNetwork:
    """See `Family.module`. denoise_strength : share of the denoising weights, `checkpoint`, in the mixture."""
    if wdn_weights is None and denoise_strength is not None:
        raise family.lacks("wdn_weights", "realesr-general-wdn-x4v3.pth, which keeps noise")
    config = _config(family, checkpoint)
    made = _loaded(family, config, checkpoint)
    if wdn_weights is not None:
        share = DENOISE_STRENGTH if denoise_strength is None else denoise_strength
        _mix(made, share, _loaded(family, config, load_checkpoint(wdn_weights)))
    return made.eval()


def _config(family: Family, checkpoint: Checkpoint) -> CompactConfig:
    tensors = family.layout.tensors(checkpoint)
    with family.layout.reading(checkpoint):
        return config_of(tensors)


def _loaded(family: Family, config: CompactConfig, checkpoint: Checkpoint) -> CompactNetwork:
    with torch.device("meta"):
        made = CompactNetwork(config)
    load_weights(made, family.layout.tensors(checkpoint), checkpoint.path)
    return made


def _mix(network: CompactNetwork, share: float, other: CompactNetwork) -> None:
    """Every weight w of `network` becomes share * w + (1 - share) * that of `other`, a network of the same shapes."""
    for weight, kept in zip(network.parameters(), other.parameters(), strict=True):
        weight.data = share * weight.data + (1 - share) * kept.data  # the checkpoints keep theirs
