"""Network to ONNX: attention kept, constants folded, precision written into the graph, same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from zoomrt.errors import ExportError, OutOfMemory
from zoomrt.export.graph import to_onnx as graph_module
from zoomrt.export.graph.to_onnx import export_graph, operator_counts
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

SHAPE = (1, 3, 32, 32)


@pytest.fixture(scope="module")
def network(tiny_edge_weights: Path) -> nn.Module:
    return FAMILY.network(load_checkpoint(tiny_edge_weights))


def types_of(path: Path) -> set[int]:
    """Element types of weights, input and output, but for shapes (INT64) and the scales of Resize (always FLOAT)."""
    model = onnx.load(path)
    scales = {node.input[2] for node in model.graph.node if node.op_type == "Resize"}
    found = {tensor.data_type for tensor in model.graph.initializer if tensor.name not in scales}
    found |= {v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]}
    found |= {v.type.tensor_type.elem_type for v in model.graph.value_info if v.name not in scales}
    return found - {onnx.TensorProto.INT64}


@pytest.mark.parametrize(("half", "opset"), [(False, 23), (True, 23), (True, 18)])
def test_graph(network: nn.Module, tmp_path: Path, half: bool, opset: int) -> None:
    path = tmp_path / "g.onnx"
    export_graph(network, path, shape=SHAPE, half=half, opset=opset)
    counts = operator_counts(path)
    if opset >= 23:
        assert counts["Attention"] == 1
        assert "Softmax" not in counts
    else:
        assert "Attention" not in counts
        assert counts["Softmax"] == 1
    # the time embedding is a constant: neither its linears nor its sines are left, only the four of attention
    assert "Gemm" not in counts
    assert counts["MatMul"] == (4 if opset >= 23 else 6)
    assert types_of(path) == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["upscaled_image"]
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [1, 3, 128, 128]
    assert next(network.parameters()).dtype is torch.float32


def test_group_norm_forms_are_the_same_number(network: nn.Module, tmp_path: Path, rng: np.random.Generator) -> None:
    lr = rng.uniform(-1, 1, SHAPE).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(lr)).numpy()
    for form, norms in {"node": (12, 0), "instance": (0, 12), "moments": (0, 0)}.items():
        path = tmp_path / f"{form}.onnx"
        export_graph(network, path, shape=SHAPE, half=False, opset=23, group_norm=form)  # type: ignore[arg-type]
        counts = operator_counts(path)
        assert (counts.get("GroupNormalization", 0), counts.get("InstanceNormalization", 0)) == norms
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"image": lr})[0], wanted, atol=1e-4)
    assert isinstance(network.get_submodule("conv_norm_out"), nn.GroupNorm)


def test_same_bytes_and_nothing_of_this_machine(network: nn.Module, tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in (first, second):
        export_graph(network, path, shape=SHAPE, half=False, opset=23)
    assert first.read_bytes() == second.read_bytes()
    assert b"zoomrt" not in first.read_bytes()
    assert b".py" not in first.read_bytes()


def test_large_weights_go_beside_the_graph(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_graph(network, tmp_path / "inside.onnx", shape=SHAPE, half=False, opset=23)
    monkeypatch.setattr(graph_module, "EXTERNAL_DATA_BYTES", 1000)
    export_graph(network, tmp_path / "g.onnx", shape=SHAPE, half=False, opset=23)
    assert (tmp_path / "g.onnx").stat().st_size < 200_000
    assert (tmp_path / "g.onnx.data").stat().st_size > 800_000
    inside, outside = (onnx.load(tmp_path / name) for name in ("inside.onnx", "g.onnx"))

    def weights(model: onnx.ModelProto) -> dict[str, bytes]:
        return {tensor.name: onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}

    assert weights(inside) == weights(outside)


class Unexportable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        export_graph(Unexportable(), tmp_path / "g.onnx", shape=SHAPE, half=False, opset=23)
    assert "--debug" in caught.value.remedy
    assert "\x1b" not in caught.value.seen
    assert caught.value.__cause__ is not None


class WithoutRoom(nn.Module):
    def forward(self, _: torch.Tensor) -> torch.Tensor:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried 9"
        )


def test_no_memory_is_no_fault_of_the_network(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        export_graph(WithoutRoom(), tmp_path / "g.onnx", shape=SHAPE, half=False, opset=23)
