"""Replicate padding is gathered: bit for bit torch's, and in no graph a `Pad` in mode edge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from family_checks import edge_pads
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.export.graph.pads import gather_replicate_pads
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.models.families import FAMILIES


class Padded(nn.Module):
    def __init__(self, pads: tuple[int, ...], mode: str = "replicate") -> None:
        super().__init__()
        self.pads, self.mode = pads, mode

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.pad(x, self.pads, mode=self.mode)


def exported(network: nn.Module, folder: Path, x: Tensor) -> tuple[Path, Tensor]:
    """The graph, and what ONNX Runtime makes of `x` with it."""
    half = x.dtype is torch.float16
    export_graph(network, folder / "g.onnx", shape=tuple(x.shape), half=half, opset=23)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(str(folder / "g.onnx"), providers=["CPUExecutionProvider"])
    return folder / "g.onnx", torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("size", "pads"),
    [
        ((9, 12), (2, 2, 2, 2)),
        ((5, 6), (1, 3, 5, 7)),
        ((1, 7), (3, 2, 4, 1)),
        ((7, 1), (0, 5, 1, 0)),
        ((1, 1), (2, 1, 1, 3)),
        ((6, 5), (0, 0, 3, 0)),
        ((6, 5), (-1, 4, 2, -2)),
        ((6, 5), (0, 0, 0, 0)),
    ],
    ids=str,
)
def test_gathered_pixels_are_torchs(
    tmp_path: Path, size: tuple[int, int], pads: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.randn(2, 3, *size).to(dtype)
    graph, got = exported(Padded(pads), tmp_path, x)
    assert torch.equal(got, Padded(pads)(x))
    assert edge_pads(graph) == []
    model = onnx.load(graph)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used, "how far to pad is left behind"


def test_three_axes(tmp_path: Path) -> None:
    """Every value on the way has its type and shape in the graph, which the check for FP32 islands reads."""
    x, network = torch.randn(1, 2, 3, 4, 5), Padded((1, 2, 3, 1, 2, 2))
    graph, got = exported(network, tmp_path, x)
    assert torch.equal(got, network(x))
    model = onnx.load(graph)
    ends = {value.name for value in [*model.graph.input, *model.graph.output]}
    known = {value.name for value in model.graph.value_info if value.type.tensor_type.HasField("shape")}
    assert {name for node in model.graph.node for name in node.output} <= known | ends


def test_a_convolution_that_pads_for_itself(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 5, padding=2, padding_mode="replicate").eval()
    x = torch.randn(1, 3, 8, 9)
    graph, got = exported(network, tmp_path, x)
    with torch.no_grad():
        torch.testing.assert_close(got, network(x), atol=1e-5, rtol=0)
    assert edge_pads(graph) == []


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_other_modes_stay_pads(tmp_path: Path, mode: str) -> None:
    x = torch.randn(1, 3, 6, 7)
    graph, got = exported(Padded((2, 1, 3, 2), mode), tmp_path, x)
    assert torch.equal(got, Padded((2, 1, 3, 2), mode)(x))
    assert [node.op_type for node in onnx.load(graph).graph.node if node.op_type == "Pad"] == ["Pad"]


def model_with(shape: tuple[Any, ...], *, inputs: list[str], pads: list[int] | None) -> onnx_ir.Model:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    given = [helper.make_tensor_value_info("p", TensorProto.INT64, [4])] if pads is None else []
    constants = [] if pads is None else [onnx.numpy_helper.from_array(np.array(pads), "p")]
    constants.append(onnx.numpy_helper.from_array(np.array([1, 0]), "axes"))
    node = helper.make_node("Pad", inputs, ["y"], name="pad", mode="edge")
    graph = helper.make_graph([node], "g", [ends[0], *given], ends[1:], constants)
    return onnx_ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))


@pytest.mark.parametrize(
    "model",
    [
        model_with(("n", 4), inputs=["x", "p"], pads=[1, 1, 1, 1]),
        model_with((3, 4), inputs=["x", "p"], pads=None),
        model_with((3, 4), inputs=["x", "p", "", "axes"], pads=[1, 2, 1, 2]),
    ],
    ids=["a size that is open", "padding that is an input", "axes in another order"],
)
def test_what_is_not_known_is_refused(model: onnx_ir.Model) -> None:
    with pytest.raises(ValueError, match="pad pads"):
        gather_replicate_pads(model)


@pytest.mark.parametrize("family", FAMILIES.names())
def test_every_family_looks_at_its_graphs(family: str) -> None:
    """By `family_checks.bundle_of`, which finds a `Pad` in mode edge in any graph of the bundle that it builds."""
    own = Path(__file__).parents[2] / "models" / "families" / f"test_{family.replace('-', '_')}.py"
    assert "bundle_of(" in own.read_text(encoding="utf-8")
