"""Time inside the engine, layer by layer, joined to the graph's node names and grouped.

ONNX Runtime and OpenVINO profile themselves; profiling slows an engine a little, so these runs are never among the
timings. `layers_from_rows` reads what TensorRT's IProfiler reports (and trtexec --exportProfile writes); it has not
been run on a GPU here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bench.graph_cost import GROUPS, NodeCost, group_of, node_costs
from zoomrt.bench.record import Layers, LayerTime
from zoomrt.bundle import Bundle
from zoomrt.errors import EngineMismatch, InputError
from zoomrt.runtime.backends import BACKENDS, NodeTime

TOP = 10
_WIDE = frozenset({"float", "f32", "fp32", "float32"})


def layers_of(bundle: Bundle, batch: NDArray[np.float32], threads: int, runs: int) -> Layers:
    """Each layer's median over `runs`, after one that is not counted.

    Raises EngineMismatch for a bundle of several graphs, and for a backend that does not tell.
    """
    manifest = bundle.manifest
    if manifest.sampling is not None:
        raise EngineMismatch(
            "cannot profile by layer", seen="several graphs", needed="one graph", remedy="Profile a one-step bundle."
        )
    backend = BACKENDS.named(manifest.backend)
    if backend.profile is None:
        raise EngineMismatch(
            "cannot profile by layer", seen=backend.title, needed="a backend that times its nodes", remedy="Do without."
        )
    rows = backend.profile(bundle, batch.astype(manifest.tile.dtype), threads, runs)
    return _joined(f"{backend.title}'s own profile, median of {runs} runs", rows, node_costs(bundle.graph("1")))


def layers_from_rows(rows: Iterable[Mapping[str, Any]], graph: Path) -> Layers:
    """From TensorRT: rows with `name` (of one node, or of several joined by " + ") and `averageMs` or `timeMs`.

    Rows without a name (trtexec's first one holds the count) are left out. Raises InputError without any times.
    """
    found = []
    for row in rows:
        name, ms = row.get("name"), row.get("averageMs", row.get("timeMs"))
        if isinstance(name, str) and isinstance(ms, (int, float)):
            found.append(NodeTime(name, "", float(ms), ""))
    if not found:
        remedy = "Export it with trtexec --exportProfile."
        raise InputError("this is no layer profile", seen="no times", needed="rows with name and ms", remedy=remedy)
    return _joined("TensorRT's layer profile", found, node_costs(graph))


def _joined(source: str, rows: list[NodeTime], nodes: list[NodeCost]) -> Layers:
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
        if not operator:  # fused, and the runner does not say from what: whatever weighs most
            operator = max(inside, key=lambda node: (node.macs or 0, node.bytes)).operator if inside else operator
        operator = operator or row.otherwise
        groups[group_of(operator)] += row.ms
        matched += row.ms if inside else 0.0
        layers.append(
            LayerTime(
                name=row.name,
                operator=operator,
                group=group_of(operator),
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


def _parts(name: str) -> list[str]:
    """A layer's name, and the node names that it is made of: joined by " + " or in brackets by TensorRT."""
    return [
        name,
        name.removesuffix("_nchwc"),
        name.removesuffix("/WithoutBiases"),
        *re.split(r" \+ |[\[\](),]\s*", name),
    ]
