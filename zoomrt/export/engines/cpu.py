"""Which engines can run a bundle on the CPU, whether each computes the right thing, and which of them is the fastest.

One graph serves them all. An engine is a runner (`targets.CPU_RUNNERS`) and what it computes in where no layer is in 8
bits. Each runs the very graphs that ship in the very session that will run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Bundle, Manifest, TileFacts, unfinished
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
from zoomrt.export.targets import CPU_RUNNERS, EIGHT_BIT
from zoomrt.runtime.session import Session
from zoomrt.runtime.sessions.onnxruntime import OnnxRuntimeSession, core_count
from zoomrt.runtime.sessions.openvino import OpenVinoSession, cpu_capabilities

__all__ = ["CpuEngine", "Graphs", "Trials", "check_gain", "cpu_engines", "fastest"]

_SESSIONS: dict[str, Callable[[Bundle, int | None], Session]] = {
    "onnxruntime": OnnxRuntimeSession,
    "openvino": OpenVinoSession,
}


@dataclass(frozen=True)
class CpuEngine:
    """backend : of `CPU_RUNNERS`. arithmetic : see `Manifest.arithmetic`."""

    backend: str
    arithmetic: Literal["fp32", "bf16"] = "fp32"

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
        return _SESSIONS[engine.backend](unfinished(self.folder, manifest), core_count())


def cpu_engines(precision: str, backend: str | None = None) -> tuple[CpuEngine, ...]:
    """The engines that are installed and do that precision on this processor; of one runner if `backend` names it.

    Raises UsageError for a runner that does not do it and for BF16 on a processor without, MissingDependency.
    """
    kind = EIGHT_BIT.get(precision, precision)
    able = [name for name, precisions in CPU_RUNNERS.items() if kind in precisions]
    if backend is not None and backend not in able:
        raise UsageError(
            f"{backend} does not run {precision} on a CPU",
            seen=f"--backend {backend} with precision {precision}",
            needed=f"one of {', '.join(able)}, or a precision of {', '.join(CPU_RUNNERS[backend])}",
            remedy="Leave --backend out.",
        )
    able = [backend] if backend is not None else able
    installed = [name for name in able if find_spec(name) is not None]
    if not installed:
        raise MissingDependency(
            f"no engine for {precision} on a CPU is installed",
            seen=f"no module {' or '.join(able)}",
            needed=f"the extra {able[0]!r}",
            remedy=f"Run: pip install 'zoomrt[{able[0]}]'",
        )
    bf16 = kind in ("bf16", "int8") and "openvino" in installed and "BF16" in cpu_capabilities()
    if kind == "bf16":
        if not bf16:
            raise UsageError(
                "this processor cannot compute in BF16",
                seen=f"OpenVINO says {', '.join(sorted(cpu_capabilities()))}",
                needed="AMX or AVX-512 BF16 (AMD from Zen 4, Intel from Cooper Lake on); OpenVINO would use FP32",
                remedy="Build with --precision fp32 or int8.",
            )
        return (CpuEngine("openvino", "bf16"),)
    found = [CpuEngine(name) for name in installed]
    return (*found, CpuEngine("openvino", "bf16")) if bf16 else tuple(found)


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
) -> tuple[CpuEngine, dict[str, Any]]:
    """The fastest engine, and the timings for the manifest.

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
    figures: dict[str, Any] = {
        "batch": batch,
        "threads": core_count(),
        "chosen": chosen.name,
        "engines": {one.name: asdict(timings[one.name]) for one in engines},
    }
    if rivals:
        others = {one.name: timings[f"{one.name} fp32"] for one in rivals}
        best = min(timing.median_ms for timing in others.values())
        figures["fp32"] = {name: asdict(timing) for name, timing in others.items()}
        figures["ratio_to_fp32"] = round(timings[chosen.name].median_ms / best, 3)
    return chosen, figures


def check_gain(figures: Mapping[str, Any], precision: str, *, required: bool) -> str | None:
    """A warning where fewer bits took as long as FP32 or longer; `figures` are those of `fastest`, or none.

    Raises PrecisionError instead if they are `required` to be faster.
    """
    ratio = figures.get("ratio_to_fp32", 0.0)
    if ratio < 1.0:
        return None
    name, best = figures["chosen"], min(figures["fp32"].items(), key=lambda other: float(other[1]["median_ms"]))
    took = f"{figures['engines'][name]['median_ms']:.1f} ms in {name}"
    seen = f"{took}, {best[1]['median_ms']:.1f} ms for FP32 in {best[0]}: {ratio:.2f} times as long"
    if required:
        raise PrecisionError(
            f"{precision} is not faster than FP32 on this CPU",
            seen=seen,
            needed="less time per batch, as --require-faster asks",
            remedy="Build with --precision fp32, or install another engine: pip install 'zoomrt[openvino]'.",
        )
    return f"{precision} was measured no faster than FP32 here: {seen}"
