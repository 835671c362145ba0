"""Build time and peak memory of every engine the table of targets can make of `edge`, and what the engines say.

python -m benchmarks.build_time [--rounds 3]        writes benchmarks/results/build_time.json

Time and memory are those of the compiler's child process, start of the interpreter included; nothing runs on a GPU.
On a busy machine (see `load_1min`) only `seconds_best` means something.
The rows under `alternatives` are choices that the table did not take, with the figures that decided.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._record import record
from zoomrt.bundle.records import EngineReport
from zoomrt.errors import BuildError
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.targets import TARGETS
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

SIDE = 128
RTX = TARGETS["rtx"].compute_capabilities
ALTERNATIVES = {
    "sm75 at opset 18": (("SM75",), "fp16", 18),
    "sm75 in fp32": (("SM75",), "fp32", 23),
    "sm89 at opset 18": (("SM89",), "fp16", 18),
    "rtx with SM75": (("SM75", *RTX), "fp16", 23),
    "rtx with SM75 at opset 18": (("SM75", *RTX), "fp16", 18),
}

Choice = tuple[tuple[str, ...], str, int]


class Builder:
    """Exports each graph once, builds engines from it as often as asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        assert FAMILY.embedded_weights is not None
        self.network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
        self.export_seconds: dict[str, float] = {}

    def graph(self, precision: str, opset: int) -> Path:
        path = self.folder / f"{precision}-opset{opset}.onnx"
        if not path.exists():
            started = time.perf_counter()
            export_graph(self.network, path, shape=(1, 3, SIDE, SIDE), half=precision == "fp16", opset=opset)
            self.export_seconds[path.stem] = round(time.perf_counter() - started, 2)
        return path

    def engine(self, choice: Choice) -> EngineReport:
        compute_capabilities, precision, opset = choice
        return build_engine(
            self.graph(precision, opset),
            self.folder / "e.engine",
            backend="tensorrt_rtx",
            compute_capabilities=compute_capabilities,
            precision=precision,
        )


def figures(reports: list[EngineReport]) -> dict[str, object]:
    first = reports[0]
    if any(report.sha256 != first.sha256 for report in reports):
        raise SystemExit("repeated builds gave different bytes")
    peaks = [report.build.peak_rss_bytes or 0 for report in reports]
    assert first.static_bytes is not None
    return {
        "seconds_best": round(min(report.build.seconds for report in reports), 2),
        "seconds_median": round(statistics.median(report.build.seconds for report in reports), 2),
        "seconds_worst": round(max(report.build.seconds for report in reports), 2),
        "peak_rss_mb": round(max(peaks) / 1e6),
        "engine_mb": round(first.engine_bytes / 1e6, 1),
        "kernels": first.kernels,
        "static_mb_per_run": round(first.static_bytes / 1e6, 1),
        "attentions_fused": f"{first.attentions_fused} of {first.attentions_expected}",
        "share_in_precision": first.share_in_precision,
        "kernels_in_other_precision": len(first.other_precision),
        "sha256": first.sha256,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    rows: dict[str, Choice] = {
        f"{target.name} {precision}": (target.compute_capabilities, precision, target.opset)
        for target in TARGETS.values()
        if target.backends[0] == "tensorrt_rtx"
        for precision in target.precisions
    }
    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(Path(folder))
        builder.engine(rows["sm89 fp16"])  # warms the file cache
        reports: dict[str, list[EngineReport]] = {name: [] for name in rows}
        for _ in range(rounds):  # interleaved, so that a busy moment touches all rows
            for name, choice in rows.items():
                reports[name].append(builder.engine(choice))
        alternatives: dict[str, object] = {}
        for name, choice in ALTERNATIVES.items():
            try:
                alternatives[name] = figures([builder.engine(choice)])
            except BuildError as error:
                alternatives[name] = {"error": error.seen}
        result: dict[str, object] = {
            "rounds": rounds,
            "tile": [1, 3, SIDE, SIDE],
            "export_seconds": builder.export_seconds,
            "engines": {name: figures(found) for name, found in reports.items()},
            "alternatives": alternatives,
        }
    print(record("build_time", result, "torch", "onnx", "tensorrt_rtx"))
    for name, row in {**{n: figures(r) for n, r in reports.items()}, **alternatives}.items():
        print(f"{name:<28} {row}")


if __name__ == "__main__":
    main()
