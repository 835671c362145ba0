"""What the stages of a build hand to each other: small records, each made once and never changed.

    Loaded -> Job -> Prepared -> Graphs -> Proof -> Engines -> Manifest

A form (one graph, 8-bit layers, several steps) is the list of functions that make them: see `Form`.
Graphs, engines and figures are keyed by name: the batch size, or the part of a model of several steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from zoomrt.bundle import SamplingFacts, TileFacts
from zoomrt.bundle.records import (
    CalibrationRecord,
    EngineCost,
    EngineReport,
    Fp16Report,
    GraphParity,
    MemoryPlan,
    SpeedRecord,
    WeightFacts,
)
from zoomrt.export.request import BuildPlan, Progress
from zoomrt.export.verify.sample_tiles import probe_seed
from zoomrt.models.family import Family
from zoomrt.runtime.backends import Arithmetic


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint told. sampling : for models of several steps, else None."""

    facts: Family
    tile: TileFacts
    weights: WeightFacts
    sampling: SamplingFacts | None
    memory: MemoryPlan


@dataclass(frozen=True)
class Job:
    """One bundle to make in `folder`.

    measurements : folder for what calibration measures, to go on from when a build is stopped; None keeps nothing.
    """

    plan: BuildPlan
    loaded: Loaded
    folder: Path
    report: Progress
    measurements: Path | None = None

    @property
    def facts(self) -> Family:
        return self.loaded.facts

    @property
    def tile(self) -> TileFacts:
        return self.loaded.tile

    @property
    def seed(self) -> int:
        """Of the tiles that graphs are tried on."""
        return probe_seed(self.facts.name)

    def graph(self, name: str) -> Path:
        return self._file(name, "onnx")

    def engine(self, name: str) -> Path:
        return self._file(name, "engine")

    def _file(self, name: str, ending: str) -> Path:
        batch = "b" if name.isdigit() else ""
        return self.folder / f"{self.plan.precision.name}-{batch}{name}.{ending}"


@dataclass(frozen=True)
class Prepared:
    """A network in its final precision (changed in place), and what torch makes of tiles: what its graphs must do.

    references : by name of the graph; their type is the form's own.
    """

    references: Mapping[str, Any]
    numerics: Fp16Report | None = None
    calibration: CalibrationRecord | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    ran: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graphs:
    """ONNX files in the job's folder. fp32_nodes : nodes of FP16 graphs that compute in FP32."""

    files: dict[str, str]
    fp32_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What the graphs were found to do. backend, arithmetic : see `Manifest`; on a CPU the fastest that passed."""

    parity: dict[str, GraphParity]
    backend: str
    arithmetic: Arithmetic = "fp32"
    speed: SpeedRecord | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engines:
    """Compiled engines in the job's folder; none where the backend runs graphs."""

    files: dict[str, str] = field(default_factory=dict)
    reports: dict[str, EngineReport] = field(default_factory=dict)
    against_fp16: dict[str, EngineCost] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Form(NamedTuple):
    """How a kind of network becomes a bundle.

    prove : its last argument is the network, where a fault is to be found in it, else None.
    """

    prepare: Callable[[Job, nn.Module], Prepared]
    export: Callable[[Job, nn.Module, Prepared], Graphs]
    prove: Callable[[Job, Prepared, nn.Module | None], Proof]
    compile: Callable[[Job, Graphs], Engines]
