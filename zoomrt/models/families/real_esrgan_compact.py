"""The `real-esrgan-compact` family: a plain chain of convolutions at input size, on top of the repeated input pixels.

Facts: baselines.md section 3. realesr-animevideov3 has 16 convolutions between the first and the last,
realesr-general-x4v3 has 32. The latter comes as two files, of which one keeps noise (wdn): a mixture of both, tensor
by tensor, sets how much noise goes (`--wdn-weights`, `--denoise-strength`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import Checkpoint, load_checkpoint, load_weights
from zoomrt.models.family import Family, FamilyFacts, SizeRule, TilingAdvice
from zoomrt.models.layout import Layout, Naming, UnknownVariant, children, sides
from zoomrt.models.sources import NO_SOURCES, Sources

__all__ = ["FAMILY", "CompactConfig", "CompactNetwork"]

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


class RealEsrganCompact(Family):
    facts = FamilyFacts(
        name="real-esrgan-compact",
        scale=4,
        size=SizeRule(minimum=16, multiple_of=1),
        value_range=(0.0, 1.0),
        steps=1,
        tiling=TilingAdvice(tile=192, overlap=32, context=10),  # the authors' tile_pad is 10
        weights_licence="Real-ESRGAN BSD-3-Clause",
        takes=("wdn_weights", "denoise_strength"),
    )

    layout = Layout(
        model=facts.name,
        # a convolution, a PReLU, which has no bias, a convolution
        namings=(Naming(("body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight"), without="body.1.bias"),),
        published="Use realesr-general-x4v3.pth or realesr-animevideov3.pth of github.com/xinntao/Real-ESRGAN.",
    )

    def facts_of(self, checkpoint: Checkpoint) -> FamilyFacts:
        return replace(self.facts, scale=self._config(checkpoint).scale)

    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> CompactNetwork:
        config, strength = self._config(checkpoint), _denoise_strength(sources)
        network = self._loaded(config, checkpoint)
        if sources.wdn_weights is not None:
            _mix(network, strength, self._loaded(config, load_checkpoint(sources.wdn_weights)))
        return network.eval()

    def _config(self, checkpoint: Checkpoint) -> CompactConfig:
        tensors = self.layout.tensors(checkpoint)
        with self.layout.reading(checkpoint):
            return config_of(tensors)

    def _loaded(self, config: CompactConfig, checkpoint: Checkpoint) -> CompactNetwork:
        with torch.device("meta"):
            network = CompactNetwork(config)
        load_weights(network, self.layout.tensors(checkpoint), checkpoint.path)
        return network


def _denoise_strength(sources: Sources) -> float:
    """The share of the denoising weights. Raises UsageError for one outside 0 to 1, or with nothing to mix in."""
    strength = sources.denoise_strength
    if strength is None:
        return DENOISE_STRENGTH
    if not 0 <= strength <= 1:
        raise UsageError(
            "cannot mix the weights", seen=f"--denoise-strength {strength}", needed="0 to 1", remedy="Choose one."
        )
    sources.required("wdn_weights", "real-esrgan-compact", "realesr-general-wdn-x4v3.pth, which keeps noise")
    return strength


def _mix(network: CompactNetwork, share: float, other: CompactNetwork) -> None:
    """Every weight w of `network` becomes share * w + (1 - share) * that of `other`, a network of the same shapes."""
    for weight, kept in zip(network.parameters(), other.parameters(), strict=True):
        weight.data = share * weight.data + (1 - share) * kept.data  # the checkpoints keep theirs


FAMILY = RealEsrganCompact()
