"""Attentions of a graph that full TensorRT cannot fuse, handed to our plugin: finds them, and writes the graph for it.

The graph in the bundle stays as it is, in plain operators; this is a copy beside it that lives as long as the build.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import onnx
from onnx import helper

from zoomrt.errors import BuildError
from zoomrt.export.graph.facts import static_shapes
from zoomrt.kernels.plugin import NAMESPACE, OPERATOR, AttentionCall
from zoomrt.runtime.backends import BACKENDS

LARGEST_FUSED_HEAD = 256
"""TensorRT and TensorRT-RTX fuse no attention with wider heads (measured on TensorRT-RTX 1.7.1, for every GPU)."""

_TYPES: dict[int, Literal["fp16", "bf16"]] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
_PLUGIN = {"plugin_namespace": NAMESPACE, "plugin_version": "1", "aot": 1}
"""What tells TensorRT's parser that a node is a plugin, and that its PTX is to go into the plan."""
_REFUSED = ("is_causal", "softcap", "qk_matmul_output_mode")
"""Attributes that ask for something else; `softmax_precision` asks for what the kernel does anyway."""


def attention_form(backend: str, head_size: int, *, plugin: bool) -> Literal["fused", "plain", "plugin"]:
    """How an attention in FP16 is carried out: by the compiler's own fused kernel, in plain operators, or by ours.

    plugin : whether it was asked for. It is not the default: it saves the score matrix (1.07 GB at a tile of 1024 px)
        but little time (1.4 % of the operations), has not run on a GPU, and an engine with it is for one GPU only.
        TensorRT-RTX has no plugins.
    """
    if head_size <= LARGEST_FUSED_HEAD:
        return "fused"
    return "plugin" if plugin and BACKENDS.named(backend).plugins else "plain"


@contextlib.contextmanager
def plugged(graph: Path, backend: str) -> Iterator[tuple[Path, dict[str, AttentionCall]]]:
    """The graph with plugin nodes for its wide attentions, and these by name; removed afterwards.

    Raises BuildError where there is none, or one that the plugin does not do: masks, caches, grouped heads, FP32.
    """
    model = onnx.load(str(graph), load_external_data=False)
    shapes = static_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.value_info]}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    calls = {}
    for node in model.graph.node:
        if node.op_type == "Attention" and (call := _call(node, shapes, types, backend)) is not None:
            calls[node.name] = call
            node.op_type, node.domain = OPERATOR, NAMESPACE
            del node.attribute[:]
            node.attribute.extend(
                helper.make_attribute(name, value) for name, value in {**_PLUGIN, "kernel": call.name}.items()
            )
    if not calls:
        raise BuildError(
            f"no attention in {graph.name!r} is for the plugin",
            seen="none that TensorRT would not fuse",
            needed="an Attention node with heads above 256",
            remedy="Build without --attention-plugin.",
        )
    model.opset_import.append(helper.make_opsetid(NAMESPACE, 1))
    copy = graph.with_suffix(".plugin.onnx")  # beside the graph, since its weights may be in a file of their own
    try:
        copy.write_bytes(model.SerializeToString())
        yield copy, calls
    finally:
        copy.unlink(missing_ok=True)


def _call(
    node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]], types: dict[str, int], backend: str
) -> AttentionCall | None:
    """What the plugin must do for the node; None where TensorRT fuses it."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    names = list(node.input[:3])
    if any(name not in shapes for name in names):
        raise _unfit(node, "tensors of unknown shape", "static shapes")
    query, key, value = (shapes[name] for name in names)
    folded = len(query) == 3
    heads = attributes.get("q_num_heads", 0) if folded else query[1]
    size = query[2] // heads if folded else query[3]
    if attention_form(backend, size, plugin=True) != "plugin":
        return None
    key_heads = attributes.get("kv_num_heads", 0) if folded else key[1]
    if heads != key_heads or key != value or key[-1] != query[-1]:
        raise _unfit(node, f"query {query}, key {key}, value {value}", "as many heads, of one size, in all three")
    if any(node.input[3:]) or any(node.output[1:]):
        raise _unfit(node, "a mask or a cache", "query, key and value alone")
    if any(attributes.get(name) for name in _REFUSED):
        raise _unfit(node, f"attributes {', '.join(sorted(attributes))}", "softmax(scale * Q K^T) V")
    kind = types.get(node.input[0], 0)
    if kind not in _TYPES:
        raise _unfit(node, f"data of type {onnx.TensorProto.DataType.Name(kind).lower()}", "FP16 or BF16")
    return AttentionCall(
        batch=query[0],
        heads=heads,
        query_tokens=query[1 if folded else 2],
        key_tokens=key[1 if folded else 2],
        size=size,
        scale=float(attributes.get("scale", size**-0.5)),
        folded=folded,
        dtype=_TYPES[kind],
    )


def _unfit(node: onnx.NodeProto, seen: str, needed: str) -> BuildError:
    return BuildError(
        f"attention {node.name!r} cannot be handed to the plugin",
        seen=seen,
        needed=needed,
        remedy="Build without --attention-plugin: plain operators do the same.",
    )
