"""Parity and FP16 emulation catch what they are for: a wrong graph, and values that FP16 cannot hold."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoomrt.errors import ExportError, PrecisionError
from zoomrt.export.emulation import run_with_fp16_storage
from zoomrt.export.graph import export_graph
from zoomrt.export.parity import check_parity, photograph_tile

SHAPE = (2, 3, 16, 24)


class Net(nn.Module):
    """x4 by nearest neighbour after a convolution; an inner tensor is larger by gain squared."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        inner = (self.conv(x) + x) * self.gain * self.gain
        return nn.functional.interpolate(inner / self.gain / self.gain, scale_factor=4.0)


def parity_of(network: nn.Module, exported: nn.Module, folder: Path, precision: str) -> dict:
    export_graph(exported, folder / "g.onnx", shape=SHAPE, half=precision == "fp16", opset=23)
    return check_parity(
        network,
        folder / "g.onnx",
        shape=SHAPE,
        value_range=(-1.0, 1.0),
        precision=precision,
        seed=secrets.randbits(32),
    )


@pytest.mark.parametrize(("precision", "floor"), [("fp32", 100.0), ("fp16", 60.0)])
def test_figures(tmp_path: Path, precision: str, floor: float) -> None:
    network = Net()
    results = parity_of(network, network, tmp_path, precision)["results"]
    assert {r["probe"] for r in results} == {"random", "photograph"}
    assert {r["runner"] for r in results} == {"onnxruntime"} | (
        {"fp16 storage emulation"} if precision == "fp16" else set()
    )
    for result in results:
        assert floor <= result["psnr_db"] <= 200


def test_a_wrong_graph_is_caught(tmp_path: Path) -> None:
    network, other = Net(), Net()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.conv.bias += 0.01
    with pytest.raises(ExportError, match="does not match torch FP32"):
        parity_of(network, other, tmp_path, "fp32")


def test_overflow_is_caught_as_a_matter_of_precision(tmp_path: Path) -> None:
    network = Net(gain=400.0)
    parity_of(network, network, tmp_path, "fp32")  # FP32 holds 160,000 easily
    with pytest.raises(PrecisionError, match="non-finite") as caught:
        parity_of(network, network, tmp_path, "fp16")
    assert "emulation" in str(caught.value)
    assert "fp32" in caught.value.remedy


def test_emulation_equals_rounding_after_every_operation() -> None:
    """Against the same arithmetic written out by hand in FP64 with a rounding after each step."""
    rng = np.random.default_rng()
    x = rng.normal(size=(4, 6)).astype(np.float32)
    layer = nn.Linear(6, 5)
    network = nn.Sequential(layer, nn.Softplus())

    def fp16(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float16).astype(np.float64)

    weight, bias = (fp16(p.detach().numpy()) for p in (layer.weight, layer.bias))
    wanted = fp16(np.log1p(np.exp(fp16(fp16(x) @ weight.T + bias))))
    got = run_with_fp16_storage(network, torch.from_numpy(x)).numpy()
    # FP32 and FP64 sums may fall on either side of a rounding edge: one FP16 step at most
    np.testing.assert_allclose(got, wanted, rtol=2**-10, atol=2**-14)
    assert np.array_equal(got, got.astype(np.float16).astype(np.float32))


def test_emulation_overflows_like_a_gpu_and_leaves_the_network_alone() -> None:
    network = Net(gain=400.0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not run_with_fp16_storage(network, torch.ones(SHAPE)).isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (700, 700)])
def test_photograph_fits_any_tile(size: tuple[int, int]) -> None:
    tile = photograph_tile(*size, (-1.0, 1.0))
    assert tile.shape == (1, 3, *size)
    assert tile.min() >= -1
    assert tile.max() <= 1
    assert tile.std() > 0.2
