"""Networks of one graph, written once for each batch size: reference, FP16, graph, parity, choice of engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoomrt.bundle import TileFacts
from zoomrt.bundle.records import GraphParity, Parity
from zoomrt.errors import ExportError
from zoomrt.export.engines import cpu
from zoomrt.export.engines.cpu import CpuEngine, Trials, check_gain, cpu_engines, fastest
from zoomrt.export.forms.values import Graphs, Job, Prepared, Proof
from zoomrt.export.fp16.prepare import make_fp16_safe
from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.graph.qdq import write_without_codes
from zoomrt.export.graph.to_onnx import export_graph, fp32_nodes, operator_counts
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.recording import Visitor
from zoomrt.export.verify.parity import Reference, Runner, check_parity, reference
from zoomrt.export.verify.sample_tiles import extreme_tiles, with_noise
from zoomrt.files import scratch_folder
from zoomrt.models.family import Family

EMULATED_SIDE = 32
"""Side of the tiles of FP16 emulation, LR pixels, or the build's tile if smaller; ranges come from a whole tile."""


def prepare(job: Job, network: nn.Module) -> Prepared:
    """What torch makes of a tile in FP32; then, for FP16, the network in FP16, proved by emulation."""
    ranges, half = Ranges(), job.plan.half
    references = {}
    for batch in job.tile.batches:
        job.report("reference", 0.0)
        references[str(batch)] = reference_of(job, network, batch, (ranges,) if half and batch == 1 else ())
        return_freed_memory()
    if not half:
        return Prepared(references)
    job.report("fp16", 0.0)
    numerics = make_fp16_safe(
        network, extremes(job), job.tile.value_range, [ranges], job.plan.precision.minimum_psnr_db
    )
    return Prepared(references, numerics, ran=(f"network {emulated(job)}",))


def reference_of(job: Job, network: nn.Module, batch: int, visitors: tuple[Visitor, ...] = ()) -> Reference:
    """Of the FP32 network, for that many tiles."""
    tile = job.tile
    return reference(
        network,
        (batch, 3, tile.height, tile.width),
        tile.value_range,
        job.seed,
        half=job.plan.half,
        needed_db=job.plan.precision.minimum_psnr_db,
        visitors=visitors,
        noise=tile.noise,
    )


def emulated_side(facts: Family, tile: TileFacts) -> int:
    """Of the tiles of FP16 emulation, LR pixels."""
    return facts.size.largest_within(min(EMULATED_SIDE, tile.height))


def emulated(job: Job) -> str:
    """For the manifest's list of what was really executed."""
    side = emulated_side(job.facts, job.tile)
    return f"under FP16 storage emulation on tiles of {side} x {side}"


def extremes(job: Job) -> dict[str, NDArray[np.float32]]:
    """Tiles for FP16 storage emulation, (1, C, side, side) each."""
    pictures = extreme_tiles(emulated_side(job.facts, job.tile), job.tile.value_range, job.seed)
    return {name: with_noise(picture, job.tile.noise) for name, picture in pictures.items()}


def export(job: Job, network: nn.Module, prepared: Prepared) -> Graphs:  # noqa: ARG001 - of the forms' one signature
    """One graph for each batch size."""
    files, wide = {}, list[str]()
    for batch in job.tile.batches:
        graph = job.graph(str(batch))
        job.report("export", 0.0)
        export_graph(
            network,
            graph,
            shape=(batch, job.tile.channels, job.tile.height, job.tile.width),
            half=job.plan.half,
            opset=job.plan.target.opset,
            group_norm=job.plan.backend.group_norm[job.plan.storage],
        )
        files[str(batch)] = graph.name
        wide += fp32_nodes(graph) if job.plan.half else ()
    return Graphs(files, tuple(dict.fromkeys(wide)))


def prove(job: Job, prepared: Prepared, suspect: nn.Module | None) -> Proof:
    """Compare every graph with torch, and on a CPU choose the engine that runs them.

    Raises ExportError; with the node at fault if there is a `suspect`.
    """
    try:
        if job.plan.cpu_engines:
            return _choose_engine(job, prepared.references)
        parity = {
            name: graph_parity(job, name, [_check(job, name, wanted)]) for name, wanted in prepared.references.items()
        }
        return Proof(parity, job.plan.backend.name)
    except ExportError as failure:
        if suspect is None:
            raise
        job.report("bisect", 0.0)
        raise _explained(job, failure, suspect, prepared.references["1"]) from failure


def _check(job: Job, name: str, wanted: Reference, runner: Runner | None = None) -> Parity:
    job.report("parity", 0.0)
    loss_db = job.facts.parity_loss_db if job.plan.precision.allows_family_loss else 0.0
    return check_parity(job.graph(name), wanted, loss_db, runner)


def graph_parity(job: Job, name: str, results: Sequence[Parity]) -> GraphParity:
    """What the graph was found to do, in each runner that was tried."""
    operators = operator_counts(job.graph(name))
    return GraphParity(seed=job.seed, results=tuple(results), operators=operators, opset=job.plan.target.opset)


def _choose_engine(job: Job, references: Mapping[str, Reference]) -> Proof:
    """Of the engines for this CPU that pass parity with every graph, the fastest."""
    plan = job.plan
    files = {int(name): job.graph(name).name for name in references}
    graphs = cpu.Graphs(job.folder, files, plan.precision.name, job.tile)

    def check(engine: CpuEngine) -> list[Parity]:
        found = []
        for name, wanted in references.items():
            with graphs.load(engine, int(name)) as session:
                found.append(_check(job, name, wanted, Runner(engine.name, session.run)))
            return_freed_memory()
        return found

    trials = Trials.of(plan.cpu_engines, check)
    parity = {
        name: graph_parity(job, name, [found[index] for found in trials.passed.values()])
        for index, name in enumerate(references)
    }
    warnings = [f"{name} was not taken: {why}" for name, why in trials.refused.items()]
    engines, speed = tuple(trials.passed), None
    chosen = engines[0]
    if len(engines) > 1 or plan.precision.narrow:
        job.report("speed", 0.0)
        largest = max(files)
        rivals = cpu_engines(PRECISIONS.named("fp32"), plan.request.backend) if plan.precision.narrow else ()
        with scratch_folder(job.folder) as folder:
            exact = _exact(job, graphs, largest, folder)
            chosen, speed = fastest(engines, graphs, references[str(largest)].lr, rivals, exact)
    if (warning := check_gain(speed, plan.precision.name, required=plan.request.require_faster)) is not None:
        warnings.append(warning)
    return Proof(parity, chosen.backend, chosen.arithmetic, speed, tuple(warnings))


def _exact(job: Job, graphs: cpu.Graphs, batch: int, folder: Path) -> cpu.Graphs:
    """The graph of that batch in FP32, in `folder` if it is not the very same one."""
    if not job.plan.precision.eight_bit:
        return graphs
    write_without_codes(job.graph(str(batch)), folder / "fp32.onnx")
    return replace(graphs, folder=folder, files={batch: "fp32.onnx"}, precision="fp32")


def _explained(job: Job, failure: ExportError, network: nn.Module, wanted: Reference) -> ExportError:
    """The same failure with the node at fault, by the graph for one tile."""
    from zoomrt.export.verify.bisect import first_divergence

    storage = job.plan.storage
    form = job.plan.backend.group_norm[storage]
    found = first_divergence(network, job.graph("1"), wanted.lr, precision=storage, group_norm=form)
    return ExportError(
        failure.what,
        seen=f"{failure.seen}; first node that differs: {found or 'none by itself'}",
        needed=failure.needed,
        remedy="Report this model with this message.",
    )
