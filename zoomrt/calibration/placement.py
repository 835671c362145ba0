"""Where to quantise: all layers that can be, but for those that stay in high precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from zoomrt.calibration.layers import Layer
from zoomrt.runtime.backends import BACKENDS

_KEPT_NAMES = {
    "conv_in": "reads pixels or latents, few operations",
    "conv_out": "writes pixels or latents, few operations",
    "quant_conv": "writes the latent",
    "post_quant_conv": "reads the latent",
    "to_mean": "writes the latent",
}
"""Layers that published INT8 models keep (github.com/libozhu03/PassionSR), by the last part of their name."""


@dataclass(frozen=True)
class Placement:
    """quantised : names of layers to quantise. kept : why each other layer stays. multiply_adds : of every layer."""

    backend: str
    quantised: tuple[str, ...]
    kept: dict[str, str]
    multiply_adds: dict[str, int]

    @property
    def share(self) -> float:
        """Of the multiply-adds of all layers, how many are quantised; 0 to 1."""
        total = sum(self.multiply_adds.values())
        return sum(self.multiply_adds[name] for name in self.quantised) / total if total else 0.0


def placement_of(network: nn.Module, layers: Sequence[Layer], backend: str, *, everything: bool = False) -> Placement:
    """Which layers of `layers_of(network, tile)` are quantised by default.

    everything : quantise whatever can be, to show the damage (`int8-all`).

    Products inside attention are not layers and are never quantised. Raises UsageError for an unknown backend.
    """
    BACKENDS.named(backend)
    ends = {layer.name for layer in (*layers[:1], *layers[-1:])}
    kept = {}
    for layer in layers:
        reason = _impossible(layer, network.get_submodule(layer.name))
        if reason is None and not everything:
            reason = "first or last layer" if layer.name in ends else _KEPT_NAMES.get(layer.name.rsplit(".", 1)[-1])
        if reason is not None:
            kept[layer.name] = reason
    quantised = tuple(layer.name for layer in layers if layer.name not in kept)
    return Placement(backend, quantised, kept, {layer.name: layer.multiply_adds for layer in layers})


def _impossible(layer: Layer, module: nn.Module) -> str | None:
    if layer.input_axes == 2:
        return "a constant of timestep or prompt, folded before it runs"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding {module.padding_mode} is a kernel of its own"
    return None
