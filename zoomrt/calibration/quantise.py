"""A network with 8-bit layers, from ranges and a placement; and how far its pictures are from the original's."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoomrt.calibration.calibrate import Ranges
from zoomrt.calibration.fake_quant import Format, fake_quantised
from zoomrt.calibration.layers import with_layers
from zoomrt.calibration.placement import Placement
from zoomrt.errors import PrecisionError
from zoomrt.runtime.backends import BACKENDS
from zoomrt.runtime.tiles.psnr import psnr_db


def quantised_layers(network: nn.Module, ranges: Ranges, placement: Placement, form: Format) -> dict[str, nn.Module]:
    """The quantised twin of each layer that the placement names, with weight scales as its backend wants them.

    Raises PrecisionError for a layer without a range.
    """
    missing = [name for name in placement.quantised if name not in ranges.amax]
    if missing:
        raise PrecisionError(
            "cannot quantise layers that were not calibrated",
            seen=", ".join(missing[:4]),
            needed="a range for each of them",
            remedy="Calibrate this very network again.",
        )
    per_channel = BACKENDS.named(placement.backend).weight_scales == "channel"
    return {
        name: fake_quantised(network.get_submodule(name), ranges.amax[name], form, per_channel=per_channel)
        for name in placement.quantised
    }


def quantise(network: nn.Module, ranges: Ranges, placement: Placement, form: Format) -> nn.Module:
    """`network` with the placement's layers in 8 bits; the original is left as it is and shares its other weights.

    Raises PrecisionError for a layer without a range.
    """
    return with_layers(network, quantised_layers(network, ranges, placement, form))


@torch.no_grad()
def tile_psnrs(network: nn.Module, tiles: Iterable[Tensor], wanted: Iterable[Tensor], peak: float) -> list[float]:
    """`psnr_db` of `network(tile)` against `wanted`, for each tile. peak : width of the value range."""
    return [psnr_db(target, network(tile), peak) for tile, target in zip(tiles, wanted, strict=True)]
