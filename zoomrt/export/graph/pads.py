"""Replicate padding as a `Gather` with constant indices along each padded axis, instead of a `Pad` in mode edge.

Qualcomm's NPU takes that mode for zeros, without a word (onnxruntime-qnn 2.7.0, FP16), and gathers right; TensorRT-RTX
makes one kernel of either. Every graph passes through here on its way out, so no network needs to know.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import convenience
from onnx_ir.passes import common as common_passes


def gather_replicate_pads(model: onnx_ir.Model) -> None:
    """Replace every `Pad` in mode edge, in place, by nodes that give the same values bit for bit, under the same name.

    Raises ValueError where a size or the padding is not constant; `graph.py` exports neither.
    """
    pads = [node for node in model.graph.all_nodes() if node.op_type == "Pad" and _mode(node) == "edge"]
    for node in pads:
        _replace(node)
    if pads:
        common_passes.RemoveUnusedNodesPass()(model)  # how far to pad, which was a constant


def _mode(pad: onnx_ir.Node) -> str:
    mode = pad.attributes.get("mode")
    return "constant" if mode is None else str(mode.as_string())


def _replace(pad: onnx_ir.Node) -> None:
    graph, value = pad.graph, pad.inputs[0]
    assert graph is not None
    assert value is not None
    nodes = []
    for axis, indices in _indices(pad):
        name = f"{pad.name}_axis_{axis}"
        places = onnx_ir.Value(name=f"{name}_indices", const_value=onnx_ir.tensor(indices))
        graph.register_initializer(places)
        shape = [len(indices) if i == axis else size for i, size in enumerate(value.shape or ())]
        gathered = onnx_ir.Value(name=name, type=value.type, shape=onnx_ir.Shape(shape))
        nodes.append(onnx_ir.node("Gather", [value, places], {"axis": axis}, outputs=[gathered], name=name))
        value = gathered
    if not nodes:
        nodes.append(onnx_ir.node("Identity", [value], name=pad.name))
    convenience.replace_nodes_and_values(graph, pad, [pad], nodes, pad.outputs, nodes[-1].outputs)


def _indices(pad: onnx_ir.Node) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each axis that grows or shrinks, and which elements of the input stand along it in the result."""
    value, padding, *more = pad.inputs
    shape = value.shape if value is not None else None
    lengths = convenience.get_const_tensor(padding) if padding is not None else None
    if shape is None or not shape.is_static() or lengths is None or any(more[1:]):
        raise ValueError(f"{pad.name} pads something that is not known, or not all axes")
    pairs = lengths.numpy().reshape(2, len(shape)).T.tolist()
    for axis, (size, (before, after)) in enumerate(zip(shape.numpy(), pairs, strict=True)):
        if before or after:
            yield axis, np.clip(np.arange(-before, size + after, dtype=np.int64), 0, size - 1)
