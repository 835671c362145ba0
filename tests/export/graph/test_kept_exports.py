"""The exports that tests share: kept under everything that makes a graph another one."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from kept_exports import keeping
from torch import nn

from zoomrt.export.graph.to_onnx import export_graph

SHAPE = (1, 3, 8, 8)


class Layer(nn.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.slope = slope
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * self.slope


def other_forward(self: Layer, x: torch.Tensor) -> torch.Tensor:
    return self.conv(x) + self.slope


def test_another_network_or_argument_is_another_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = mock.Mock(__name__="export_graph", side_effect=lambda _, path, **__: path.write_bytes(b"g"))
    export = keeping(made, tmp_path)

    def runs(network: nn.Module, **options: object) -> int:
        """How often the exporter ran for a network asked for twice."""
        made.reset_mock()
        for _ in range(2):
            (path := tmp_path / "g.onnx").unlink(missing_ok=True)
            export(network, path, **options)
            assert path.read_bytes() == b"g"
        return made.call_count

    assert runs(Layer(2.0), shape=SHAPE) == 1
    assert runs(Layer(2.0), shape=SHAPE) == 0
    assert runs(Layer(2.0), shape=SHAPE, half=True) == 1
    assert runs(Layer(3.0), shape=SHAPE) == 1
    changed = Layer(2.0)
    changed.conv.weight.data[0, 0, 0, 0] = 0.2
    assert runs(changed, shape=SHAPE) == 1
    monkeypatch.setattr(Layer, "forward", other_forward)
    assert runs(Layer(2.0), shape=SHAPE) == 1

    class WithoutName(Layer):
        pass

    assert runs(WithoutName(2.0), shape=SHAPE) == 2


def test_a_kept_export_is_the_exporters(tmp_path: Path, rng: np.random.Generator) -> None:
    network = Layer(float(rng.uniform(1, 2))).train()
    export = keeping(export_graph, tmp_path)
    for name in ("first", "kept"):
        export(network.train(), tmp_path / name, shape=SHAPE, half=False, opset=23)
        assert not network.training
    export_graph(network, tmp_path / "own", shape=SHAPE, half=False, opset=23)
    assert (tmp_path / "kept").read_bytes() == (tmp_path / "first").read_bytes() == (tmp_path / "own").read_bytes()
