"""EDSR (CVPRW 2017): residual blocks without normalisation; x2, x3 and x4, baseline and full width.

Facts: github.com/sanghyun-son/EDSR-PyTorch. The published weights speak [0, 255]; others say what they speak in the
mean that their first layer takes away. The network is homogeneous but for its biases (convolution, ReLU, shuffle), so
dividing every bias by white makes it speak [0, 1], where FP16 is at home, exactly. Names of EDSR-PyTorch or of BasicSR.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import Checkpoint, load_weights
from zoomrt.models.family import Family
from zoomrt.models.layout import UnknownVariant, children, sides

PUBLISHED_WHITE = 255.0
MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K; RGB
MEAN_TOLERANCE, ROUNDING = 4e-3, 5e-4  # relative; a third of what BF16 rounds to, and what FP16 does
RESIDUAL_SCALES = {64: 1.0, 256: 0.1}
"""Of the published widths; the wide one would not train without. No file says so."""


@dataclass(frozen=True)
class EdsrConfig:
    width: int = 64
    blocks: int = 16
    scale: int = 4
    residual_scale: float = 1.0

    @property
    def steps(self) -> tuple[int, ...]:
        """Factors of the pixel shuffles one after another."""
        return (2,) * int(math.log2(self.scale)) if self.scale != 3 else (3,)


def convolution(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, padding=1)


class ResidualBlock(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.body(x)
        return x + (residual if self.scale == 1 else self.scale * residual)  # type: ignore[no-any-return]


class EdsrNetwork(nn.Module):
    """(N, 3, h, w) -> (N, 3, scale*h, scale*w), not clamped; in the values that the biases are for."""

    def __init__(self, config: EdsrConfig) -> None:
        super().__init__()
        width = config.width
        self.sub_mean = nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(convolution(3, width))
        blocks = (ResidualBlock(width, config.residual_scale) for _ in range(config.blocks))
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


def config_of(tensors: Mapping[str, Tensor], residual_scale: float | None) -> EdsrConfig:
    """Read width, count and scale off a state dict. KeyError or ValueError if it is of no such network.

    residual_scale : as the user has it. UsageError without one for a width whose own is not known.
    """
    width, colours = sides(tensors, "head.0.weight", 4)[:2]
    if colours != 3:
        raise UnknownVariant(f"{colours} channel{'s' * (colours != 1)} (head.0.weight)", "3 channels")
    shuffles = [
        sides(tensors, key, 4)[0] // width
        for key in sorted(tensors)
        if key.startswith("tail.0.") and key.endswith("weight")
    ]
    scale = math.isqrt(math.prod(shuffles))
    if shuffles not in ([4], [9], [4, 4]):
        raise UnknownVariant(f"x{scale} (tail.0 shuffles {', '.join(map(str, shuffles))} pixels)", "x2, x3 or x4")
    if residual_scale is None and width not in RESIDUAL_SCALES:
        raise UsageError(
            "cannot tell how this network scales its residuals, which no file says",
            seen=f"{width} channels (head.0.weight)",
            needed="--residual-scale, or " + " or ".join(f"{w} channels ({s:g})" for w, s in RESIDUAL_SCALES.items()),
            remedy="Pass --residual-scale with the res_scale that it was trained with.",
        )
    return EdsrConfig(
        width=width,
        blocks=children(tensors, "body.") - 1,
        scale=scale,
        residual_scale=RESIDUAL_SCALES[width] if residual_scale is None else residual_scale,
    )


def white_of(tensors: Mapping[str, Tensor]) -> float:
    """The value that white has for the network: its first layer takes so many times DIV2K's mean away."""
    if sides(tensors, "sub_mean.bias", 1) != (3,):
        raise UnknownVariant(f"{len(tensors['sub_mean.bias'])} means (sub_mean.bias)", f"a multiple of {MEAN}")
    bias = tensors["sub_mean.bias"].double()
    whites = -bias / torch.tensor(MEAN, dtype=torch.float64)
    white = float(whites.mean())
    if not white > 0 or float((whites / white - 1).abs().max()) > MEAN_TOLERANCE:
        seen = f"{[round(float(value), 4) for value in bias.flatten()[:3]]} (sub_mean.bias)"
        raise UnknownVariant(seen, f"a negative multiple of {MEAN}, DIV2K's mean colour, which tells the range")
    whole = round(white)  # stored numbers are rounded; ranges in use are whole: 1, 255, 1023, 65535
    return float(whole) if whole and abs(white - whole) <= ROUNDING * white else white


def from_basicsr(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of BasicSR, whose files leave the mean's two layers out; its range is 255 in every configuration."""
    last = children(tensors, "body.")
    found = {}
    for key, tensor in tensors.items():
        for old, new in (
            (r"conv_first\.", "head.0."),
            (r"body\.(\d+)\.conv1\.", r"body.\1.body.0."),
            (r"body\.(\d+)\.conv2\.", r"body.\1.body.2."),
            (r"conv_after_body\.", f"body.{last}."),
            (r"upsample\.", "tail.0."),
            (r"conv_last\.", "tail.1."),
        ):
            key = re.sub(f"^{old}", new, key)
        found[key] = tensor
    mean = PUBLISHED_WHITE * torch.tensor(MEAN)
    for name, bias in (("sub_mean", -mean), ("add_mean", mean)):
        found |= {f"{name}.weight": torch.eye(3)[:, :, None, None], f"{name}.bias": bias}
    return found


def fitted(family: Family, checkpoint: Checkpoint) -> Family:
    """See `Family.module`."""
    tensors = family.layout.tensors(checkpoint)
    with family.layout.reading(checkpoint):
        return replace(family, scale=config_of(tensors, 1.0).scale)  # which residuals do not change


def network(family: Family, checkpoint: Checkpoint, *, residual_scale: float | None = None) -> EdsrNetwork:
    """See `Family.module`. residual_scale : res_scale of training, where the width does not tell it."""
    tensors = family.layout.tensors(checkpoint)
    with family.layout.reading(checkpoint), torch.device("meta"):
        made = EdsrNetwork(config_of(tensors, residual_scale))
    with family.layout.reading(checkpoint):
        white = white_of(tensors)
    load_weights(made, tensors, checkpoint.path)
    for module in made.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias = nn.Parameter(module.bias.detach() / white)  # the checkpoint keeps its own
    return made.eval()
