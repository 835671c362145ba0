"""Parity catches what it is for: a graph that is not the network's."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoomrt.errors import ExportError
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.verify.parity import Parity, Runner, check_parity, compare, reference

SHAPE = (2, 3, 16, 24)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.conv(x) + x, scale_factor=4.0)


def parity_of(network: nn.Module, exported: nn.Module, folder: Path, precision: str) -> Parity:
    half = precision == "fp16"
    wanted = reference(network, SHAPE, (-1.0, 1.0), random.getrandbits(32), half=half, needed_db=45.0 if half else 80.0)
    export_graph(exported, folder / "g.onnx", shape=SHAPE, half=half, opset=23)
    return check_parity(folder / "g.onnx", wanted)


@pytest.mark.parametrize(("precision", "floor"), [("fp32", 100.0), ("fp16", 60.0)])
def test_figures(tmp_path: Path, precision: str, floor: float) -> None:
    network = Net()
    result = parity_of(network, network, tmp_path, precision)
    assert result.runner == "onnxruntime"
    assert floor <= result.psnr_db <= 200
    assert 0 <= result.max_relative <= result.max_abs * 10


def test_the_reference_is_torch_on_the_tiles_it_names() -> None:
    network, seed = Net(), random.getrandbits(32)
    wanted = reference(network, SHAPE, (-1.0, 1.0), seed, half=False, needed_db=80.0)
    with torch.no_grad():
        assert np.array_equal(wanted.sr, network(torch.from_numpy(wanted.lr)).numpy())
    assert np.array_equal(wanted.lr[0, ..., :12], wanted.lr[1, ..., :12])  # the photograph
    assert not np.allclose(wanted.lr[0, ..., 12:], wanted.lr[1, ..., 12:])  # fresh noise in each tile
    other = reference(network, SHAPE, (-1.0, 1.0), seed + 1, half=True, needed_db=45.0)
    assert not np.allclose(wanted.lr[..., 12:], other.lr[..., 12:])
    assert np.array_equal(other.lr, other.lr.astype(np.float16).astype(np.float32))


def test_a_wrong_graph_is_caught(tmp_path: Path) -> None:
    network, other = Net(), Net()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.conv.bias += 0.01
    with pytest.raises(ExportError, match="does not match torch FP32"):
        parity_of(network, other, tmp_path, "fp32")


@pytest.mark.parametrize(("precision", "half", "needed"), [("fp32", False, 80.0), ("fp16", True, 45.0)])
def test_the_bar_is_where_it_is_said_to_be(precision: str, half: bool, needed: float) -> None:
    """A runner that is off by as much as that, and by 0.1 dB more; and by what the family says that it loses."""
    wanted = reference(Net(), SHAPE, (-1.0, 1.0), 7, half=half, needed_db=PRECISIONS.named(precision).minimum_psnr_db)
    assert wanted.needed_psnr_db == needed

    def off_by(psnr_db: float) -> Runner:
        sign = torch.sign(torch.randn(wanted.sr.shape)).numpy()
        return Runner("one that is off", lambda _lr: wanted.sr + 2 * np.float32(10 ** (-psnr_db / 20)) * sign)

    for loss_db in (0.0, 10.0):
        found = check_parity(Path("no graph"), wanted, loss_db, off_by(needed - loss_db + 0.1))
        assert (found.runner, found.needed_psnr_db) == ("one that is off", needed - loss_db)
        assert found.psnr_db == pytest.approx(needed - loss_db + 0.1, abs=0.05)
        with pytest.raises(ExportError, match=r"one that is off.*need"):
            check_parity(Path("no graph"), wanted, loss_db, off_by(needed - loss_db - 0.1))


def test_compare_against_the_definition(rng: np.random.Generator) -> None:
    wanted, noise = rng.normal(size=(2, 3, 8, 8)).astype(np.float32), rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    result = compare(wanted, wanted + noise, "p", "r", 2.0, 80.0)
    errors = [float(b) - float(a) for a, b in zip(wanted.flat, (wanted + noise).flat, strict=True)]
    mse = sum(error * error for error in errors) / len(errors)
    assert result.psnr_db == pytest.approx(10 * np.log10(4 / mse), abs=0.01)
    assert result.max_abs == pytest.approx(max(map(abs, errors)))
    assert result.max_relative == pytest.approx(max(map(abs, errors)) / float(np.abs(wanted).max()))
    assert compare(wanted, wanted, "p", "r", 2.0, 80.0).psnr_db == 200
    assert compare(wanted, np.full_like(wanted, np.nan), "p", "r", 2.0, 80.0).psnr_db == float("-inf")
