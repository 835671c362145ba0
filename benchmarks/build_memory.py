"""Memory of whole builds, stage by stage: what was planned beside what was really taken.

python -m benchmarks.build_memory                         edge: writes benchmarks/results/build_memory.json
python -m benchmarks.build_memory --weights W --base B    another model: build_memory_MODEL.json

Each build runs in a process of its own, whose high-water mark (VmHWM, Linux only) is read and reset between stages. The
engine compiler is a process more; its own mark is added to its stage. Nothing runs on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks._record import record
from zoomrt.bundle import Manifest
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models import options

BUILDS = {"cpu fp32": ("cpu", "fp32"), "cpu fp16": ("cpu", "fp16"), "sm89 fp16": ("sm89", "fp16")}


class HighWater:
    """The most physical memory of this process in each stage, in bytes; call it as a build's progress."""

    def __init__(self) -> None:
        self.stage, self.peaks = "start", dict[str, int]()
        self._reset()

    def __call__(self, label: str, _fraction: float) -> None:
        stage = label.partition(":")[0]
        if stage != self.stage and "\n" not in label:
            self.close()
            self.stage = stage

    def close(self) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), kilobytes * 1024)
        self._reset()

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")


def child(request: BuildRequest, output: Path, answers: Connection) -> None:
    """One build; sends the bytes of each stage and the manifest."""
    mark = HighWater()
    manifest = build(request, output, use_cache=False, on_progress=mark).manifest
    mark.close()
    answers.send((mark.peaks, manifest))


def measured(request: BuildRequest) -> tuple[dict[str, int], Manifest]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, _started(context, (request, Path(folder) / "bundle", theirs)):
        theirs.close()
        peaks, manifest = ours.recv()
    compiled = [report.build.peak_rss_bytes for report in manifest.engine_report.values()]
    if compiled:
        peaks["engine"] += max(compiled)
    return peaks, manifest


@contextlib.contextmanager
def _started(context: Any, arguments: tuple[Any, ...]) -> Iterator[None]:
    process = context.Process(target=child, args=arguments)
    process.start()
    try:
        yield
    finally:
        process.join()


def compared(peaks: dict[str, int], manifest: Manifest) -> dict[str, object]:
    plan = manifest.memory
    assert plan is not None
    stages = {stage.name: stage.total for stage in plan.stages}
    peak = max(peaks.values())
    return {
        "planned_mb": {name: round(total / 1e6) for name, total in stages.items()},
        "measured_mb": {name: round(count / 1e6) for name, count in peaks.items()},
        "planned_over_measured": {name: round(total / peaks[name], 2) for name, total in stages.items()},
        "planned_peak_mb": round(plan.peak.total / 1e6),
        "measured_peak_mb": round(peak / 1e6),
        "planned_peak_over_measured": round(plan.peak.total / peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--prompt-embedding", type=Path)
    parser.add_argument("--builds", default=",".join(BUILDS), help="Some of these names, with commas.")
    given = parser.parse_args()
    files = options.given(base=given.base, decoder=given.decoder, prompt_embedding=given.prompt_embedding)
    family, rows = "edge", dict[str, dict[str, object]]()
    for name in given.builds.split(","):
        target, precision = BUILDS[name]
        request = BuildRequest(weights=given.weights, target=target, precision=precision, options=files)
        peaks, manifest = measured(request)
        family, rows[name] = manifest.family, compared(peaks, manifest)
    file = "build_memory" if given.weights is None else f"build_memory_{family}"
    print(record(file, {"family": family, "builds": rows}, "torch", "onnx", "onnxruntime", "tensorrt_rtx"))
    for name, row in rows.items():
        print(f"{name:<10} {row}")


if __name__ == "__main__":
    main()
