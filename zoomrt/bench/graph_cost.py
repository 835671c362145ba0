"""What a graph costs, counted from nodes and shapes: multiply-adds, and bytes if every node reads and writes memory.

Work is that of convolutions, matrix products and attentions, as fact sheets and torch's FlopCounterMode count it; the
rest is in the bytes. The bytes are an upper bound for engines that fuse nodes and for caches that answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx.helper import tensor_dtype_to_np_dtype

from zoomrt.bench.record import Cost

GROUPS = ("convolution", "norm+activation", "attention", "matmul", "other")

_CONVOLUTIONS = {"Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "DeformConv"}
_ATTENTIONS = {"Attention", "MultiHeadAttention", "Softmax", "GroupQueryAttention"}
_PRODUCTS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulInteger", "QLinearMatMul", "Einsum"}
_POINTWISE = {
    *("InstanceNormalization", "GroupNormalization", "GroupNorm", "LayerNormalization", "SkipLayerNormalization"),
    *("SimplifiedLayerNormalization", "RMSNormalization", "BatchNormalization", "LpNormalization", "ReduceMean"),
    *("Sigmoid", "Relu", "LeakyRelu", "PRelu", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Silu", "Swish", "Tanh"),
    *("Erf", "Clip", "HardSigmoid", "HardSwish", "Elu", "Selu", "Softplus", "Mish", "Exp", "Sqrt", "Pow"),
    *("Add", "Sub", "Mul", "Div"),
}
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "Shape", "ConstantOfShape"}
_UNKNOWN_WORK = _CONVOLUTIONS | _ATTENTIONS | _PRODUCTS


def group_of(operator: str) -> str:
    """One of GROUPS, for an operator of ONNX or of ONNX Runtime's own."""
    if operator in _CONVOLUTIONS:
        return "convolution"
    if operator in _ATTENTIONS:
        return "attention"
    if operator in _PRODUCTS:
        return "matmul"
    return "norm+activation" if operator in _POINTWISE else "other"


@dataclass(frozen=True)
class NodeCost:
    """macs : multiply-adds; None where shapes or operator do not tell. bytes : read and written once."""

    name: str
    operator: str
    macs: int | None
    bytes: int
    outputs: tuple[str, ...] = ()


class _Value(NamedTuple):
    shape: tuple[int, ...]
    bytes: int


def node_costs(path: Path) -> list[NodeCost]:
    """Of every node that computes, in order. Weights are not read."""
    model = onnx.load(str(path), load_external_data=False)
    known = _values(model.graph)
    if any(name not in known for node in model.graph.node for name in node.output if name):
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        known = {**_values(inferred.graph), **known}
    return [_cost(node, known) for node in model.graph.node if node.op_type not in _VIEWS]


def cost_of(graphs: dict[Path, int]) -> Cost:
    """Of one tile. graphs : file -> how often it runs for a tile."""
    macs = moved = count = 0
    groups: dict[str, list[int]] = {}
    uncounted = set()
    for path, times in graphs.items():
        for node in node_costs(path):
            count += times
            moved += times * node.bytes
            macs += times * (node.macs or 0)
            held = groups.setdefault(group_of(node.operator), [0, 0])
            held[0] += times * (node.macs or 0)
            held[1] += times * node.bytes
            if node.macs is None:
                uncounted.add(node.operator)
    return Cost(
        gmac=macs / 1e9,
        mb=moved / 1e6,
        nodes=count,
        groups={name: (groups[name][0] / 1e9, groups[name][1] / 1e6) for name in GROUPS if name in groups},
        uncounted=tuple(sorted(uncounted)),
    )


def _values(graph: onnx.GraphProto) -> dict[str, _Value]:
    """Values of static shape and known type."""
    found = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and kind.elem_type and all(d.HasField("dim_value") for d in kind.shape.dim):
            found[value.name] = _value(tuple(d.dim_value for d in kind.shape.dim), kind.elem_type)
    found |= {tensor.name: _value(tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer}
    return found


def _value(shape: tuple[int, ...], element: int) -> _Value:
    return _Value(shape, math.prod(shape) * int(tensor_dtype_to_np_dtype(element).itemsize))


def _cost(node: onnx.NodeProto, known: dict[str, _Value]) -> NodeCost:
    moved = sum(known[name].bytes for name in {*node.input, *node.output} if name in known)
    shapes = [known[name].shape if name in known else None for name in node.input]
    out = known[node.output[0]].shape if node.output[0] in known else None
    return NodeCost(
        node.name or f"node_of_{node.output[0]}", node.op_type, _macs(node, shapes, out), moved, tuple(node.output)
    )


def _macs(node: onnx.NodeProto, shapes: list[tuple[int, ...] | None], out: tuple[int, ...] | None) -> int | None:
    first, second = (*shapes, None, None)[:2]
    if node.op_type not in _UNKNOWN_WORK or node.op_type == "Softmax":
        return 0
    if first is None or second is None or out is None:
        return None
    if node.op_type == "Conv":  # weight (out, in / groups, k, k): each output pixel sees one filter
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # weight (in, out / groups, k, k): each input pixel spreads one
        return math.prod(first) * math.prod(second[1:])
    if node.op_type == "MatMul":
        return math.prod(out) * first[-1]
    if node.op_type == "Gemm":
        return math.prod(out) * first[0 if _number(node, "transA") else 1]
    if node.op_type == "Attention" and len(shapes) > 2 and shapes[2] is not None:
        return _attention(node, first, second, shapes[2])
    return None


def _attention(
    node: onnx.NodeProto, query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...]
) -> int | None:
    """Two products: queries with keys, weights with values. (batch, heads, tokens, size), or heads and size in one."""
    if len(query) == 4:
        return query[0] * query[1] * query[2] * key[2] * (query[3] + value[3])
    heads, kv_heads = (_number(node, name) for name in ("q_num_heads", "kv_num_heads"))
    if not heads or not kv_heads:
        return None
    return query[0] * query[1] * key[1] * (query[2] + value[2] * heads // kv_heads)


def _number(node: onnx.NodeProto, attribute: str) -> int:
    """0 where the node does not have it."""
    return int(next((one.i for one in node.attribute if one.name == attribute), 0))
