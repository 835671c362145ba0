"""The record of one trt-bench run: plain JSON of a fixed schema, for `trt-bench compare` and for other programs.

Times are milliseconds, memory is megabytes (10^6), work is billions of multiply-adds (one is two operations). A figure
that is not there is null and has a reason beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from zoomrt.bundle.records import EngineReport
from zoomrt.errors import InputError
from zoomrt.files import read_bytes, write_bytes

SCHEMA_VERSION = 1
"""Grows when a field changes its meaning or goes away; new fields with a default do not count."""

_LARGEST = 1 << 28
"""Bytes of a record; 100,000 timings are 2 million."""

What = Literal["engine", "tile", "frame"]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Repeated timings of one thing."""

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    """Of fewer than 100 samples it is next to the largest, and says little."""
    min_ms: float
    mean_ms: float
    mad_ms: float
    """Median absolute deviation from the median."""
    interval_ms: tuple[float, float]
    """Holds the true median with probability `coverage`."""
    coverage: float
    samples_ms: tuple[float, ...]
    """In the order in which they were taken."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Time over the engine's time, taken in turns, pair by pair; above 1 is slower than the engine."""

    median: float
    interval: tuple[float, float]
    coverage: float
    n: int
    engine_ms: tuple[float, ...] = ()
    """The engine's times in these turns, in order; those of the row itself are its `latency.samples_ms`."""


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """Where a result stands below the machine's ceilings."""

    tflops: float
    gb_per_s: float
    compute_share: float | None
    """Of the ceiling for this arithmetic; null where that was not measured."""
    bandwidth_share: float
    """Above 1 where caches answer instead of memory."""
    bound: Literal["compute", "memory", "launch", "copy"]
    """The largest of `floors_ms`."""
    floors_ms: dict[str, float]
    """The least time that each of these would take alone."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One engine or peer."""

    name: str
    failed: str | None = None
    """Why there are no figures."""
    detail: str = ""
    """What ran, in words: runner, arithmetic, weights."""
    load_s: float | None = None
    """Until it could take a tile."""
    first_ms: float | None = None
    """The first call, which is not among the timings; torch.compile compiles in it."""
    latency: Latency | None = None
    ratio: Ratio | None = None
    """Null for the engine itself."""
    psnr_db: float | None = None
    """Of one tile's output to the FP32 reference, peak the value range; 200 stands for equal."""
    psnr_missing: str = ""
    """Why `psnr_db` is null."""
    gmac: float | None = None
    roofline: Roofline | None = None
    memory_mb: float | None = None
    """Growth of this process's resident memory from before loading to the end of its runs."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one tile takes, counted from the graph: every node reads its inputs and writes its outputs once."""

    gmac: float
    mb: float
    nodes: int
    """Those that compute; views cost nothing."""
    groups: dict[str, tuple[float, float]]
    """Group -> (gmac, mb)."""
    uncounted: tuple[str, ...] = ()
    """Operators of unknown work."""


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine does at best, measured once."""

    machine: str
    threads: int
    tflops: dict[str, float]
    """Arithmetic -> best of large matrix products."""
    gb_per_s: float
    """Read and written by large copies."""
    us_per_node: float
    """What a node costs that does next to nothing."""
    how: str


class LayerTime(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    operator: str
    group: str
    ms: float
    share: float
    gmac: float = 0.0
    node: str = ""
    """The graph's node; empty where the runner made the layer up."""


class Layers(msgspec.Struct, frozen=True, kw_only=True):
    """Time inside the engine, by layer."""

    source: str
    groups_ms: dict[str, float]
    top: tuple[LayerTime, ...]
    fp32_share: float | None
    """Of the time, in layers whose data is FP32."""
    matched_share: float
    """Of the time, in layers that carry the name of a node of the graph."""


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures against pictures, RGB of 8 bits: means over `count` of them."""

    of: str
    to: str
    count: int
    psnr_db: float
    ssim: float
    flip: float | None = None
    """NVIDIA's FLIP: what the eye sees of the difference at 67 pixels per degree, 0 to 1, small is good; null where its
    package is not installed."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory of this process over the run."""

    at_s: tuple[float, ...]
    mb: tuple[float, ...]
    marks: tuple[tuple[float, str], ...]
    """(second, what began then)."""
    peak_mb: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    command: str
    date: str
    code: str
    """State of zoomrt's own git tree, or that there is none."""
    machine: dict[str, Any]
    versions: dict[str, str]
    bundle: dict[str, Any]
    what: What
    span: str
    """What lies between the two readings of the clock, in words."""
    input: str
    threads: int
    rule: str
    """When repeating stopped, in words."""
    warm_up_runs: int = 0
    """Before anything was timed, of each row; the first is `Row.first_ms`. 0 : the record does not tell."""
    reference: str
    """What `Row.psnr_db` is to."""
    rows: tuple[Row, ...]
    """The bundle's engine first."""
    stages_ms: dict[str, float] = {}
    """Medians of the parts of one tile, and of a whole frame inside and outside the engine."""
    cost: Cost | None = None
    parts: dict[str, Cost] = {}
    """Of a bundle of several graphs: one call of each."""
    ceilings: Ceilings | None = None
    layers: Layers | None = None
    quality: tuple[Quality, ...] = ()
    memory: Memory | None = None
    engine_report: dict[str, EngineReport] = {}
    """Of the manifest, for an engine that cannot run here."""
    notes: tuple[str, ...] = ()
    """What is missing, and why."""


def read_record(path: Path) -> Record:
    """Raises InputError for a file that is no record of this schema, or that has no row or times that cannot be."""
    remedy = "Name a file that trt-bench --json of this version wrote."
    try:
        raw = read_bytes(path, limit=_LARGEST, needed="a record of trt-bench")
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("schema_version")
        if version != SCHEMA_VERSION:
            what = f"cannot read benchmark {str(path)!r}"
            raise InputError(what, seen=f"schema_version {version!r}", needed=SCHEMA_VERSION, remedy=remedy)
        record = msgspec.json.decode(raw, type=Record)
        if not record.rows:
            raise msgspec.ValidationError("no rows")
        for row in record.rows:
            if row.latency is not None and not min(row.latency.p50_ms, *row.latency.interval_ms) > 0:
                raise msgspec.ValidationError(f"{row.name} took no time")
        return record
    except (ValueError, RecursionError) as cause:  # msgspec's own errors are ValueErrors
        raise InputError(
            f"cannot read benchmark {str(path)!r}", seen=cause, needed="a record of trt-bench", remedy=remedy
        ) from cause


def write_record(record: Record, path: Path) -> None:
    """Atomically. Raises StorageError."""
    write_bytes(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n", parents=True)
