"""Attentions counted in graphs: as one node, as a pattern, and what only looks like one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from engine_graphs import CHANNELS, HEADS, TOKENS, small_graph, tiny_graph
from onnx import NodeProto, TensorProto, helper

from zoomrt.export.graph.facts import Attention, read_graph


@pytest.mark.parametrize(("opset", "operator"), [(23, "Attention"), (18, "Softmax")])
def test_exported_network(tmp_path: Path, opset: int, operator: str) -> None:
    facts = read_graph(tiny_graph(tmp_path / "g.onnx", opset=opset))
    (attention,) = facts.attentions
    assert facts.operators[attention.node] == operator
    assert attention.scores == (HEADS, TOKENS, TOKENS)
    assert list(facts.operators.values()).count("Conv") == 2


def pattern(*, up: str, between: list[str], down: str) -> list[NodeProto]:
    nodes = [helper.make_node(up, ["q", "k"], ["s0"])]
    for i, operator in enumerate(between):
        extra = ["q"] if operator in ("Mul", "Add") else []
        nodes.append(helper.make_node(operator, [f"s{i}", *extra], [f"s{i + 1}"]))
    last = f"s{len(between)}"
    return [
        *nodes,
        helper.make_node("Softmax", [last], ["p"], name="soft"),
        helper.make_node("Identity", ["p"], ["p1"]),
        helper.make_node(down, ["p1", "v"], ["z"]),
    ]


@pytest.mark.parametrize(
    ("up", "between", "down", "counts"),
    [
        ("MatMul", [], "MatMul", True),
        ("MatMul", ["Mul", "Add"], "MatMul", True),
        ("MatMul", ["Relu"], "MatMul", False),
        ("Add", [], "MatMul", False),
        ("MatMul", [], "Add", False),
        ("MatMul", ["Mul", "Add", "Mul", "Add"], "MatMul", False),  # too far apart for a compiler to see either
    ],
)
def test_pattern(tmp_path: Path, up: str, between: list[str], down: str, counts: bool) -> None:
    shapes: dict[str, list[int | str]] = {name: [2, 3, 16, 16] for name in "qkv"}
    graph = small_graph(tmp_path / "g.onnx", pattern(up=up, between=between, down=down), shapes, "z")
    expected = (Attention("soft", (6, 16, 16)),) if counts else ()
    assert read_graph(graph).attentions == expected


def test_layers_between_codes(tmp_path: Path) -> None:
    """Input and weight must both come from codes, whatever their layout."""
    q = helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["q"])
    nodes = [
        q,
        helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["codes", "s", "zero"], ["w"]),
        helper.make_node("Transpose", ["w"], ["wt"]),
        helper.make_node("MatMul", ["d", "wt"], ["y0"], name="both"),
        helper.make_node("MatMul", ["y0", "wt"], ["y1"], name="weight only"),
        helper.make_node("MatMul", ["d", "float"], ["y2"], name="input only"),
        helper.make_node("Add", ["d", "w"], ["y3"], name="no layer"),
        helper.make_node("Sum", ["y1", "y2", "y3"], ["z"]),
    ]
    shapes: dict[str, list[int | str]] = {name: [16, 16] for name in ("x", "codes", "float")}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT16, [16, 16])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    assert read_graph(tmp_path / "g.onnx").eight_bit == ("both",)


def test_packed_heads_and_nameless_nodes(tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["z"], q_num_heads=4, kv_num_heads=4)
    shapes: dict[str, list[int | str]] = {"q": [2, 100, 128], "k": [2, 77, 128], "v": [2, 77, 128]}
    facts = read_graph(small_graph(tmp_path / "g.onnx", [node], shapes, "z"))
    assert facts.attentions == (Attention("node_of_z", (8, 100, 77)),)
    assert facts.operators == {"node_of_z": "Attention"}


def test_unknown_shapes_are_told(tmp_path: Path) -> None:
    node = helper.make_node("Attention", ["q", "q", "q"], ["z"], name="a")
    facts = read_graph(small_graph(tmp_path / "g.onnx", [node], {"q": ["n", 2, 64, CHANNELS]}, "z"))
    assert facts.attentions == (Attention("a", None),)
