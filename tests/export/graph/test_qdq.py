"""Graphs without their codes: the same network but for the rounding of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from engine_graphs import CHANNELS, SIZE, QuantisedNetwork, TinyNetwork

from zoomrt.export.graph import qdq
from zoomrt.export.graph.qdq import write_without_codes
from zoomrt.export.graph.to_onnx import export_graph, operator_counts


@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_against_torch(tmp_path: Path, form: str, per_channel: bool) -> None:
    """torch with the rounded weights in plain layers gives the same numbers."""
    quantised = QuantisedNetwork(form, per_channel).eval()
    shape = (1, 3, SIZE, SIZE)
    export_graph(quantised, tmp_path / "q.onnx", shape=shape, half=False, opset=23)
    write_without_codes(tmp_path / "q.onnx", tmp_path / "f.onnx")
    onnx.checker.check_model(tmp_path / "f.onnx", full_check=True)
    before, after = operator_counts(tmp_path / "q.onnx"), operator_counts(tmp_path / "f.onnx")
    assert before["QuantizeLinear"] > 0
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(after)
    assert {name: before[name] for name in after} == after
    plain = TinyNetwork().eval()
    plain.load_state_dict(quantised.inner.state_dict(), strict=False)  # norm and biases
    with torch.no_grad():
        for name, layer in quantised.inner.named_children():
            if hasattr(layer, "codes"):
                scale = layer.weight_scale.double()
                codes = layer.codes.double()
                plain.get_submodule(name).weight.copy_(codes * scale.reshape(-1, *[1] * (codes.ndim - 1)))
        lr = torch.randn(shape)
        wanted = plain(lr).numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "f.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": lr.numpy()})[0], wanted, atol=1e-4)


def test_large_weights_go_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdq, "EXTERNAL_DATA_BYTES", CHANNELS * CHANNELS)
    export_graph(QuantisedNetwork("int8", False), tmp_path / "q.onnx", shape=(1, 3, SIZE, SIZE), half=True, opset=23)
    write_without_codes(tmp_path / "q.onnx", tmp_path / "f.onnx")
    assert (tmp_path / "f.onnx.data").stat().st_size > 2 * 3 * CHANNELS * CHANNELS  # three linear layers in FP16
    onnx.checker.check_model(str(tmp_path / "f.onnx"), full_check=True)
