"""Which layers a network has and runs, which of them are quantised, and how they are replaced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoomrt.calibration.layers import layers_of, with_layers
from zoomrt.calibration.placement import placement_of
from zoomrt.errors import UsageError
from zoomrt.runtime.backends import BACKENDS

TILE = torch.zeros(1, 3, 32, 48)


def test_layers_in_the_order_they_run(tiny_edge: nn.Module) -> None:
    layers = layers_of(tiny_edge, TILE)
    names = [layer.name for layer in layers]
    wanted = {name for name, module in tiny_edge.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    assert set(names) == wanted
    assert len(names) == len(wanted)
    assert names[:3] == ["time_embedding.0", "time_embedding.2", "conv_in"]
    assert names[-1] == "conv_out"
    assert all(layer.input_axes == (2 if "time" in layer.name else layer.input_axes) for layer in layers)


def test_multiply_adds_are_half_of_torchs_flops(tiny_edge: nn.Module) -> None:
    layers = layers_of(tiny_edge, TILE)
    with FlopCounterMode(display=False, depth=9) as counter, torch.no_grad():
        tiny_edge(TILE)
    flops = counter.get_flop_counts()
    assert len(layers) > 20
    for layer in layers:
        assert layer.multiply_adds == sum(flops[f"EdgeNetwork.{layer.name}"].values()) / 2


class Twice(nn.Module):
    """One layer that runs twice under two names, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.first(x))


def test_shared_and_idle_layers() -> None:
    network, x = Twice(), torch.randn(3, 4)
    (layer,) = layers_of(network, x)
    assert (layer.name, layer.multiply_adds) == ("first", 2 * 3 * 16)
    changed = with_layers(network, {"first": nn.Identity()})
    assert torch.equal(changed(x), x)


def test_replacing_copies_no_weight_and_leaves_the_original_alone(tiny_edge: nn.Module) -> None:
    before = tiny_edge(TILE)
    changed = with_layers(tiny_edge, {"middle.0.conv2": nn.Conv2d(64, 64, 3, padding=1)})
    own = {id(tensor) for tensor in (*changed.parameters(), *changed.buffers())}
    known = {id(tensor) for tensor in (*tiny_edge.parameters(), *tiny_edge.buffers())}
    assert len(own - known) == 2
    assert not torch.equal(changed(TILE), before)
    assert torch.equal(tiny_edge(TILE), before)


def test_default_placement_of_edge(tiny_edge: nn.Module) -> None:
    placement = placement_of(tiny_edge, layers_of(tiny_edge, TILE), "tensorrt_rtx")
    kept = set(placement.kept)
    assert {"conv_in", "conv_out", "time_embedding.0", "middle.0.time_emb_proj"} <= kept
    assert all(name in ("conv_in", "conv_out") or "time" in name for name in kept)
    assert {"attention.0.to_q", "down_half", "decoder_fine.0.conv_shortcut"} <= set(placement.quantised)
    assert not kept & set(placement.quantised)
    assert kept | set(placement.quantised) == set(placement.multiply_adds)
    inside = sum(placement.multiply_adds[name] for name in placement.quantised)
    assert placement.share == pytest.approx(inside / sum(placement.multiply_adds.values()))


def test_everything_means_everything_possible() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.Conv2d(3, 3, 1)
    )
    layers = layers_of(network, TILE)
    placement = placement_of(network, layers, "onnxruntime", everything=True)
    assert placement.quantised == ("0", "2")
    assert "reflect" in placement.kept["1"]
    assert placement_of(network, layers, "onnxruntime").quantised == ()


def test_a_constant_vector_is_never_quantised() -> None:
    """Compilers fold it; with codes in its way TensorRT-RTX would run it, and not in INT8."""

    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time, self.conv = nn.Linear(4, 3), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.time(torch.ones(1, 4))[..., None, None]

    network = Timed()
    placement = placement_of(network, layers_of(network, TILE), "onnxruntime", everything=True)
    assert (placement.quantised, list(placement.kept)) == (("conv",), ["time"])


def test_table() -> None:
    assert BACKENDS.named("tensorrt_rtx").weight_scales == "tensor"
    assert {BACKENDS.named(name).weight_scales for name in ("tensorrt", "openvino", "onnxruntime")} == {"channel"}
    with pytest.raises(UsageError, match="openvino"):
        placement_of(nn.Sequential(), [], "openvin")
