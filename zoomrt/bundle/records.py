"""What each stage of a build found out, as the manifest keeps it. A stage returns its record; nothing is converted.

Part of the contract between export, which writes them, and whoever reads a bundle: see `manifest.py`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Whole = Annotated[int, Meta(ge=0, le=1 << 53)]
"""A count or a number of bytes."""
Real = Annotated[float, Meta(ge=0, le=1e300)]
Share = Annotated[float, Meta(ge=0, le=1)]
Decibels = Annotated[float, Meta(ge=-1e4, le=1e4)]
Sha256 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of them all: plain values, read with their types and limits checked."""


class WeightFacts(Record, frozen=True, kw_only=True):
    """Where the weights came from."""

    source: str = ""
    """Name of the checkpoint file; `embedded` for the weights inside the package."""
    sha256: Sha256 = ""
    parameters: Whole = 0
    licence: str = ""
    options: dict[str, str] = {}
    """Those of the family that were given, by content."""


class Parity(Record, frozen=True):
    """One comparison with torch FP32 on one probe; PSNR in decibels, peak = the value range."""

    probe: str
    """What the tile shows."""
    runner: str
    """What computed it."""
    max_abs: Real
    """Worst absolute difference."""
    psnr_db: Decibels
    needed_psnr_db: Decibels
    max_relative: Real
    """Worst absolute difference over the largest expected magnitude."""


class GraphParity(Record, frozen=True, kw_only=True):
    """One graph against torch, and what it is made of."""

    seed: int
    """Of the probes' random pixels."""
    reference: str = "torch float32"
    results: tuple[Parity, ...]
    operators: dict[str, Whole]
    """How often each operator stands in it."""
    opset: Whole


class RescaledStream(Record, frozen=True, kw_only=True):
    """Values of a network that were made smaller together, by 2^-exponent."""

    exponent: int
    largest: Real
    """Before."""
    values: Whole
    first: str
    last: str


class Fp16Report(Record, frozen=True, kw_only=True):
    """What FP16 took, and how close it came under FP16 storage emulation."""

    largest: dict[str, Real]
    """The largest values that are left in FP16, by name."""
    rescaled: tuple[RescaledStream, ...] = ()
    kept_fp32: tuple[str, ...] = ()
    """Modules that stay in FP32."""
    results: tuple[Parity, ...] = ()
    fp32_nodes: tuple[str, ...] = ()
    """Nodes of the graphs that take or hand on values in FP32."""


class TileSet(Record, frozen=True, kw_only=True):
    """The tiles that ranges were taken from, or that judged them."""

    count: Whole
    sha256: Sha256
    pictures: dict[str, str]
    """File name -> SHA-256."""
    skipped: dict[str, str]
    """File name -> why."""


class Quality(Record, frozen=True):
    """PSNR to FP32 over tiles, decibels."""

    mean: Decibels
    worst: Decibels


class MeasuredBlocks(Record, frozen=True, kw_only=True):
    """Some blocks in 8 bits together, all else exact. share : of the network's multiply-adds. Decibels over tiles."""

    blocks: Whole
    share: Share
    mean_db: Decibels
    worst_db: Decibels
    block: str | None = None
    """Its name, if it is a single one."""


class Ranking(Record, frozen=True):
    """Blocks one by one, measured on crops of this side in LR pixels, the least harmful for its work first."""

    side: Whole
    blocks: dict[str, MeasuredBlocks]


class EngineCost(Record, frozen=True):
    """Figures of one engine by precision: `fp16` and the bundle's own."""

    kernels: dict[str, Whole | None]
    static_bytes: dict[str, Whole | None]
    engine_bytes: dict[str, Whole]


class CalibrationRecord(Record, frozen=True, kw_only=True):
    """What became of a network with 8-bit layers."""

    format: str
    """int8 or fp8."""
    method: str
    """How ranges were chosen."""
    tiles: TileSet
    held_out: TileSet
    share: Share
    """Of the multiply-adds that are in 8 bits."""
    min_psnr_db: Decibels | None
    """That each held-out tile must keep; None with no gate."""
    seams_balanced: Whole
    quantised: dict[str, Real]
    """Layer -> largest magnitude of its input."""
    kept: dict[str, str]
    """Layer -> why it is in high precision."""
    measured: tuple[MeasuredBlocks, ...]
    """Every set that was tried."""
    ranking: Ranking
    psnr_db: Quality
    """On the held-out tiles."""
    against_fp16: dict[str, EngineCost] = {}
    """Batch size -> the engine beside the same graph in FP16."""


class Stage(Record, frozen=True):
    """One step of a build, in bytes.

    weights : of the network as it stands in this step. activations : values between its layers.
    workspace : what the libraries need beside both: Python itself, layout changes, copies, the compiler.
    """

    name: str
    weights: Whole
    activations: Whole
    workspace: Whole

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.workspace


class MemoryPlan(Record, frozen=True):
    """The stages in order, and the activations of each part of the network in the stage `reference`, in bytes."""

    stages: Annotated[tuple[Stage, ...], Meta(min_length=1)]
    parts: dict[str, Whole]

    @property
    def peak(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.total)


class Timing(Record, frozen=True):
    """One engine: median and fastest run of a batch, milliseconds, of `runs`."""

    median_ms: Real
    fastest_ms: Real
    runs: Whole


class SpeedRecord(Record, frozen=True, kw_only=True):
    """CPU: the engines that were tried, on one batch."""

    batch: Whole
    threads: Whole
    chosen: str
    engines: dict[str, Timing]
    fp32: dict[str, Timing] = {}
    """The same in FP32, where the bundle has fewer bits."""
    ratio_to_fp32: Real | None = None
    """Time of the chosen engine over that of the fastest in FP32."""


class BuildFigures(Record, frozen=True):
    """What the compiler cost on this machine; the only part of a report that differs between equal builds."""

    seconds: Real
    """Wall time of the child process."""
    peak_rss_bytes: Whole | None
    """Most physical memory of the child process; None on Windows."""


class EngineReport(Record, frozen=True, kw_only=True):
    """A finished engine as its own bytes describe it. Figures are None where they could not be read, see `warnings`."""

    backend: str
    backend_version: str
    """An engine runs with the same version only."""
    precision: str
    sms: tuple[str, ...] | None = None
    kernels: Whole | None = None
    attentions_fused: Whole | None = None
    attentions_expected: Whole
    attentions_unfused: tuple[str, ...] | None = None
    """Nodes of the attentions that no kernel does as a whole."""
    attentions_by_plugin: tuple[str, ...] = ()
    """Nodes of the attentions that were handed to our own kernel."""
    share_in_precision: Share | None = None
    """Kernels whose data is in the asked precision, of those that touch floating-point data at all; 0 to 1. For int8
    and fp8: kernels that touch data in it, of all with data."""
    eight_bit_layers: Whole | None = None
    """Convolutions and matrix products that run on 8-bit data: all that the graph wants so."""
    static_bytes: Whole | None = None
    """Bytes read and written by one run if nothing stays in cache (`PlanSummary.static_bytes`)."""
    workspace_bytes: Whole | None = None
    engine_bytes: Whole
    sha256: Sha256
    kernels_by_kind: dict[str, Whole] = {}
    kernels_by_dtype: dict[str, Whole] = {}
    """Keys like fp16, fp16+fp32 (a cast), fp16+int8 (a quantised layer), none (indices, flags)."""
    other_precision: tuple[str, ...] = ()
    """Kernels that are not in the asked precision, with their ONNX nodes; all of them are on the allow-list."""
    written_scores: tuple[str, ...] = ()
    """Tensors of size tokens x tokens that an unfused attention writes to memory."""
    warnings: tuple[str, ...] = ()
    build: BuildFigures
