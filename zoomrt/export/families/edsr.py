"""The `edsr` family (CVPRW 2017): residual blocks without normalisation; x2, x3 and x4, baseline and full width.

Facts: baselines.md section 1. The published weights speak [0, 255]. The network is homogeneous but for its biases
(convolution, ReLU, shuffle), so dividing every bias by 255 makes it speak [0, 1], where FP16 is at home, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zoomrt.export.checkpoint import Checkpoint, load_weights
from zoomrt.export.family import Family, FamilyFacts, SizeRule, TilingAdvice
from zoomrt.export.sources import NO_SOURCES, Sources

__all__ = ["FAMILY", "EdsrConfig", "EdsrNetwork"]

PUBLISHED_WHITE = 255.0
WIDE = 256  # from here on residuals are scaled; no file says so


@dataclass(frozen=True)
class EdsrConfig:
    width: int = 64
    blocks: int = 16
    scale: int = 4

    @property
    def residual_share(self) -> float:
        """0.1 in the full model, which would not train without; 1 in the baseline."""
        return 0.1 if self.width >= WIDE else 1.0

    @property
    def steps(self) -> tuple[int, ...]:
        """Factors of the pixel shuffles one after another."""
        return (2,) * int(math.log2(self.scale)) if self.scale != 3 else (3,)


def convolution(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)


class ResidualBlock(nn.Module):
    def __init__(self, width: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.body = nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        return x + (residual if self.share == 1 else self.share * residual)  # type: ignore[no-any-return]


class EdsrNetwork(nn.Module):
    """(N, 3, h, w) -> (N, 3, scale*h, scale*w), not clamped; in the values that the biases are for."""

    def __init__(self, config: EdsrConfig) -> None:
        super().__init__()
        width = config.width
        self.sub_mean = nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(convolution(3, width))
        blocks = (ResidualBlock(width, config.residual_share) for _ in range(config.blocks))
        self.body = nn.Sequential(*blocks, convolution(width, width))
        enlarge: list[nn.Module] = []
        for step in config.steps:
            enlarge += [convolution(width, step**2 * width), nn.PixelShuffle(step)]
        self.tail = nn.Sequential(nn.Sequential(*enlarge), convolution(width, 3))
        self.add_mean = nn.Conv2d(3, 3, 1)

    def forward(self, lr: Tensor) -> Tensor:
        h = self.head(self.sub_mean(lr))
        out: Tensor = self.add_mean(self.tail(h + self.body(h)))
        return out


def config_of(tensors: Mapping[str, Tensor]) -> EdsrConfig:
    """Read width, count and scale off a state dict. KeyError or ValueError if it is of no such network."""
    width = tensors["head.0.weight"].shape[0]
    shuffles = [
        tensor.shape[0] // width for key, tensor in tensors.items() if key.startswith("tail.0.") if "weight" in key
    ]
    scale = math.isqrt(math.prod(shuffles))
    if shuffles not in ([4], [9], [4, 4]):
        raise ValueError(f"pixel shuffles of {shuffles} pixels")
    blocks = len({key.split(".")[1] for key in tensors if key.startswith("body.") and ".body." in key})
    return EdsrConfig(width=width, blocks=blocks, scale=scale)


class Edsr(Family):
    facts = FamilyFacts(
        name="edsr",
        scale=4,
        size=SizeRule(minimum=16, multiple_of=1),
        value_range=(0.0, 1.0),
        steps=1,
        tiling=TilingAdvice(tile=128, overlap=32, context=10),  # the authors shave 10 output pixels
        weights_licence="EDSR-PyTorch MIT",
    )

    def recognises(self, checkpoint: Checkpoint) -> bool:
        keys = ("sub_mean.weight", "head.0.weight", "body.0.body.0.weight", "tail.0.0.weight", "tail.1.weight")
        return set(keys) <= checkpoint.tensors().keys()

    def facts_of(self, checkpoint: Checkpoint) -> FamilyFacts:
        return replace(self.facts, scale=self._config(checkpoint).scale)

    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> EdsrNetwork:  # noqa: ARG002
        with torch.device("meta"):
            network = EdsrNetwork(self._config(checkpoint))
        load_weights(network, checkpoint.tensors(), checkpoint.path)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias = nn.Parameter(module.bias.detach() / PUBLISHED_WHITE)  # the checkpoint keeps its own
        return network.eval()

    def _config(self, checkpoint: Checkpoint) -> EdsrConfig:
        with checkpoint.read_as(
            "edsr",
            needed="keys like sub_mean.weight, head.0.weight, body.0.body.0.weight, tail.1.weight",
            remedy="Use a file such as edsr_x4-4f62e9ef.pt or edsr_baseline_x4-6b446fab.pt of EDSR-PyTorch.",
        ):
            return config_of(checkpoint.tensors())


FAMILY = Edsr()
