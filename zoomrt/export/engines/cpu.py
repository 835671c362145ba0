"""Which engines can run a bundle on the CPU, whether each computes the right thing, and which of them is the fastest.

One graph serves them all. An engine is a backend for the CPU and what it computes in where no layer is in 8 bits. Each
runs the very graphs that ship in the very session that will run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Manifest, TileFacts, unfinished
from zoomrt.bundle.records import SpeedRecord
from zoomrt.errors import (
    BundleError,
    ExportError,
    MissingDependency,
    PrecisionError,
    RuntimeFault,
    UsageError,
    ZoomrtError,
)
from zoomrt.export.engines.speed import time_in_turns
from zoomrt.export.precisions import Precision
from zoomrt.runtime.backends import BACKENDS, Arithmetic, backends_for
from zoomrt.runtime.resources import core_count
from zoomrt.runtime.session import Session


@dataclass(frozen=True)
class CpuEngine:
    """backend : its name. arithmetic : see `Manifest.arithmetic`."""

    backend: str
    arithmetic: Arithmetic = "fp32"

    @property
    def name(self) -> str:
        return self.backend if self.arithmetic == "fp32" else f"{self.backend} {self.arithmetic}"


@dataclass(frozen=True)
class Graphs:
    """The graphs of a bundle that is being made: batch size -> file in `folder`."""

    folder: Path
    files: Mapping[int, str]
    precision: str
    tile: TileFacts

    def load(self, engine: CpuEngine, batch: int) -> Session:
        """Raises what the session raises."""
        manifest = Manifest(
            family="",
            target="cpu",
            backend=engine.backend,
            arithmetic=engine.arithmetic,
            precision=self.precision,
            tile=msgspec.structs.replace(self.tile, batches=(batch,)),
            graphs={str(batch): self.files[batch]},
        )
        return BACKENDS.named(engine.backend).open(unfinished(self.folder, manifest), core_count())


def cpu_engines(precision: Precision, backend: str | None = None) -> tuple[CpuEngine, ...]:
    """The engines that are installed and do that precision on this processor; of one backend if that names it.

    Raises UsageError for a backend that does not do it and for arithmetic that this processor lacks, MissingDependency.
    """
    known = backends_for("cpu")
    able = [one for one in known if precision.kind in one.kinds]
    if backend is not None and backend not in [one.name for one in able]:
        raise UsageError(
            f"{backend} does not run {precision.name} on a CPU",
            seen=f"--backend {backend} with precision {precision.name}",
            needed=f"one of {', '.join(one.name for one in able)}, "
            f"or a precision of {', '.join(BACKENDS.named(backend).kinds)}",
            remedy="Leave --backend out.",
        )
    able = [one for one in able if backend in (None, one.name)]
    installed = [one for one in able if one.installed]
    if not installed:
        raise MissingDependency(
            f"no engine for {precision.name} on a CPU is installed",
            seen=f"no module {' or '.join(one.module for one in able)}",
            needed=able[0].requirement,
            remedy=f"Run: pip install '{able[0].requirement}'",
        )
    # asked only where there is a choice: it takes an import of the engine
    computes = {one.name: one.arithmetics() if precision.arithmetics != ("fp32",) else ("fp32",) for one in installed}
    engines = [
        CpuEngine(one.name, arithmetic)
        for arithmetic in precision.arithmetics
        for one in installed
        if arithmetic in computes[one.name]
    ]
    if not engines:
        raise UsageError(
            f"this processor cannot compute in {precision.name.upper()}",
            seen="; ".join(f"{one.title} computes in {', '.join(computes[one.name])} here" for one in installed),
            needed=precision.processor,
            remedy="Build with --precision fp32 or int8.",
        )
    return tuple(engines)


@dataclass
class Trials:
    """What came of trying engines. passed : engine -> what `check` returned. refused : name -> why."""

    passed: dict[CpuEngine, Any] = field(default_factory=dict)
    refused: dict[str, ZoomrtError] = field(default_factory=dict)

    @classmethod
    def of(cls, engines: Sequence[CpuEngine], check: Callable[[CpuEngine], Any]) -> Trials:
        """Check each engine; one that fails is refused. Raises the first failure if none passes."""
        trials = cls()
        for engine in engines:
            try:
                trials.passed[engine] = check(engine)
            except (ExportError, BundleError, RuntimeFault) as failure:
                trials.refused[engine.name] = failure
        if not trials.passed:
            raise next(iter(trials.refused.values()))
        return trials


def fastest(
    engines: Sequence[CpuEngine],
    graphs: Graphs,
    lr: NDArray[np.float32],
    rivals: Sequence[CpuEngine],
    exact: Graphs,
) -> tuple[CpuEngine, SpeedRecord]:
    """The fastest engine, and the timings.

    lr : the batch to time, of a size of `graphs`.
    rivals : engines to compare it with, in FP32 and in the same turns; none where FP32 is what `graphs` are.
    exact : the graphs in FP32.

    Raises what the sessions raise.
    """
    batch = len(lr)
    runs: dict[str, Callable[[], Session]] = {one.name: partial(graphs.load, one, batch) for one in engines}
    runs |= {f"{one.name} fp32": partial(exact.load, one, batch) for one in rivals}
    timings = time_in_turns(runs, lr)
    chosen = min(engines, key=lambda one: timings[one.name].median_ms)
    fp32 = {one.name: timings[f"{one.name} fp32"] for one in rivals}
    best = min((timing.median_ms for timing in fp32.values()), default=None)
    return chosen, SpeedRecord(
        batch=batch,
        threads=core_count(),
        chosen=chosen.name,
        engines={one.name: timings[one.name] for one in engines},
        fp32=fp32,
        ratio_to_fp32=None if best is None else round(timings[chosen.name].median_ms / best, 3),
    )


def check_gain(speed: SpeedRecord | None, precision: str, *, required: bool) -> str | None:
    """A warning where fewer bits took as long as FP32 or longer; `speed` is that of `fastest`, if there was any.

    Raises PrecisionError instead if they are `required` to be faster.
    """
    if speed is None or (ratio := speed.ratio_to_fp32 or 0.0) < 1.0:
        return None
    name, (rival, best) = speed.chosen, min(speed.fp32.items(), key=lambda other: other[1].median_ms)
    took = f"{speed.engines[name].median_ms:.1f} ms in {name}"
    seen = f"{took}, {best.median_ms:.1f} ms for FP32 in {rival}: {ratio:.2f} times as long"
    if required:
        missing = " ".join(repr(one.requirement) for one in backends_for("cpu") if not one.installed)
        other = f", or install another engine: pip install {missing}" if missing else ""
        raise PrecisionError(
            f"{precision} is not faster than FP32 on this CPU",
            seen=seen,
            needed="less time per batch, as --require-faster asks",
            remedy=f"Build with --precision fp32{other}.",
        )
    return f"{precision} was measured no faster than FP32 here: {seen}"
