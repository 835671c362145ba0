"""Time inside the engine, layer by layer, joined to the graph's node names and grouped.

ONNX Runtime and OpenVINO profile themselves; profiling slows an engine a little, so these runs are never among the
timings. `layers_from_rows` reads what TensorRT's IProfiler reports (and trtexec --exportProfile writes); it has not
been run on a GPU here.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bench.graph_cost import GROUPS, NodeCost, group_of, node_costs
from zoomrt.bench.record import Layers, LayerTime
from zoomrt.bundle import Bundle
from zoomrt.errors import EngineMismatch, InputError
from zoomrt.files import scratch_folder
from zoomrt.runtime.quiet import import_openvino
from zoomrt.runtime.sessions.common.onnxruntime_graph import open_graph, session_options
from zoomrt.runtime.sessions.openvino import ARITHMETICS

TOP = 10
_WIDE = frozenset({"float", "f32", "fp32", "float32"})


@dataclass(frozen=True)
class _Time:
    """One layer of the runner. dtype : of its data, empty where the runner does not tell. made_of : the names of nodes
    that went into it, as far as the runner tells."""

    name: str
    operator: str
    ms: float
    dtype: str
    made_of: tuple[str, ...] = ()


def layers_of(bundle: Bundle, batch: NDArray[np.float32], threads: int, runs: int) -> Layers:
    """Each layer's median over `runs`, after one that is not counted.

    Raises EngineMismatch for a bundle of several graphs.
    """
    manifest = bundle.manifest
    if manifest.sampling is not None:
        raise EngineMismatch(
            "cannot profile by layer", seen="several graphs", needed="one graph", remedy="Profile a one-step bundle."
        )
    graph = bundle.graph("1")
    given = batch.astype(manifest.tile.dtype)
    if manifest.backend == "openvino":
        rows, source = openvino_rows(graph, given, threads, runs, ARITHMETICS[manifest.arithmetic]), "OpenVINO"
    else:
        rows, source = onnxruntime_rows(graph, given, threads, runs), "ONNX Runtime"
    return _joined(f"{source}'s own profile, median of {runs} runs", rows, node_costs(graph))


def layers_from_rows(rows: Iterable[Mapping[str, Any]], graph: Path) -> Layers:
    """From TensorRT: rows with `name` (of one node, or of several joined by " + ") and `averageMs` or `timeMs`.

    Rows without a name (trtexec's first one holds the count) are left out. Raises InputError without any times.
    """
    found = []
    for row in rows:
        name, ms = row.get("name"), row.get("averageMs", row.get("timeMs"))
        if isinstance(name, str) and isinstance(ms, (int, float)):
            found.append(_Time(name, "", float(ms), ""))
    if not found:
        remedy = "Export it with trtexec --exportProfile."
        raise InputError("this is no layer profile", seen="no times", needed="rows with name and ms", remedy=remedy)
    return _joined("TensorRT's layer profile", found, node_costs(graph))


def onnxruntime_rows(graph: Path, batch: NDArray[Any], threads: int, runs: int) -> list[_Time]:
    """One for each node that ran, under the options of `OnnxRuntimeSession`."""
    with scratch_folder() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = open_graph(graph, options)
        feed = {session.get_inputs()[0].name: batch}
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[str, list[float]] = {}
    facts: dict[str, tuple[str, str]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name, arguments = event["name"].removesuffix("_kernel_time"), event["args"]
            taken.setdefault(name, []).append(event["dur"] / 1e3)
            types = [kind for one in arguments.get("output_type_shape", []) for kind in one]
            facts[name] = (arguments["op_name"], types[0] if types else "")
    return [_Time(name, facts[name][0], statistics.median(ms[1:]), facts[name][1]) for name, ms in taken.items()]


def openvino_rows(graph: Path, batch: NDArray[Any], threads: int, runs: int, hint: str) -> list[_Time]:
    """One for each node that ran, under the options of `OpenVinoSession`."""
    openvino = import_openvino()
    options = {"PERF_COUNT": True, "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(str(graph), "CPU", {**options, "NUM_STREAMS": 1})
    made_of = {
        one.get_friendly_name(): tuple(str(one.get_rt_info()["originalLayersNames"].astype(str)).split(","))
        for one in model.get_runtime_model().get_ops()
    }
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(batch)))
    request.infer()
    taken: dict[str, list[float]] = {}
    facts: dict[str, tuple[str, str]] = {}
    for _ in range(runs):
        request.infer()
        for one in request.profiling_info:
            taken.setdefault(one.node_name, []).append(one.real_time.total_seconds() * 1e3)
            facts[one.node_name] = (one.node_type, one.exec_type.rpartition("_")[2].lower())
    return [
        _Time(name, facts[name][0], statistics.median(ms), facts[name][1], made_of.get(name, ()))
        for name, ms in taken.items()
        if any(ms)
    ]


def _joined(source: str, rows: list[_Time], nodes: list[NodeCost]) -> Layers:
    # ONNX Runtime calls a node that it made of others after the value that comes out, with an ending of its own
    known = {value: node for node in nodes for value in (*node.outputs, node.name)}
    total = sum(row.ms for row in rows) or 1.0
    groups = dict.fromkeys(GROUPS, 0.0)
    matched = 0.0
    layers = []
    for row in rows:
        names = dict.fromkeys([*_parts(row.name), *row.made_of])
        inside = list({known[name].name: known[name] for name in names if name in known}.values())
        operator = row.operator
        if operator in ("", "Subgraph"):  # fused, and the runner does not say from what: whatever weighs most
            operator = max(inside, key=lambda node: (node.macs or 0, node.bytes)).operator if inside else operator
        operator = operator or "unknown"
        groups[_group(operator)] += row.ms
        matched += row.ms if inside else 0.0
        layers.append(
            LayerTime(
                name=row.name,
                operator=operator,
                group=_group(operator),
                ms=round(row.ms, 4),
                share=round(row.ms / total, 4),
                gmac=round(sum(node.macs or 0 for node in inside) / 1e9, 4),
                node=inside[0].name if inside else "",
            )
        )
    told = [row for row in rows if row.dtype]
    wide = sum(row.ms for row in told if row.dtype in _WIDE)
    return Layers(
        source=source,
        groups_ms={name: round(ms, 4) for name, ms in groups.items()},
        top=tuple(sorted(layers, key=lambda layer: -layer.ms)[:TOP]),
        fp32_share=round(wide / total, 4) if told else None,
        matched_share=round(matched / total, 4),
    )


_OPENVINO = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "Gemm",
    "ScaledDotProductAttention": "Attention",
    "ScaledDotProductAttentionWithKVCache": "Attention",
    "MVN": "InstanceNormalization",
    "Eltwise": "Mul",
    "Subgraph": "Mul",
    "Swish": "Sigmoid",
}
"""OpenVINO's node types -> the ONNX operator of their group. A Subgraph is a chain of pointwise operations."""


def _group(operator: str) -> str:
    return group_of(_OPENVINO.get(operator, operator))


def _parts(name: str) -> list[str]:
    """A layer's name, and the node names that it is made of: joined by " + " or in brackets by TensorRT."""
    return [
        name,
        name.removesuffix("_nchwc"),
        name.removesuffix("/WithoutBiases"),
        *re.split(r" \+ |[\[\](),]\s*", name),
    ]
