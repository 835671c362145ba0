"""One benchmark from bundle to record: the engine alone, then each peer in turns with it, then what explains it.

A peer that is missing or fails becomes a row with the reason. So does the engine where it cannot run here; the record
then shows what was read back from it. Two networks are in memory at most, besides the one in torch.
"""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoomrt.bench import graph_cost, layers, machine, quality, roofline
from zoomrt.bench.engine_facts import check_engines
from zoomrt.bench.peers import PEERS, Job, Opened
from zoomrt.bench.record import Ceilings, Cost, Layers, Quality, Record, Row, What
from zoomrt.bench.statistics import latency_of, ratio_of
from zoomrt.bench.timing import WARM_UP_RUNS, Rule, time_alone, time_in_turns, warm_up
from zoomrt.bench.workload import SPANS, Workload, calling, frame_stages, tile_stages
from zoomrt.bundle import Manifest, open_bundle
from zoomrt.errors import EngineMismatch, ZoomrtError
from zoomrt.models.options import Values
from zoomrt.runtime.backends import BACKENDS, backends_for
from zoomrt.runtime.resources import core_count
from zoomrt.runtime.tiles.psnr import psnr_db
from zoomrt.runtime.upscaler import Upscaler, engine_of, load

ENGINE = "zoomrt"
"""Name of the row of the bundle's own engine."""
_STAGE_ROUNDS = 5
_STAGE_LIMIT_S = 5.0
_TOO_FAST = 1.1
"""Share of the peak that convolutions may reach by saving multiplications (Winograd) or by a lucky clock."""
_PACKAGES = ("numpy", "torch", "onnx", "scikit-image")

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    what : see `workload.SPANS`. threads : of one operator; None means one per core. picture : None for the bundled one.
    pairs : folders of low-resolution pictures and their ground truth. weights, options, baseline : see `peers.Job`.
    new_ceilings : see `roofline.ceilings`. words : the command, for the record.
    """

    bundle: Path
    peers: tuple[str, ...] = ()
    what: What = "engine"
    rule: Rule = field(default_factory=Rule)
    threads: int | None = None
    picture: Path | None = None
    pairs: tuple[Path, Path] | None = None
    weights: Path | None = None
    options: Values = field(default_factory=dict)
    baseline: Path | None = None
    new_ceilings: bool = False
    words: Sequence[str] = ()


def run_bench(request: BenchRequest, report: Progress = lambda _label, _fraction: None) -> Record:
    """Raises BundleError, InputError and what loading the bundle's engine raises, but for a backend that has no runtime
    here: that becomes its row."""
    bundle = open_bundle(request.bundle)
    pairs = quality.pairs_in(*request.pairs, bundle.manifest.tile.scale) if request.pairs else []
    check_engines(bundle)
    work = Workload.of(request.what, bundle.manifest.tile, request.picture)
    threads = request.threads or core_count()
    job = Job(bundle, threads, request.weights, request.options, request.baseline)
    run = _Run(request, job, work, pairs, report)
    with run.watch, run.stack:
        run.everything()
    manifest = bundle.manifest
    return Record(
        command=shlex.join(["trt-bench", *request.words]),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        code=machine.code_state(),
        machine={**run.machine, "after": machine.conditions()},
        versions=machine.versions(*_PACKAGES, *(one.package for one in backends_for("cpu"))),
        bundle=_bundle_facts(manifest, request.bundle),
        what=request.what,
        span=SPANS[request.what],
        input=work.name,
        threads=threads,
        rule=str(request.rule),
        warm_up_runs=WARM_UP_RUNS,
        reference=run.reference_name,
        rows=tuple(run.rows),
        stages_ms=run.stages,
        cost=run.cost,
        parts=run.parts,
        ceilings=run.wall,
        layers=run.layers,
        quality=tuple(run.quality),
        memory=run.watch.result(),
        engine_report=manifest.engine_report,
        notes=tuple(run.notes),
    )


class _Run:
    """The state of one benchmark while it is made."""

    def __init__(
        self, request: BenchRequest, job: Job, work: Workload, pairs: list[tuple[Path, Path]], report: Progress
    ) -> None:
        self.request, self.job, self.work, self.pairs, self.report = request, job, work, pairs, report
        self.watch, self.stack = machine.MemoryWatch(), ExitStack()
        self.manifest = job.bundle.manifest
        self.machine = machine.machine()
        self.rows: list[Row] = []
        self.stages: dict[str, float] = {}
        self.quality: list[Quality] = []
        self.notes: list[str] = []
        self.reference_name = "none"
        self.cost: Cost | None = None
        self.parts: dict[str, Cost] = {}
        self.wall: Ceilings | None = None
        self.layers: Layers | None = None
        self._wanted: NDArray[np.float32] | None = None
        self._copied_s = 0.0

    def everything(self) -> None:
        self.cost = self._or_note("work per tile", self._count)
        self._stage("ceilings")
        self.wall = roofline.ceilings(self.job.threads, again=self.request.new_ceilings)
        self._stage("reference")
        self._wanted = self._or_note("reference", self._reference)
        engine = self._engine()
        for name in self.request.peers:
            self._stage(name)
            self.rows.append(self._peer(name, engine))
        if engine is not None:
            self._stage("layers")
            self.layers = self._or_note("profile by layer", self._profile)
        reached = max((row.roofline.compute_share or 0.0 for row in self.rows if row.roofline), default=0.0)
        if reached > _TOO_FAST:
            self.notes.append(
                f"{reached:.0%} of the peak was reached: the ceilings were measured on a busy machine; "
                "measure them again with --new-ceilings"
            )
        if self.pairs:
            self._judge(lambda: quality.bicubic(self.pairs, self.manifest.tile.scale), "bicubic")

    def _stage(self, label: str) -> None:
        self.watch.mark(label)
        self.report(label, 0.0)

    def _or_note(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, or None and a note."""
        try:
            return make()
        except Exception as problem:  # an explanation that fails costs no measurement
            self.notes.append(f"no {what}: {_reason(problem)}")
            return None

    def _count(self) -> Cost:
        sampling = self.manifest.sampling
        calls = {"1": 1, "encode": 1, "decode": 1, "step": self.manifest.steps}
        if sampling is not None:
            calls["policy"] = sum(one.skippable for one in sampling.evaluations)
        graphs = self.job.graphs()
        if len(graphs) > 1:
            self.parts = {part: graph_cost.cost_of({path: 1}) for part, path in graphs.items()}
        return graph_cost.cost_of({path: calls[part] for part, path in graphs.items()})

    def _reference(self) -> NDArray[np.float32]:
        """torch FP32 where the weights are at hand; else an FP32 bundle's graph, unoptimised."""
        exact = self.manifest.precision == "fp32"
        if not exact or {"torch", "compile"} & set(self.request.peers):
            try:
                with PEERS["torch"](self.job) as opened:
                    answer = opened.session.run(self.work.batch).copy()
                self.reference_name = "torch FP32"
                return np.asarray(answer)
            except Exception as problem:
                if not exact:
                    raise
                self.notes.append(f"no torch reference: {_reason(problem)}")
            finally:
                _let_go()
        answer = _plain_run(self.job, self.work.batch)
        self.reference_name = "the FP32 graph in ONNX Runtime without optimisations"
        return answer

    def _engine(self) -> Upscaler | None:
        """The bundle's own engine, timed alone; None where it cannot run here."""
        self._stage(ENGINE)
        before, started = self.watch.now_mb(), time.perf_counter()
        detail = f"{self.manifest.backend}, {self.manifest.precision}"
        if self.manifest.arithmetic != "fp32":
            detail += f", computes in {self.manifest.arithmetic}"
        try:
            upscaler = self.stack.enter_context(load(self.request.bundle, threads=self.job.threads, verify=False))
        except EngineMismatch as problem:
            self.rows.append(Row(name=ENGINE, detail=detail, failed=_reason(problem)))
            return None
        load_s = time.perf_counter() - started
        with calling(upscaler, self.work) as run:
            first_s = warm_up(run)
            seconds = time_alone(run, self.request.rule)
        self._measure_stages(upscaler)
        self.rows.append(
            Row(
                name=ENGINE,
                detail=f"{detail}; timed alone, before the peers",
                load_s=load_s,
                first_ms=first_s * 1e3,
                latency=latency_of(seconds),
                memory_mb=round(self.watch.now_mb() - before, 1),
                **self._beside(upscaler, seconds, _arithmetic(self.manifest)),
            )
        )
        if self.pairs:
            self._stage("quality")
            self._judge(lambda: quality.quality_of(ENGINE, upscaler, self.pairs), ENGINE)
        return upscaler

    def _peer(self, name: str, engine: Upscaler | None) -> Row:
        before, started = self.watch.now_mb(), time.perf_counter()
        try:
            with PEERS[name](self.job) as opened, Upscaler(_single(self.manifest), opened.session) as upscaler:
                load_s = time.perf_counter() - started
                return self._timed_peer(name, opened, upscaler, engine, load_s, before)
        except Exception as problem:  # a peer that is missing or fails is a line in the table
            return Row(name=name, failed=_reason(problem))
        finally:
            _let_go()

    def _timed_peer(
        self, name: str, opened: Opened, upscaler: Upscaler, engine: Upscaler | None, load_s: float, before: float
    ) -> Row:
        with calling(upscaler, self.work) as run:
            first_s = warm_up(run)
            ratio = None
            if engine is None:
                seconds = time_alone(run, self.request.rule)
            else:
                with calling(engine, self.work) as base:
                    of_base, seconds = time_in_turns(base, run, self.request.rule)
                ratio = ratio_of(seconds, of_base)
        row = Row(
            name=name,
            detail=opened.detail,
            load_s=load_s,
            first_ms=first_s * 1e3,
            latency=latency_of(seconds),
            ratio=ratio,
            memory_mb=round(self.watch.now_mb() - before, 1),
            **self._beside(upscaler, seconds, opened.arithmetic, opened),
        )
        if self.pairs and (not opened.psnr_missing or self.job.baseline):
            self._judge(lambda: quality.quality_of(name, upscaler, self.pairs), name)
        return row

    def _judge(self, make: Callable[[], Quality], name: str) -> None:
        found = self._or_note(f"quality of {name}", make)
        if found is not None:
            self.quality.append(found)

    def _beside(
        self, upscaler: Upscaler, seconds: Sequence[float], arithmetic: str, opened: Opened | None = None
    ) -> dict[str, Any]:
        """PSNR and roofline of a row."""
        missing = opened.psnr_missing if opened else ""
        psnr = None
        if not missing and self._wanted is None:
            missing = "no reference, see the notes"
        elif self._wanted is not None and not missing:
            low, high = self.manifest.tile.value_range
            with engine_of(upscaler).use() as session:
                got = np.asarray(session.run(self.work.batch), np.float32)
            psnr = round(psnr_db(self._wanted, got, high - low), 2)
        found: dict[str, Any] = {"psnr_db": psnr, "psnr_missing": missing}
        other = opened.gmac if opened else None
        if self.cost is not None and self.wall is not None and other is None:
            tiles = self.work.tiles(self.manifest.tile)
            found["gmac"] = self.cost.gmac * tiles
            found["roofline"] = roofline.roofline_of(
                self.cost, tiles, float(np.median(seconds)), arithmetic, self.wall, self._copied_s
            )
        elif other is not None:
            found["gmac"] = other * self.work.tiles(self.manifest.tile)
        return found

    def _measure_stages(self, upscaler: Upscaler) -> None:
        """The parts of a tile, and of a frame where a frame is timed; what is outside the engine is the copy floor."""
        found = self._or_note("stages of a tile", lambda: tile_stages(upscaler, self.work, 1))
        if found is None:
            return
        slow = sum(found.values()) >= _STAGE_LIMIT_S * 1e3
        rounds = 1 if slow else _STAGE_ROUNDS
        self.stages = found if slow else tile_stages(upscaler, self.work, rounds)
        outside = sum(ms for name, ms in self.stages.items() if name != "engine")
        if self.request.what == "frame":
            frame = frame_stages(upscaler, self.work, rounds)
            self.stages |= frame
            outside = frame["frame, outside the engine"]
        self._copied_s = 0.0 if self.request.what == "engine" else outside / 1e3

    def _profile(self) -> Layers:
        runs = _STAGE_ROUNDS if self.stages.get("engine", 0.0) < _STAGE_LIMIT_S * 1e3 else 1
        return layers.layers_of(self.job.bundle, self.work.batch, self.job.threads, runs)


def _plain_run(job: Job, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """An FP32 bundle's tile by ONNX Runtime with every optimisation off."""
    from zoomrt.bench.peers.onnxruntime_default import opened

    with opened(job, optimise=False) as plain:
        return np.asarray(plain.session.run(batch)).copy()


def _let_go() -> None:
    """Of what a peer held, so that the next one's memory is its own. Loads no torch where no peer has."""
    gc.collect()
    if "torch" in sys.modules:
        from zoomrt.export.heap import return_freed_memory

        return_freed_memory()


def _single(manifest: Manifest) -> Manifest:
    """The same manifest for sessions that take one tile at a time."""
    return msgspec.structs.replace(manifest, tile=msgspec.structs.replace(manifest.tile, batches=(1,)))


def _arithmetic(manifest: Manifest) -> str:
    """What the engine's products are computed in, a key of `Ceilings.tflops`; FP16 is computed in FP32 on a CPU."""
    backend = BACKENDS.named(manifest.backend)
    codes = manifest.calibration.format if manifest.calibration is not None else ""
    return codes if codes and backend.device == "cpu" and codes not in backend.widens else manifest.arithmetic


def _reason(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    return text[:300] if isinstance(problem, ZoomrtError) else f"{type(problem).__name__}: {text}"[:300]


def _bundle_facts(manifest: Manifest, path: Path) -> dict[str, Any]:
    tile = manifest.tile
    return {
        "path": path.name,
        "family": manifest.family,
        "target": manifest.target,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "arithmetic": manifest.arithmetic,
        "tile": [tile.width, tile.height],
        "scale": tile.scale,
        "steps": manifest.steps,
        "key": manifest.key,
        "digest": manifest.digest,
        "mb": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 1),
        "parameters": manifest.weights.parameters,
    }
