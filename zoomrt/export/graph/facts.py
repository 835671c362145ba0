"""What an ONNX graph leads one to expect of an engine: the operator behind each node name, its attentions, and the
layers that are to run in 8 bits.

The other half of the check that `plan_reader.py` makes possible. Reads structure only, never weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

# What may stand between the two matrix products of an attention and its softmax: scale, mask, cast, layout.
_BETWEEN = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Reshape", "Sub", "Transpose", "Where"})
_STEPS = 4
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Attention:
    """One attention: `node` is the Attention node, or the Softmax of a MatMul-Softmax-MatMul pattern."""

    node: str
    scores: tuple[int, ...] | None
    """Shape (batch * heads, queries, keys) of the score matrix, if it were written out; None if the graph has no
    static shapes there."""


@dataclass(frozen=True)
class GraphFacts:
    operators: dict[str, str]
    """Node name -> operator type."""
    attentions: tuple[Attention, ...]
    eight_bit: tuple[str, ...]
    """Convolutions and matrix products whose input and weight both come from 8-bit codes."""


def read_graph(path: Path) -> GraphFacts:
    """Facts of a graph that the engine compiler has already accepted. Shapes are inferred where the file has none."""
    model = onnx.load(str(path), load_external_data=False)
    shapes = static_shapes(model)
    nodes = list(model.graph.node)
    producers = {output: node for node in nodes for output in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, []).append(node)

    def before(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [producers[name] for name in node.input if name in producers]

    def after(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [user for name in node.output for user in consumers.get(name, [])]

    attentions = []
    for node in nodes:
        if node.op_type == "Attention":
            attentions.append(Attention(_name(node), _attention_scores(node, shapes)))
        elif node.op_type == "Softmax" and _reaches_matmul(node, before) and _reaches_matmul(node, after):
            attentions.append(Attention(_name(node), _flat(shapes.get(node.input[0]))))
    eight_bit = tuple(
        _name(node)
        for node in nodes
        if node.op_type in _LAYERS and all(_from_codes(name, producers) for name in node.input[:2])
    )
    return GraphFacts({_name(node): node.op_type for node in nodes}, tuple(attentions), eight_bit)


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Value name -> shape, inferred where the file has none for an attention; unknown sizes are left out."""
    shapes = _shapes(model.graph)
    if _any_missing(model.graph.node, shapes):
        shapes = _shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
    return shapes


def _from_codes(name: str, producers: dict[str, onnx.NodeProto]) -> bool:
    """Whether a value is a DequantizeLinear's, but for its layout."""
    node = producers.get(name)
    while node is not None and node.op_type in ("Reshape", "Transpose"):
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _name(node: onnx.NodeProto) -> str:
    """TensorRT's parser calls a nameless node after its first output."""
    return node.name or f"node_of_{node.output[0]}"


def _reaches_matmul(node: onnx.NodeProto, step: Callable[[onnx.NodeProto], list[onnx.NodeProto]]) -> bool:
    frontier = step(node)
    for _ in range(_STEPS):
        if any(found.op_type in ("MatMul", "Gemm") for found in frontier):
            return True
        frontier = [further for found in frontier if found.op_type in _BETWEEN for further in step(found)]
    return False


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Value name -> static shape; values with unknown sizes are left out."""
    found = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                found[value.name] = tuple(dim.dim_value for dim in dims)
    found.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    return found


def _any_missing(nodes: Iterable[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> bool:
    wanted = (name for node in nodes if node.op_type in ("Attention", "Softmax") for name in node.input[:2])
    return any(name not in shapes for name in wanted if name)


def _attention_scores(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """From query and key: (batch, heads, tokens, size), or (batch, tokens, heads * size) with `q_num_heads`."""
    query, key = (shapes.get(name) for name in node.input[:2])
    if query is None or key is None:
        return None
    if len(query) == 4:
        return (query[0] * query[1], query[2], key[2])
    heads = next(attribute.i for attribute in node.attribute if attribute.name == "q_num_heads")
    return (query[0] * heads, query[1], key[1])


def _flat(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """(..., queries, keys) with the leading axes made one."""
    if shape is None or len(shape) < 2:
        return None
    return (math.prod(shape[:-2]), *shape[-2:])
