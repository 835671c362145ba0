"""Winograd convolutions against direct ones in float64, in torch and in both runners."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from zoomrt.errors import UsageError
from zoomrt.export import winograd
from zoomrt.export.cpu_engines import CpuEngine, Graphs
from zoomrt.export.graph import export_graph, operator_counts
from zoomrt.export.pipeline import BuildRequest, build
from zoomrt.export.winograd import winograd_convolutions


class Net(nn.Module):
    """One convolution of each kind that is replaced, and some that are not."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.wide = nn.Conv2d(32, 40, 3, padding=1, bias=bias)
        self.strided = nn.Conv2d(40, 32, 3, padding=1, stride=2)
        self.small = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(torch.tanh(self.first(x)))
        return torch.nn.functional.interpolate(self.small(torch.tanh(self.strided(x))), scale_factor=2.0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 32, 64, 64), (2, 32, 72, 60), (1, 32, 128, 32)])
def test_values_are_those_of_a_direct_convolution(shape: tuple[int, ...], bias: bool) -> None:
    conv = nn.Conv2d(32, 48, 3, padding=1, bias=bias)
    x = torch.randn(shape)
    with torch.no_grad():
        got = winograd._Winograd(conv)(x)
        wanted = conv.double()(x.double())
    assert (got - wanted).abs().max() <= 5e-5 * wanted.abs().max()
    assert (got - wanted).abs().max() > 0


@pytest.mark.parametrize(("bias", "batch"), [(True, 1), (False, 2)])
def test_the_graph_computes_what_the_network_does(tmp_path: Path, bias: bool, batch: int) -> None:
    network, shape = Net(bias=bias).eval(), (batch, 3, 64, 64)
    export_graph(network, tmp_path / "w.onnx", shape=shape, half=False, opset=23, winograd=True)
    export_graph(network, tmp_path / "d.onnx", shape=shape, half=False, opset=23)
    assert isinstance(network.wide, nn.Conv2d), "the network is left as it was"
    assert operator_counts(tmp_path / "w.onnx")["DepthToSpace"] == 1  # `wide` alone: the others are narrow or small
    assert "DepthToSpace" not in operator_counts(tmp_path / "d.onnx")
    assert (tmp_path / "w.onnx").stat().st_size < (tmp_path / "d.onnx").stat().st_size + 30_000  # not four filters
    lr = np.random.default_rng().uniform(-1, 1, shape).astype(np.float32)
    with torch.no_grad():
        wanted = network.double()(torch.from_numpy(lr).double()).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "w.onnx"), providers=["CPUExecutionProvider"])
    assert np.abs(session.run(None, {"lr": lr})[0] - wanted).max() <= 5e-5 * np.abs(wanted).max()


def test_what_is_replaced() -> None:
    network = Net()
    with winograd_convolutions(network):
        kinds = {name: type(child).__name__ for name, child in network.named_children()}
    assert kinds == {"first": "Conv2d", "wide": "_Winograd", "strided": "Conv2d", "small": "_Winograd"}
    assert all(isinstance(child, nn.Conv2d) for child in network.children())


def test_a_bundle_with_it_passes_parity_in_each_runner(tmp_path: Path) -> None:
    manifest = build(BuildRequest(tile=64, winograd=True), tmp_path / "b").manifest
    assert manifest.parity["1"]["operators"]["DepthToSpace"] > 1
    assert all(result["psnr_db"] >= 100 for result in manifest.parity["1"]["results"])
    graphs = Graphs(tmp_path / "b", {1: manifest.graphs["1"]}, "fp32", manifest.tile)
    with graphs.load(CpuEngine("onnxruntime"), 1) as session:
        assert np.isfinite(session.run(np.zeros((1, 3, 64, 64), np.float32))).all()


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"precision": "fp16", "target": "sm89"}, {"form": "split"}, {"bisect": True}]
)
def test_where_it_cannot_be(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--winograd"):
        build(BuildRequest(winograd=True, **changes), tmp_path / "b")  # type: ignore[arg-type]
