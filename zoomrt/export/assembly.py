"""Assembles one bundle: weights -> network -> graph -> parity -> engine, and the figures each step earned."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoomrt.bundle import ColourPolicy, Manifest, SplitFacts, TileFacts, writing_bundle
from zoomrt.errors import CheckpointError, ExportError, UsageError
from zoomrt.export.calibration_options import Calibration
from zoomrt.export.checkpoint import Checkpoint, load_checkpoint
from zoomrt.export.engine import EngineReport, build_engine
from zoomrt.export.families import family_named, family_of
from zoomrt.export.family import Family, SizeRule
from zoomrt.export.fp16 import make_fp16_safe, prepare_fp16
from zoomrt.export.graph import export_graph, fp32_nodes, operator_counts
from zoomrt.export.half import to_half
from zoomrt.export.memory import check_budget, check_files, plan_memory, return_freed_memory, stored_bytes
from zoomrt.export.parity import Reference, check_parity, reference
from zoomrt.export.pipeline import DEFAULT_MODEL, BuildRequest, Progress
from zoomrt.export.probes import extreme_tiles
from zoomrt.export.qdq import write_without_codes
from zoomrt.export.quantisation import SEEDS, cost_against_fp16, prove_fp16_storage, quantise_network
from zoomrt.export.ranges import Ranges
from zoomrt.export.split import TILING, check_split, export_split, with_parts
from zoomrt.export.targets import EIGHT_BIT, Target, floating_point

__all__ = ["PROBE_SIDE", "assemble"]

PROBE_SIDE = 64
"""Side of what the split form is tried on, LR pixels, or the build's tile if that is smaller."""
EMULATED_SIDE = 32
"""The same for FP16 emulation; the ranges come from a whole tile besides."""


def assemble(
    request: BuildRequest,
    target: Target,
    backend: str,
    versions: dict[str, str],
    key: str,
    output: Path,
    report: Progress,
    kept: Path | None,
) -> None:
    """Write the bundle of a checked request. `versions` and `key` go into the manifest as they are.

    kept : folder for what calibration measures, to go on from when the build is stopped; None keeps nothing.
    """
    stored = stored_bytes(request.weights, request.sources)
    check_files(stored, request.max_memory)
    report("weights", 0.0)
    family, tile, network, weights = _load(request, backend)
    probe = family.facts.size.largest_within(min(EMULATED_SIDE, tile.height))
    plan = plan_memory(network, tile, probe=probe, precision=request.precision, backend=backend, stored=stored)
    report("\n".join(plan.lines()), 0.0)
    check_budget(plan, request.max_memory)
    with writing_bundle(output) as (scratch, manifests):
        kind = _SplitParts if request.form == "split" else _EightBitParts if request.precision in EIGHT_BIT else _Parts
        parts = kind(request, target, backend, tile, int(key[:8], 16), scratch, report, kept)
        parts.export(network, family.facts.size)
        suspect = network if request.bisect else None
        del network
        return_freed_memory()
        parts.finish(suspect)
        manifests.append(
            Manifest(
                family=family.facts.name,
                target=target.name,
                backend=backend,
                precision=request.precision,
                tile=tile,
                graphs=parts.graphs,
                split=parts.split,
                engines=parts.engines,
                steps=family.facts.steps,
                seeds=parts.seeds,
                weights=weights,
                parity=parts.parity,
                numerics=parts.numerics,
                calibration=parts.calibration,
                memory=plan.to_json(),
                engine_report=parts.engine_reports,
                built=parts.built,
                ran=parts.ran,
                warnings=[*family.facts.warnings, *_warnings(backend, request.precision), *parts.warnings],
                versions=versions,
                key=key,
            )
        )
        report("write", 0.0)


class _Parts:
    """Graphs and engines of one bundle, one per batch size, with the figures they earned."""

    def __init__(
        self,
        request: BuildRequest,
        target: Target,
        backend: str,
        tile: TileFacts,
        seed: int,
        scratch: Path,
        report: Progress,
        kept: Path | None,
    ) -> None:
        self.request, self.target, self.backend, self.tile = request, target, backend, tile
        self.seed, self.scratch, self.report, self.kept = seed, scratch, report, kept
        self.half = floating_point(request.precision, backend) == "fp16"
        self.seeds = {"parity": seed}
        self.wanted: dict[int, Reference] = {}
        self.graphs: dict[str, str] = {}
        self.split: SplitFacts | None = None
        self.engines: dict[str, str] = {}
        self.parity: dict[str, Any] = {}
        self.numerics: dict[str, Any] = {}
        self.calibration: dict[str, Any] = {}
        self.engine_reports: dict[str, Any] = {}
        self.built: list[str] = []
        self.ran: list[str] = []
        self.warnings: list[str] = []

    def export(self, network: nn.Module, size: SizeRule) -> None:
        """Write the graphs of an FP32 network; for FP16 it becomes FP16 on the way."""
        self.wanted = self._references(network, size)
        for batch in self.tile.batches:
            self._export(network, batch)

    def finish(self, suspect: nn.Module | None) -> None:
        """Check the graphs and compile them. Needs the network no more, and needs its memory.

        suspect : the network all the same, to find the node at fault should a graph differ from it.
        """
        for batch in self.tile.batches:
            self._check(batch, self.wanted.pop(batch), suspect)
            if self.backend != "onnxruntime":
                self._compile(batch)

    def _references(self, network: nn.Module, size: SizeRule) -> dict[int, Reference]:
        ranges = Ranges()
        wanted = {}
        for batch in self.tile.batches:
            self.report("reference", 0.0)
            visitors = (ranges,) if self.half and batch == 1 else ()
            shape, span = self._shape(batch), self.tile.value_range
            wanted[batch] = reference(network, shape, span, self.seed, half=self.half, visitors=visitors)
            return_freed_memory()
        if self.half:
            self.report("fp16", 0.0)
            tiles = self._extremes(size)
            self.numerics = make_fp16_safe(network, tiles, self.tile.value_range, [ranges]).to_json()
        return wanted

    def _extremes(self, size: SizeRule) -> dict[str, NDArray[np.float32]]:
        """Tiles for FP16 storage emulation."""
        side = size.largest_within(min(EMULATED_SIDE, self.tile.height))
        self.ran.append(f"network under FP16 storage emulation on tiles of {side} x {side}")
        return extreme_tiles(side, self.tile.value_range, self.seed)

    def _export(self, network: nn.Module, batch: int) -> None:
        graph = self._file(batch, "onnx")
        self.report("export", 0.0)
        export_graph(
            network,
            graph,
            shape=self._shape(batch),
            half=self.half,
            opset=self.target.opset,
            instance_norm=self.backend == "onnxruntime",
        )
        if self.half:
            self.numerics["fp32_nodes"] = list(fp32_nodes(graph))
        self.graphs[str(batch)] = graph.name
        self.built.append(f"graph {graph.name}")

    def _check(self, batch: int, wanted: Reference, suspect: nn.Module | None) -> None:
        graph = self._file(batch, "onnx")
        self.report("parity", 0.0)
        try:
            result = check_parity(graph, wanted)
        except ExportError as failure:
            if suspect is None:
                raise
            self.report("bisect", 0.0)
            raise self._explained(failure, suspect, graph, wanted) from failure
        self.parity[str(batch)] = {
            "seed": self.seed,
            "reference": "torch float32",
            "results": [asdict(result)],
            "operators": operator_counts(graph),
            "opset": self.target.opset,
        }
        self.ran.append(f"graph {graph.name} in onnxruntime on CPU")

    def _explained(self, failure: ExportError, network: nn.Module, graph: Path, wanted: Reference) -> ExportError:
        """The same failure with the node at fault."""
        from zoomrt.export.bisect import first_divergence

        found = first_divergence(
            network,
            graph,
            wanted.lr,
            precision=self.request.precision,
            instance_norm=self.backend == "onnxruntime",
        )
        return ExportError(
            failure.what,
            seen=f"{failure.seen}; first node that differs: {found or 'none by itself'}",
            needed=failure.needed,
            remedy="Report this model with this message.",
        )

    def _compile(self, batch: int) -> EngineReport:
        engine = self._file(batch, "engine")
        self.report("engine", 0.0)
        precision = EIGHT_BIT.get(self.request.precision, self.request.precision)
        summary = self._engine(self._file(batch, "onnx"), engine, precision)
        self.engines[str(batch)] = engine.name
        self.engine_reports[str(batch)] = summary.to_json()
        self.warnings.extend(f"{engine.name}: {warning}" for warning in summary.warnings)
        self.built.append(f"engine {engine.name}")
        return summary

    def _engine(self, graph: Path, engine: Path, precision: str) -> EngineReport:
        return build_engine(
            graph,
            engine,
            backend=self.backend,
            compute_capabilities=self.target.compute_capabilities,
            precision=precision,
            timeout_s=self.request.timeout_s,
            on_progress=lambda stage, fraction: self.report(f"engine: {stage}", fraction),
            allow_fp32=tuple(self.numerics.get("fp32_nodes", ())),
        )

    def _shape(self, batch: int) -> tuple[int, int, int, int]:
        return batch, 3, self.tile.height, self.tile.width

    def _file(self, batch: int, ending: str) -> Path:
        return self.scratch / f"{self.request.precision}-b{batch}.{ending}"


class _EightBitParts(_Parts):
    """Graphs and engines whose convolutions and linear layers compute in 8 bits; on a GPU the rest is FP16."""

    def export(self, network: nn.Module, size: SizeRule) -> None:
        extremes = self._prepare_fp16(network, size) if self.half else {}
        choice = self.request.calibration or Calibration()
        precision = self.request.precision
        quantised = quantise_network(network, precision, self.backend, choice, self.tile, self.kept, self.report)
        return_freed_memory()
        if self.half:
            to_half(network)
            self.report("fp16", 0.0)
            results = prove_fp16_storage(network, quantised, extremes)
            self.numerics["results"] = [asdict(result) for result in results]
            self.ran.append("network under FP16 storage emulation: held-out tiles")
        self.calibration = quantised.to_json()
        self.seeds |= SEEDS
        self.warnings += quantised.warnings
        self.wanted = {batch: quantised.reference(batch, half=self.half) for batch in self.tile.batches}
        for batch in self.tile.batches:
            self._export(network, batch)

    def _prepare_fp16(self, network: nn.Module, size: SizeRule) -> dict[str, NDArray[np.float32]]:
        """Make the FP32 network ready for FP16, and return the tiles that showed what it takes."""
        self.report("fp16", 0.0)
        extremes, ranges = self._extremes(size), Ranges()
        reference(network, self._shape(1), self.tile.value_range, self.seed, half=True, visitors=(ranges,))
        self.numerics = prepare_fp16(network, extremes, [ranges]).report.to_json()
        return extremes

    def _compile(self, batch: int) -> EngineReport:
        """Also, for comparison, the same graph in FP16, which is then thrown away."""
        summary = super()._compile(batch)
        if summary.kernels is None:  # it could not be read back, nor could the other
            return summary
        self.report("engine in FP16, to compare", 0.0)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            graph = Path(folder) / "fp16.onnx"
            write_without_codes(self._file(batch, "onnx"), graph)
            fp16 = self._engine(graph, Path(folder) / "fp16.engine", "fp16")
        figures, warning = cost_against_fp16(summary, fp16)
        self.calibration.setdefault("against_fp16", {})[str(batch)] = figures
        if warning is not None:
            self.warnings.append(f"{self.engines[str(batch)]}: {warning}")
        return summary


class _SplitParts(_Parts):
    """The three graphs of the split form."""

    def export(self, network: nn.Module, size: SizeRule) -> None:
        latent_network = with_parts(network)
        self.report("reference", 0.0)
        side = size.largest_within(min(PROBE_SIDE, self.tile.height))
        self.wanted = {1: reference(network, (1, 3, side, side), self.tile.value_range, self.seed, half=False)}
        self.report("export", 0.0)
        self.graphs, self.split = export_split(latent_network, self.scratch, self.target.opset)
        self.built += [f"graph {name}" for name in self.graphs.values()]

    def finish(self, suspect: nn.Module | None) -> None:  # noqa: ARG002 - bisecting is for one graph
        assert self.split is not None
        self.report("parity", 0.0)
        result = check_split(self.scratch, self.graphs, self.tile, self.split, self.wanted[1])
        self.parity["split"] = {"seed": self.seed, "reference": "torch float32", "results": [asdict(result)]}
        self.ran += [f"graph {name} in onnxruntime on CPU" for name in self.graphs.values()]


def _load(request: BuildRequest, backend: str) -> tuple[Family, TileFacts, nn.Module, dict[str, object]]:
    """Everything checked, and the network in FP32; the checkpoint itself is let go."""
    family, checkpoint = _family_and_checkpoint(request)
    request.sources.check(family.facts.name, family.facts.takes)
    tile = _tile_facts(request, family, backend)
    network = family.network(checkpoint, request.sources)
    return family, tile, network, _weight_facts(request, family, checkpoint, network)


def _family_and_checkpoint(request: BuildRequest) -> tuple[Family, Checkpoint]:
    if request.weights is not None:
        family = family_named(request.model) if request.model else None
        checkpoint = load_checkpoint(request.weights)
        return family or family_of(checkpoint), checkpoint
    family = family_named(request.model or DEFAULT_MODEL)
    if family.facts.embedded_weights is None:
        raise CheckpointError(
            f"model {family.facts.name} has no weights inside the package",
            seen="no --weights",
            needed="the file its authors publish",
            remedy=f"Download it and pass --weights FILE; docs/models/{family.facts.name}.md says from where.",
        )
    return family, load_checkpoint(family.facts.embedded_weights)


def _tile_facts(request: BuildRequest, family: Family, backend: str) -> TileFacts:
    facts = family.facts
    tiling = TILING if request.form == "split" else facts.tiling
    side = request.tile if request.tile is not None else tiling.tile
    facts.size.check(side)
    overlap = request.overlap if request.overlap is not None else min(tiling.overlap, side // 2)
    context = min(tiling.context, (overlap - 1) // 2)
    if not 1 <= overlap <= side // 2:
        raise UsageError(
            "the overlap does not fit the tile",
            seen=f"{overlap} LR pixels with tile {side}",
            needed=f"1 to {side // 2}",
            remedy="Use a smaller --overlap or a larger --tile.",
        )
    batches = request.batches
    if not batches or batches[0] != 1 or list(batches) != sorted(set(batches)):
        raise UsageError(
            "the batch sizes are not usable",
            seen=",".join(map(str, batches)) or "none",
            needed="ascending sizes that start with 1",
            remedy="Use --batch 1 or, for example, --batch 1,4.",
        )
    return TileFacts(
        scale=facts.scale,
        height=side,
        width=side,
        batches=batches,
        overlap=overlap,
        context=context,
        value_range=facts.value_range,
        dtype="float16" if floating_point(request.precision, backend) == "fp16" else "float32",
        colour=cast("ColourPolicy", request.colour) if request.colour else facts.colour,
    )


def _weight_facts(
    request: BuildRequest, family: Family, checkpoint: Checkpoint, network: nn.Module
) -> dict[str, object]:
    return {
        "source": "embedded" if request.weights is None else checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "parameters": sum(p.numel() for p in network.parameters()),
        "licence": family.facts.weights_licence,
        **({"sources": request.sources.fingerprint} if request.sources.given() else {}),
    }


def _warnings(backend: str, precision: str) -> list[str]:
    notes = []
    if backend == "onnxruntime" and precision == "fp16":
        notes.append("ONNX Runtime computes FP16 graphs in FP32 on a CPU: smaller file, not faster")
    if backend == "onnxruntime" and precision in EIGHT_BIT:
        notes.append("ONNX Runtime computes these 8-bit layers in FP32 on a CPU: smaller file, not faster")
    if backend != "onnxruntime":
        notes.append("the engine was built here for another machine and was not run")
    return notes
