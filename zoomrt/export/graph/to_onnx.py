"""Network -> one ONNX graph for one tile: image tile in, image tile out, constants folded, shapes static."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx_ir import passes
from onnx_ir.passes import common as common_passes
from torch import nn

from zoomrt.errors import ExportError
from zoomrt.export.graph.group_norm import group_norms_as
from zoomrt.export.graph.pads import gather_replicate_pads
from zoomrt.models.half import is_half, to_half
from zoomrt.runtime.backends import GroupNormForm
from zoomrt.runtime.resources import is_refusal, out_of_memory

INPUT, OUTPUT = "image", "upscaled_image"
EXTERNAL_DATA_BYTES = 1 << 28
"""Weights above this go into a file of their own beside the graph; protobuf ends at 2 GiB."""


def export_graph(
    network: nn.Module,
    path: Path,
    *,
    shape: tuple[int, int, int, int],
    half: bool,
    opset: int,
    group_norm: GroupNormForm = "node",
) -> None:
    """Write `network` as an ONNX file with input `lr` and output `sr`, checked.

    shape : (N, C, h, w) of the input, static.
    half : input and output in FP16, and the weights too; a network that is not yet in FP16 is copied for it.
    opset : from 23 on attention stays one `Attention` node.
    group_norm : how GroupNorm is written, see `group_norm.py`; `moments` for FP32 only.

    The file depends on the network and the arguments only: no paths, times or stack traces are stored.
    Raises ExportError with the exporter's or checker's own message.
    """
    export_named(
        network,
        path,
        {INPUT: shape},
        (OUTPUT,),
        half=half,
        opset=opset,
        group_norm=group_norm,
    )


def export_named(
    network: nn.Module,
    path: Path,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    *,
    half: bool,
    opset: int,
    group_norm: GroupNormForm = "node",
) -> None:
    """`export_graph` for a network of several inputs and outputs, all of them floats, in the order of its arguments.

    inputs : name -> shape. outputs : names.
    """
    dtype = torch.float16 if half else torch.float32
    if half and not is_half(network):
        network = copy.deepcopy(network)
        to_half(network)
    weight_bytes = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
    external = weight_bytes > EXTERNAL_DATA_BYTES
    try:
        with (
            quiet(),
            torch.no_grad(),
            group_norms_as(group_norm, network),
        ):
            program = torch.onnx.export(
                network.eval(),
                tuple(torch.zeros(shape, dtype=dtype) for shape in inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                optimize=True,
                verbose=False,
            )
        assert program is not None
        model = program.model
        gather_replicate_pads(model)
        _strip_provenance(model)
        if external:
            onnx_ir.save(model, path, external_data=path.name + ".data")
        else:
            onnx_ir.save(model, path)
        for value in model.graph.initializers.values():
            value.const_value = None  # the exporter keeps the model alive, and with it every weight
        onnx.checker.check_model(str(path), full_check=True)
    except (OSError, MemoryError):  # a full disk or no memory says nothing about the network
        raise
    except Exception as cause:  # whatever the exporter raises is its verdict on this network
        if is_refusal(cause):
            raise out_of_memory(_first_line(cause)) from cause
        raise ExportError(
            "the network could not be exported to ONNX",
            seen=f"{type(cause).__name__}: {_first_line(cause)}",
            needed=f"a graph at opset {opset} that passes the ONNX checker",
            remedy="Run again with --debug for the exporter's full report.",
        ) from cause


def operator_counts(path: Path) -> dict[str, int]:
    """How often each operator stands in the graph, by name."""
    model = onnx.load(str(path), load_external_data=False)
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def fp32_nodes(path: Path) -> tuple[str, ...]:
    """Nodes of an FP16 graph that take or hand on values in FP32, because the network asks for it there."""
    graph = onnx.load(str(path), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    constants.update(name for node in graph.node if node.op_type == "Constant" for name in node.output)
    wide = {
        value.name
        for value in [*graph.value_info, *graph.output]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in constants
    }
    return tuple(node.name for node in graph.node if wide.intersection([*node.input, *node.output]))


def _strip_provenance(model: onnx_ir.Model) -> None:
    """Drop the exporter's stack traces and shapes-by-symbol notes, which hold this machine's paths."""
    passes.Sequential(common_passes.ClearMetadataAndDocStringPass())(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter logs and warns about its own internals; what matters reaches us as an exception."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _first_line(cause: BaseException) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(cause))  # torch writes in colours
    return (plain.strip().splitlines() or ["no message"])[0][:200]
