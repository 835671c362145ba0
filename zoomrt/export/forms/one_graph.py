"""What a bundle is made of: graphs and engines, one per batch size, with the figures each step earned.

`Parts` for FP32 and FP16, `EightBitParts` for 8-bit layers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoomrt.bundle import TileFacts
from zoomrt.bundle.records import CalibrationRecord, EngineReport, Fp16Report, GraphParity, Parity, SpeedRecord
from zoomrt.calibration.options import Calibration
from zoomrt.calibration.report import write_report
from zoomrt.errors import ExportError
from zoomrt.export.engines.cpu import CpuEngine, Graphs, Trials, check_gain, cpu_engines, fastest
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.forms.quantisation import SEEDS, cost_against_fp16, prove_fp16_storage, quantise_network
from zoomrt.export.fp16.prepare import make_fp16_safe, prepare_fp16
from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.graph.qdq import write_without_codes
from zoomrt.export.graph.to_onnx import export_graph, fp32_nodes, operator_counts
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildRequest, Progress
from zoomrt.export.targets import Target
from zoomrt.export.verify.parity import Reference, Runner, check_parity, reference
from zoomrt.export.verify.sample_tiles import extreme_tiles, with_noise
from zoomrt.files import scratch_folder
from zoomrt.models.family import Family
from zoomrt.models.half import to_half
from zoomrt.runtime.backends import BACKENDS, Arithmetic

__all__ = ["EMULATED_SIDE", "EightBitParts", "Parts"]

EMULATED_SIDE = 32
"""Side of the tiles of FP16 emulation, LR pixels, or the build's tile if smaller; ranges come from a whole tile."""


class Parts:
    """Graphs and engines of one bundle, one per batch size, with the figures they earned."""

    def __init__(
        self,
        request: BuildRequest,
        target: Target,
        backend: str,
        facts: Family,
        tile: TileFacts,
        seed: int,
        scratch: Path,
        report: Progress,
        kept: Path | None,
    ) -> None:
        self.request, self.target, self.backend, self.tile = request, target, backend, tile
        self.facts, self.seed, self.scratch, self.report, self.kept = facts, seed, scratch, report, kept
        self.precision, self.runner = PRECISIONS.named(request.precision), BACKENDS.named(backend)
        self.storage = self.precision.storage_on(self.runner.device)
        self.half = self.storage == "fp16"
        self.group_norm = self.runner.group_norm[self.storage]
        self.arithmetic: Arithmetic = "fp32"
        self.seeds = {"parity": seed}
        self.wanted: dict[int, Reference] = {}
        self.graphs: dict[str, str] = {}
        self.engines: dict[str, str] = {}
        self.parity: dict[str, GraphParity] = {}
        self.numerics: Fp16Report | None = None
        self.calibration: CalibrationRecord | None = None
        self.engine_reports: dict[str, EngineReport] = {}
        self.speed: SpeedRecord | None = None
        self.built: list[str] = []
        self.ran: list[str] = []
        self.warnings: list[str] = []

    def export(self, network: nn.Module) -> None:
        """Write the graphs of an FP32 network; for FP16 it becomes FP16 on the way."""
        self.wanted = self._references(network)
        for batch in self.tile.batches:
            self._export(network, batch)

    def finish(self, suspect: nn.Module | None) -> None:
        """Check the graphs, and compile them or choose what runs them. Needs the network no more, and needs its memory.

        suspect : the network all the same, to find the node at fault should a graph differ from it.
        """
        try:
            if self.runner.device == "cpu":
                self._choose_engine()
                return
            for batch in self.tile.batches:
                self._record(batch, [self._check(batch)])
                if self.runner.compiles:
                    self._compile(batch)
        except ExportError as failure:
            if suspect is None:
                raise
            self.report("bisect", 0.0)
            raise self._explained(failure, suspect) from failure

    def _choose_engine(self) -> None:
        """Of the engines for this CPU that pass parity with every graph, the fastest; `backend` is its runner then."""
        precision, batches = self.precision, self.tile.batches
        graphs = Graphs(self.scratch, {n: self._file(n, "onnx").name for n in batches}, precision.name, self.tile)

        def check(engine: CpuEngine) -> list[Parity]:
            found = []
            for batch in batches:
                with graphs.load(engine, batch) as session:
                    found.append(self._check(batch, Runner(engine.name, session.run)))
                return_freed_memory()
            return found

        trials = Trials.of(cpu_engines(precision, self.request.backend), check)
        for index, batch in enumerate(batches):
            self._record(batch, [found[index] for found in trials.passed.values()])
        self.warnings += [f"{name} was not taken: {why}" for name, why in trials.refused.items()]
        engines, fewer_bits = tuple(trials.passed), precision.narrow
        chosen = engines[0]
        if len(engines) > 1 or fewer_bits:
            self.report("speed", 0.0)
            lr = self.wanted[batches[-1]].lr
            rivals = cpu_engines(PRECISIONS.named("fp32"), self.request.backend) if fewer_bits else ()
            with scratch_folder(self.scratch) as folder:
                exact = self._exact(graphs, batches[-1], folder) if fewer_bits else graphs
                chosen, self.speed = fastest(engines, graphs, lr, rivals, exact)
        self.backend, self.arithmetic = chosen.backend, chosen.arithmetic
        if (warning := check_gain(self.speed, precision.name, required=self.request.require_faster)) is not None:
            self.warnings.append(warning)

    def _exact(self, graphs: Graphs, batch: int, folder: Path) -> Graphs:
        """The graph of that batch in FP32, in `folder` if it is not the very same one."""
        if self.precision.eight_bit is None:
            return graphs
        write_without_codes(self._file(batch, "onnx"), folder / "fp32.onnx")
        return replace(graphs, folder=folder, files={batch: "fp32.onnx"}, precision="fp32")

    def _references(self, network: nn.Module) -> dict[int, Reference]:
        ranges = Ranges()
        wanted = {}
        for batch in self.tile.batches:
            self.report("reference", 0.0)
            visitors = (ranges,) if self.half and batch == 1 else ()
            wanted[batch] = reference(
                network,
                (batch, 3, self.tile.height, self.tile.width),
                self.tile.value_range,
                self.seed,
                half=self.half,
                needed_db=self.precision.minimum_psnr_db,
                visitors=visitors,
                noise=self.tile.noise,
            )
            return_freed_memory()
        if self.half:
            self.report("fp16", 0.0)
            tiles = self._extremes()
            self.numerics = make_fp16_safe(
                network, tiles, self.tile.value_range, [ranges], self.precision.minimum_psnr_db
            )
        return wanted

    def _extremes(self) -> dict[str, NDArray[np.float32]]:
        """Tiles for FP16 storage emulation."""
        side = self.facts.size.largest_within(min(EMULATED_SIDE, self.tile.height))
        self.ran.append(f"network under FP16 storage emulation on tiles of {side} x {side}")
        pictures = extreme_tiles(side, self.tile.value_range, self.seed)
        return {name: with_noise(picture, self.tile.noise) for name, picture in pictures.items()}

    def _export(self, network: nn.Module, batch: int) -> None:
        graph = self._file(batch, "onnx")
        self.report("export", 0.0)
        export_graph(
            network,
            graph,
            shape=self._shape(batch),
            half=self.half,
            opset=self.target.opset,
            group_norm=self.group_norm,
        )
        self._note_fp32_nodes(graph)
        self.graphs[str(batch)] = graph.name
        self.built.append(f"graph {graph.name}")

    def _note_fp32_nodes(self, graph: Path) -> None:
        if self.numerics is not None:
            nodes = tuple(dict.fromkeys([*self.numerics.fp32_nodes, *fp32_nodes(graph)]))
            self.numerics = msgspec.structs.replace(self.numerics, fp32_nodes=nodes)

    def _check(self, batch: int, runner: Runner | None = None) -> Parity:
        self.report("parity", 0.0)
        return check_parity(self._file(batch, "onnx"), self.wanted[batch], self._loss_db, runner)

    def _record(self, batch: int, results: list[Parity]) -> None:
        """What the graph of that batch was found to do, in each runner that was tried."""
        graph = self._file(batch, "onnx")
        self.parity[str(batch)] = self._parity(graph, results)
        self.ran += [f"graph {graph.name} in {result.runner} on CPU" for result in results]

    def _parity(self, graph: Path, results: list[Parity]) -> GraphParity:
        return GraphParity(
            seed=self.seed, results=tuple(results), operators=operator_counts(graph), opset=self.target.opset
        )

    def _explained(self, failure: ExportError, network: nn.Module) -> ExportError:
        """The same failure with the node at fault, by the graph for one tile."""
        from zoomrt.export.verify.bisect import first_divergence

        found = first_divergence(
            network,
            self._file(1, "onnx"),
            self.wanted[1].lr,
            precision=self.storage,
            group_norm=self.group_norm,
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
        summary = self._engine(self._file(batch, "onnx"), engine, self.precision.kind)
        self.engines[str(batch)] = engine.name
        self.engine_reports[str(batch)] = summary
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
            allow_fp32=self.numerics.fp32_nodes if self.numerics else (),
            attention_plugin=self.request.attention_plugin,
        )

    def _shape(self, batch: int) -> tuple[int, int, int, int]:
        return batch, self.tile.channels, self.tile.height, self.tile.width

    @property
    def _loss_db(self) -> float:
        return self.facts.parity_loss_db if self.precision.allows_family_loss else 0.0

    def _file(self, batch: int, ending: str) -> Path:
        return self.scratch / f"{self.request.precision}-b{batch}.{ending}"


class EightBitParts(Parts):
    """Graphs and engines whose convolutions and linear layers compute in 8 bits; on a GPU the rest is FP16."""

    def export(self, network: nn.Module) -> None:
        extremes = self._prepare_fp16(network) if self.half else {}
        choice = self.request.calibration or Calibration()
        quantised = quantise_network(
            network,
            self.precision,
            self.backend,
            choice,
            self.tile,
            self.kept,
            self.report,
            self.facts.size.largest_within,
        )
        return_freed_memory()
        if self.half:
            to_half(network)
            self.report("fp16", 0.0)
            assert self.numerics is not None
            results, quality = prove_fp16_storage(network, quantised, extremes)
            self.numerics = msgspec.structs.replace(self.numerics, results=results)
            quantised = replace(quantised, record=msgspec.structs.replace(quantised.record, psnr_db=quality))
            self.ran.append("network under FP16 storage emulation: held-out tiles")
        self.calibration = quantised.record
        write_report(self.scratch, self.calibration, quantised.multiply_adds)
        self.seeds |= SEEDS
        self.warnings += quantised.warnings
        self.wanted = {batch: quantised.reference(batch, half=self.half) for batch in self.tile.batches}
        for batch in self.tile.batches:
            self._export(network, batch)

    def _prepare_fp16(self, network: nn.Module) -> dict[str, NDArray[np.float32]]:
        """Make the FP32 network ready for FP16, and return the tiles that showed what it takes."""
        self.report("fp16", 0.0)
        extremes, ranges = self._extremes(), Ranges()
        shape = (1, 3, self.tile.height, self.tile.width)
        noise = self.tile.noise
        reference(
            network, shape, self.tile.value_range, self.seed, half=True, needed_db=0.0, visitors=(ranges,), noise=noise
        )
        self.numerics = prepare_fp16(network, extremes, [ranges]).report
        return extremes

    def _compile(self, batch: int) -> EngineReport:
        """Also, for comparison, the same graph in FP16, which is then thrown away."""
        summary = super()._compile(batch)
        if summary.kernels is None:  # it could not be read back, nor could the other
            return summary
        self.report("engine in FP16, to compare", 0.0)
        with scratch_folder(self.scratch) as folder:
            graph = folder / "fp16.onnx"
            write_without_codes(self._file(batch, "onnx"), graph)
            fp16 = self._engine(graph, folder / "fp16.engine", "fp16")
        figures, warning = cost_against_fp16(summary, fp16)
        assert self.calibration is not None
        costs = {**self.calibration.against_fp16, str(batch): figures}
        self.calibration = msgspec.structs.replace(self.calibration, against_fp16=costs)
        if warning is not None:
            self.warnings.append(f"{self.engines[str(batch)]}: {warning}")
        return summary
