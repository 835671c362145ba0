"""How much memory a build will take, stage by stage, before it takes it.

Weights and activations are counted exactly (`activations.py`); what libraries need beside them is a constant below,
measured on Stable Diffusion 2.1-base of true size and of a quarter of it, and on `edge`. Bytes of physical memory of a
build and its engine compiler together, without the pages of mapped files, which the system takes back when it must.
benchmarks/build_memory.py compares with real builds.
"""

from __future__ import annotations

import math

from torch import nn

from zoomrt.bundle import TileFacts
from zoomrt.bundle.records import MemoryPlan, Stage
from zoomrt.errors import OutOfMemory
from zoomrt.export.graph.to_onnx import EXTERNAL_DATA_BYTES
from zoomrt.export.memory.activations import Activations, activations_of
from zoomrt.export.precisions import Precision
from zoomrt.export.verify.sample_tiles import EXTREMES
from zoomrt.runtime.backends import Backend
from zoomrt.runtime.resources import address_space

PROGRAM_BYTES = 600_000_000
"""Python with its libraries after some work: 0.5 GB for edge, 0.75 GB at the end of a build with diffusers."""
EXPORT_COPIES = {"embedded": 3.0, "external": 0.1}
"""Copies of the weights beside the network's own while the graph is written and checked. Embedded: as tensors, as
protobuf, as its bytes. External (`graph.EXTERNAL_DATA_BYTES`): one tensor after the other."""
ORT_COPIES = {"fp32": 1.1, "fp16": 3.2, "8 bits": 5.2}
"""What ONNX Runtime holds with a graph loaded, over the weights' bytes; on a CPU it widens an FP16 graph to FP32, and
8-bit codes too (that figure was not measured on a large network). OpenVINO stays within them."""
ORT_ACTIVATIONS = 1.85
"""ONNX Runtime's arena over the activations with attention scores written out: it grows by doubling."""
COMPILER_BYTES = 280_000_000
"""The engine compiler's process apart from the weights (build_time.json: `edge`, 0.3 GB)."""
COMPILER_COPIES = 3.3
"""Peak of TensorRT-RTX over the weights' bytes: 6.1 GB for 1.8 GB of FP16, measured with 1.7.1 on an SD 2.1 UNet."""


def memory_table(plan: MemoryPlan) -> list[str]:
    """For a person."""
    head = f"{'memory':<12}{'weights':>12}{'activations':>13}{'workspace':>12}{'total':>10}"
    rows = [
        f"  {s.name:<10}{size(s.weights):>12}{size(s.activations):>13}{size(s.workspace):>12}{size(s.total):>10}"
        for s in plan.stages
    ]
    hungriest = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    parts = ", ".join(f"{name} {size(count)}" for name, count in hungriest)
    return [head, *rows, f"  peak {size(plan.peak.total)} in {plan.peak.name}; activations by part: {parts}"]


def plan_memory(
    network: nn.Module, tile: TileFacts, *, probe: int, precision: Precision, backend: Backend, stored: int
) -> MemoryPlan:
    """What a build of `network` will need, for its largest batch.

    network : FP32; it is neither run nor changed. probe : side of the tiles for FP16 emulation, LR pixels.
    precision : with 8 bits all weights count as codes.
    backend : what runs the graphs, or compiles engines of them.
    stored : `stored_bytes` of the files that the network came from.
    """
    constants = [*network.parameters(), *network.buffers()]
    weights = sum(tensor.nbytes for tensor in constants)
    quantised, half = precision.eight_bit is not None, precision.storage_on(backend.device) == "fp16"
    kept = weights // 4 if quantised else weights // 2 if half else weights
    values = activations_of(network, (tile.batches[-1], tile.channels, tile.height, tile.width))
    beside = stored - weights if stored >= weights else stored  # narrower files are widened beside themselves
    stages = [_stage("weights", weights, 0, beside), _torch_stage("reference", weights, values)]
    if quantised:
        stages.append(_torch_stage("calibrate", weights, values, beside=kept))  # the codes that a search tries
    if half:  # with 8-bit layers the tiles that are judged are whole
        emulated = values if quantised else activations_of(network, (len(EXTREMES), tile.channels, probe, probe))
        stages.append(_torch_stage("fp16", weights, emulated, beside=kept))  # what is freed has holes at first
    placed = "external" if kept > EXTERNAL_DATA_BYTES else "embedded"
    stages.append(_stage("export", kept, 0, EXPORT_COPIES[placed] * kept))
    copies = ORT_COPIES["8 bits" if quantised else "fp16" if half else "fp32"]
    stages.append(_stage("parity", kept, ORT_ACTIVATIONS * values.unfused, (copies - 1) * kept))
    if backend.compiles:
        stages.append(_stage("engine", kept, 0, (COMPILER_COPIES - 1) * kept + COMPILER_BYTES))
    return MemoryPlan(tuple(stages), values.parts)


def _torch_stage(name: str, weights: int, values: Activations, beside: int = 0) -> Stage:
    return _stage(name, weights, values.live, values.converting - values.live + beside)


def _stage(name: str, weights: int, activations: float, workspace: float) -> Stage:
    return Stage(name, weights, round(activations), round(workspace) + PROGRAM_BYTES)


def check_files(stored: int, max_bytes: int | None) -> None:
    """Refuse before anything is read: every tensor of the files is held at once, whatever follows.

    Raises OutOfMemory.
    """
    limit, of = _limit(max_bytes)
    if stored + PROGRAM_BYTES > limit:
        raise OutOfMemory(
            f"the build does not fit into {of}",
            seen=f"weights files of {size(stored)}, and {size(PROGRAM_BYTES)} for the program",
            needed=f"{size(limit)} or less",
            remedy=f"Allow well over {size(stored + PROGRAM_BYTES)}; the tile does not matter here.",
        )


def check_budget(plan: MemoryPlan, max_bytes: int | None) -> None:
    """Refuse a build whose peak is above `max_bytes`, or above what the system lets this process have.

    Raises OutOfMemory that names the stages that are.
    """
    limit, of = _limit(max_bytes)
    if plan.peak.total <= limit:
        return
    above = [stage for stage in plan.stages if stage.total > limit]
    smaller = all(stage.total - stage.activations <= limit for stage in above)
    advice = "Use a smaller --tile or --batch, or allow" if smaller else "No tile is small enough for that: allow"
    raise OutOfMemory(
        f"the build does not fit into {of}",
        seen="; ".join(
            f"{s.name} {size(s.total)} (weights {size(s.weights)}, activations {size(s.activations)}, "
            f"workspace {size(s.workspace)})"
            for s in above
        ),
        needed=f"{size(limit)} or less",
        remedy=f"{advice} {size(plan.peak.total)}.",
    )


def _limit(max_bytes: int | None) -> tuple[float, str]:
    """The tightest limit, in bytes, and its name. A process takes more address space than memory, never less."""
    limits = [(math.inf, ""), (address_space(), "the address space of this process (ulimit -v)")]
    return min(limits if max_bytes is None else [*limits, (max_bytes, "--max-memory")])


def size(count: float) -> str:
    """Bytes for a person: decimal megabytes, or gigabytes from one on."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
