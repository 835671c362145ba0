"""Networks built to overflow in FP16: caught, mended where that can be, and refused by name where it cannot."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_networks import Residual
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.bundle import open_bundle
from zoomrt.bundle.records import Fp16Report
from zoomrt.errors import PrecisionError
from zoomrt.export.build import build
from zoomrt.export.fp16.emulation import run_with_fp16_storage
from zoomrt.export.fp16.prepare import make_fp16_safe
from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.graph.to_onnx import export_graph, fp32_nodes
from zoomrt.export.recording import watched
from zoomrt.export.request import BuildRequest
from zoomrt.export.verify.sample_tiles import extreme_tiles
from zoomrt.models.half import to_half

NEAR, TOO_NEAR = 65504 / 4, 65504 / 2  # of the largest number of IEEE 754's binary16

RANGE = (-1.0, 1.0)


class Loud(nn.Module):
    """What one SiLU hands on is as large as asked, and small again after the next convolution."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        with torch.no_grad():
            self.first.weight *= gain
            self.second.weight /= gain

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.silu(self.first(x)))


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.before, self.inner = nn.Conv2d(3, 3, 1), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.before(x))


def tiles() -> dict:
    return extreme_tiles(24, RANGE, random.getrandbits(32))


def overflows(network: nn.Module) -> bool:
    network = copy.deepcopy(network)
    to_half(network)
    found = [run_with_fp16_storage(network, torch.from_numpy(tile)) for tile in tiles().values()]
    return not all(one.isfinite().all() for one in found)


def mended(network: nn.Module) -> Fp16Report:
    """The network is FP16 afterwards, and close to what it was on fresh tiles."""
    before = copy.deepcopy(network)
    report = make_fp16_safe(network, tiles(), RANGE)
    assert {result.probe for result in report.results} == {"photograph", "noise", "flat", "black", "white"}
    assert all(result.psnr_db >= 45 for result in report.results)
    for tile in tiles().values():
        with torch.no_grad():
            wanted = before(torch.from_numpy(tile))
        got = run_with_fp16_storage(network, torch.from_numpy(tile))
        assert (got - wanted).abs().max() < 0.05
    return report


def test_a_quiet_network_is_left_alone() -> None:
    report = mended(Residual())
    assert (report.rescaled, report.kept_fp32) == ((), ())
    assert 0 < max(report.largest.values()) < 100


def test_a_residual_stream_that_overflows_is_rescaled() -> None:
    network = Residual(gain=3e6)
    assert overflows(network)
    report = mended(network)
    assert report.kept_fp32 == ()
    stream = max(report.rescaled, key=lambda one: one.largest)
    assert stream.largest > 65504
    assert NEAR / 2 < stream.largest * 2.0**stream.exponent <= NEAR
    assert stream.first.startswith("convolution in ")
    assert max(report.largest.values()) <= NEAR
    assert network.norm.eps < 1e-5  # it has swallowed the factor


def test_what_no_factor_can_mend_stays_fp32() -> None:
    network = Around(Loud(1e6))
    assert overflows(network)
    report = mended(network)
    assert report.kept_fp32 == ("inner",)
    assert {p.dtype for p in network.inner.parameters()} == {torch.float32}
    assert {p.dtype for p in network.before.parameters()} == {torch.float16}


def test_where_nothing_helps_the_operation_is_named() -> None:
    # the pre-activation overflows inside no module but the network, so there is no part to keep in FP32
    with pytest.raises(PrecisionError, match=r"after (convolution in first|silu in the network itself)"):
        make_fp16_safe(Loud(1e6), tiles(), RANGE)


class Delicate(nn.Module):
    """Subtracts two close numbers, so that the rounding of the first is blown up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(((h + 300) - 300) * 3)


def test_lost_precision_is_named_too() -> None:
    with pytest.raises(
        PrecisionError, match=r"PSNR .* dB, an error above 1% from \w+ in the network itself on"
    ) as caught:
        make_fp16_safe(Delicate(), tiles(), RANGE)
    assert "fp32" in caught.value.remedy


def test_other_tiles_count() -> None:
    """A stream is rescaled for what a larger tile showed, even if the small ones stay quiet."""
    network = Residual(gain=30.0)
    loud = Ranges()
    watched(network, torch.full((1, 3, 48, 40), 1e4), loud)
    assert make_fp16_safe(copy.deepcopy(network), tiles(), RANGE).rescaled == ()
    assert make_fp16_safe(network, tiles(), RANGE, [loud]).rescaled


def test_nothing_helps_a_network_that_is_not_finite_in_fp32() -> None:
    network = Residual()
    with torch.no_grad():
        network.conv.bias[0] = float("inf")
    with pytest.raises(PrecisionError, match=r"not finite even in FP32.*convolution in conv"):
        make_fp16_safe(network, tiles(), RANGE)


def test_the_graph_says_which_nodes_are_fp32(tmp_path: Path) -> None:
    network = Around(Loud(1e6))
    make_fp16_safe(network, tiles(), RANGE)
    export_graph(network, tmp_path / "g.onnx", shape=(1, 3, 24, 24), half=True, opset=23)
    nodes = fp32_nodes(tmp_path / "g.onnx")
    assert any("conv" in node for node in nodes)
    assert any("silu" in node or "sigmoid" in node for node in nodes)
    export_graph(Residual(), tmp_path / "h.onnx", shape=(1, 3, 24, 24), half=True, opset=23)
    assert fp32_nodes(tmp_path / "h.onnx") == ()


@pytest.fixture
def loud_edge(tmp_path: Path, tiny_edge_weights: Path) -> Path:
    """`edge` with a residual stream beyond FP16, and a SiLU that is."""
    tensors = {key: tensor.float() for key, tensor in load_file(tiny_edge_weights).items()}
    tensors["conv_in.weight"] = tensors["conv_in.weight"] * 1e7
    tensors["middle.0.norm1.weight"] = tensors["middle.0.norm1.weight"] * 1e6
    tensors["middle.0.norm1.bias"] = tensors["middle.0.norm1.bias"] * 1e6
    tensors["middle.0.conv1.weight"] = tensors["middle.0.conv1.weight"] * 1e-6
    save_file(tensors, tmp_path / "loud.safetensors")
    return tmp_path / "loud.safetensors"


def test_a_bundle_of_a_mended_network(tmp_path: Path, loud_edge: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    request = BuildRequest(weights=loud_edge, tile=32, overlap=8, precision="fp16", target="sm89")
    build(request, tmp_path / "b", use_cache=False)
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.numerics.rescaled
    assert manifest.numerics.kept_fp32 == ("middle.0",)
    assert max(manifest.numerics.largest.values()) <= TOO_NEAR
    report = manifest.engine_report["1"]
    assert report.kernels_by_dtype.get("fp32", 0) >= 1
    assert any("conv" in kernel for kernel in report.other_precision)
    assert manifest.numerics.fp32_nodes
