"""The same graph without its 8-bit codes: what an engine with 8-bit layers has to be cheaper than.

Only the figures of the two engines are compared, so nothing here needs the network again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
from onnx_ir.convenience import replace_all_uses_with
from onnx_ir.passes.common import RemoveUnusedNodesPass

from zoomrt.export.graph.to_onnx import EXTERNAL_DATA_BYTES
from zoomrt.export.heap import return_freed_memory


def write_without_codes(path: Path, output: Path) -> None:
    """Write the graph at `path`, one of `fake_quant`, with every QuantizeLinear and DequantizeLinear taken out.

    Weights become what their codes stand for, in the type of their scales; names of nodes stay.
    """
    model = onnx_ir.load(path)
    graph = model.graph
    for node in list(graph):
        if node.op_type != "DequantizeLinear":
            continue
        source, scale, result = node.inputs[0], node.inputs[1], node.outputs[0]
        assert source is not None
        assert scale is not None
        before = source.producer()
        if before is not None:
            assert before.inputs[0] is not None
            replace_all_uses_with(result, before.inputs[0])
            continue
        weight = onnx_ir.Value(name=f"{result.name}_values", const_value=_values(source, scale, node))
        graph.register_initializer(weight)
        replace_all_uses_with(result, weight)
    RemoveUnusedNodesPass()(model)
    size = sum(value.const_value.nbytes for value in graph.initializers.values() if value.const_value is not None)
    if size > EXTERNAL_DATA_BYTES:
        onnx_ir.save(model, output, external_data=output.name + ".data")
    else:
        onnx_ir.save(model, output)
    del model, graph
    return_freed_memory()


def _values(codes: onnx_ir.Value, scale: onnx_ir.Value, node: onnx_ir.Node) -> onnx_ir.TensorProtocol:
    assert codes.const_value is not None
    assert scale.const_value is not None
    stored, factors = codes.const_value.numpy(), scale.const_value.numpy()
    if factors.ndim:
        shape = [1] * stored.ndim
        shape[node.attributes["axis"].as_int()] = -1
        factors = factors.reshape(shape)
    return onnx_ir.tensor((stored.astype(np.float32) * factors.astype(np.float32)).astype(factors.dtype))
