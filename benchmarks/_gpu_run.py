"""What the parts of benchmarks/gpu.py share: the record of one call, times on the GPU, tables."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import table
from zoomrt.bench.machine import code_state, machine, versions

Row = dict[str, Any]


@dataclass
class Run:
    """What one call has found so far. copy_gb_per_s and matmul_tflop_per_s are measured by the part `machine`."""

    out: Path
    figures: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    copy_gb_per_s: float = float("nan")
    matmul_tflop_per_s: float = float("nan")

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.lines.append(text)

    def save(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        document = {
            "command": " ".join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
            "commit": code_state(Path(__file__).parent),
            "machine": machine(),
            "versions": versions("torch", "triton", "cuda-core", "cupy-cuda13x", "onnxruntime-gpu", "tensorrt-rtx"),
            "figures": self.figures,
        }
        (self.out / "gpu.json").write_text(json.dumps(document, indent=2) + "\n")
        (self.out / "gpu.log").write_text("\n".join(self.lines) + "\n")


def median_us(call: Callable[..., object], *given: Any, repeats: int = 30) -> float:
    """Median time on the GPU of call(*given), in a graph, with 256 MB written before each to sweep caches."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(*given)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call(*given)
        sweep = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            sweep.zero_()
            begin.record(stream)
            graph.replay()
            end.record(stream)
            stream.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def timed(call: Callable[..., object], *given: Any, repeats: int = 30) -> float | str:
    """`median_us`, or in words why there is none: peers that refuse a shape are part of the findings."""
    try:
        return median_us(call, *given, repeats=repeats)
    except Exception as fault:
        return f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"


def cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_rows(rows: Sequence[Row]) -> str:
    """A Markdown table with a column for every key that any row has, in order of appearance."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    return "\n".join(table(head, [[cell(row.get(key, "")) for key in head] for row in rows]))


def share(floor_us: float, measured: object) -> float | str:
    """How much of the floor's speed was reached."""
    return floor_us / measured if isinstance(measured, float) and measured > 0 else ""
