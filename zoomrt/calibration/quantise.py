"""A network with 8-bit layers, from ranges and a placement; and how far its pictures are from the original's."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from zoomrt.calibration.calibrate import Ranges
from zoomrt.calibration.fake_quant import Format, fake_quantised
from zoomrt.calibration.layers import with_layers
from zoomrt.calibration.placement import Placement
from zoomrt.errors import PrecisionError
from zoomrt.runtime.backends import BACKENDS

_EXACT_DB = 200.0  # JSON knows no infinity


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
def psnr_db(network: nn.Module, tiles: Iterable[Tensor], wanted: Iterable[Tensor], peak: float) -> list[float]:
    """PSNR of `network(tile)` against `wanted`, for each tile, decibels.

    peak : width of the value range. An exact match counts as 200 dB, a result that is not finite as -200 dB.
    """
    return [_psnr(network(tile), target, peak) for tile, target in zip(tiles, wanted, strict=True)]


def _psnr(got: Tensor, wanted: Tensor, peak: float) -> float:
    error = float((got.double() - wanted.double()).square().mean())
    if not math.isfinite(error):
        return -_EXACT_DB
    return min(_EXACT_DB, 10 * math.log10(peak**2 / error)) if error else _EXACT_DB
