"""The diffusion families at true size: build time by stage, peak memory, what the engine says, and the CPU's speed.

python -m benchmarks.true_size --model osediff --target sm89 --precision fp16 --weights W [--base B ...]
    one build in a process of its own: writes benchmarks/results/true_size_MODEL_PRECISION_TARGET.json
python -m benchmarks.true_size --model osediff --target sm89 --precision int8 --tiles 8 --weights W [--base B ...]
    the same with 8-bit layers; it is killed (SIGKILL) when half the tiles are through, and must go on where it was
python -m benchmarks.true_size --model osediff --speed --weights W [--base B ...]
    one 512x512 tile in FP32, ONNX Runtime beside torch eager: writes benchmarks/results/true_size_MODEL_speed.json

`tests/export/test_true_size.py` shows how files of the published layout are made of random numbers; results recorded
with such files say what building and running cost, and nothing about pictures.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks._record import record, summary
from zoomrt.bundle import Manifest
from zoomrt.calibration.options import Calibration
from zoomrt.export.build import build
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildRequest
from zoomrt.export.verify.sample_tiles import photograph_tile
from zoomrt.models import options
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES
from zoomrt.runtime.sessions.common.onnxruntime_graph import bare_options, open_graph

THREADS = 2


class Stages:
    """Seconds of each stage; call it as a build's progress."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._since = "start", time.perf_counter()

    def __call__(self, label: str, _fraction: float) -> None:
        if "\n" in label:  # a table
            return
        stage = label.partition(":")[0]
        now = time.perf_counter()
        self.seconds[self._stage] = round(self.seconds.get(self._stage, 0.0) + now - self._since, 2)
        self._stage, self._since = stage, now


def high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kilobytes * 1024


def quantised(request: BuildRequest) -> bool:
    return PRECISIONS.named(request.precision).eight_bit is not None


def child(request: BuildRequest, folder: Path, stop_at: float | None, answers: Connection) -> None:
    """stop_at : share of the calibration tiles after which the process kills itself, as nothing else would."""
    os.environ["ZOOMRT_CACHE"] = str(folder / "cache")
    torch.set_num_threads(THREADS)
    stages, started = Stages(), time.perf_counter()

    def watch(label: str, fraction: float) -> None:
        stages(label, fraction)
        print(f"{time.perf_counter() - started:7.1f} s  {label} {fraction:.2f}", flush=True)
        if label == "calibrate":
            passed.append(fraction)
            if stop_at is not None and fraction >= stop_at:
                os.kill(os.getpid(), signal.SIGKILL)

    passed: list[float] = []
    manifest = build(request, folder / "bundle", use_cache=quantised(request), on_progress=watch).manifest
    stages("end", 1.0)
    answers.send((round(time.perf_counter() - started, 2), stages.seconds, high_water(), len(passed), manifest))


def run_child(request: BuildRequest, folder: Path, stop_at: float | None = None) -> tuple[Any, ...] | None:
    """What the child says; None if it was killed."""
    context = multiprocessing.get_context("spawn")
    answers, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=child, args=(request, folder, stop_at, theirs))
    worker.start()
    theirs.close()
    try:
        return tuple(answers.recv())
    except EOFError:
        return None
    finally:
        worker.join()


def build_figures(request: BuildRequest) -> dict[str, object]:
    """The build takes its inputs from files, so a process of its own shows its memory and nothing else's."""
    killed: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), 0.0
        if quantised(request):
            started = time.perf_counter()
            assert run_child(request, folder, stop_at=0.5) is None
            assert not (folder / "bundle").exists()
            before = time.perf_counter() - started
        outcome = run_child(request, folder)
        if outcome is None:
            raise SystemExit("the build failed: see above")
        seconds, stages, peak, tiles, manifest = outcome
        if quantised(request):
            killed = {"seconds_until_killed": round(before, 1), "tiles_calibrated_after_that": tiles}
    return {
        "seconds": seconds,
        **killed,
        "seconds_by_stage": stages,
        "peak_rss_gb": round(peak / 1e9, 2),
        "bundle_mb": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6),
        **engine_figures(manifest),
        "parity": msgspec.to_builtins(manifest.parity["1"].results),
        "numerics": msgspec.to_builtins(manifest.numerics),
        **eight_bit_figures(manifest),
    }


def eight_bit_figures(manifest: Manifest) -> dict[str, object]:
    facts = manifest.calibration
    if not facts:
        return {}
    names = ("format", "method", "share", "min_psnr_db", "psnr_db", "seams_balanced", "against_fp16")
    return {
        **{name: msgspec.to_builtins(getattr(facts, name)) for name in names},
        "tiles": facts.tiles.count,
        "held_out_tiles": facts.held_out.count,
        "eight_bit_layers": manifest.engine_report["1"].eight_bit_layers if manifest.engine_report else None,
        "kept_layers": len(facts.kept),
        "ranking_side": facts.ranking.side,
        "blocks_ranked": len(facts.ranking.blocks),
        "sets_measured": len(facts.measured),
        "build_warnings": manifest.warnings,
    }


def engine_figures(manifest: Manifest) -> dict[str, object]:
    if not manifest.engine_report:
        return {}
    report = manifest.engine_report["1"]
    build_cost = report.build
    return {
        "engine_seconds": round(build_cost.seconds, 1),
        "engine_peak_rss_gb": round((build_cost.peak_rss_bytes or 0) / 1e9, 2),
        "engine_mb": round(report.engine_bytes / 1e6),
        "sms": report.sms,
        "kernels": report.kernels,
        "attentions_fused": f"{report.attentions_fused} of {report.attentions_expected}",
        "unfused": report.attentions_unfused,
        "share_in_precision": report.share_in_precision,
        "static_mb_per_run": round((report.static_bytes or 0) / 1e6),
        "workspace_mb": round((report.workspace_bytes or 0) / 1e6),
        "warnings": report.warnings,
    }


def speed_figures(request: BuildRequest, rounds: int) -> dict[str, object]:
    """Interleaved runs of one tile, the pause between them long enough for either library's threads to go to sleep."""
    torch.set_num_threads(THREADS)
    assert request.model is not None
    assert request.weights is not None
    family = FAMILIES.named(request.model)
    network = family.network(load_checkpoint(request.weights), request.options)
    side = family.tiling.tile
    lr = photograph_tile(side, side, family.value_range)
    tensor = torch.from_numpy(lr)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "g.onnx"
        export_graph(network, graph, shape=(1, 3, side, side), half=False, opset=23, group_norm="moments")
        gc.collect()
        session = open_graph(graph, bare_options(THREADS))
    seconds: dict[str, list[float]] = {"onnxruntime": [], "torch_eager": []}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, times in seconds.items():
            time.sleep(1.0)
            started = time.perf_counter()
            if name == "onnxruntime":
                (got,) = session.run(None, {"image": lr})
            else:
                with torch.inference_mode():
                    wanted = network(tensor).numpy()
            if round_:
                times.append(time.perf_counter() - started)
    ratios = [a / b for a, b in zip(seconds["onnxruntime"], seconds["torch_eager"], strict=True)]
    return {
        "tile": [side, side],
        "threads": THREADS,
        "runners": {name: summary(times) for name, times in seconds.items()},
        "ratio_onnxruntime_to_torch_eager": {
            "median": round(statistics.median(ratios), 3),
            "worst": round(max(ratios), 3),
            "n": rounds,
        },
        "max_relative_error": float(np.abs(got - wanted).max() / np.abs(wanted).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--target", default="sm89")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    for name in ("weights", "base", "decoder", "autoencoder", "prompt-embedding"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--calibration", type=Path, help="folder of pictures; the bundled photograph if left out")
    parser.add_argument("--tiles", type=int, default=8)
    parser.add_argument("--min-psnr", type=float, default=40.0)
    parser.add_argument("--search-minutes", type=float, default=10.0)
    given = parser.parse_args()
    choice = Calibration(
        pictures=given.calibration,
        tiles=given.tiles,
        min_psnr_db=given.min_psnr,
        search_minutes=given.search_minutes,
    )
    request = BuildRequest(
        model=given.model,
        weights=given.weights,
        precision=given.precision,
        target=given.target,
        calibration=choice if PRECISIONS.named(given.precision).eight_bit else None,
        options=options.given(
            base=given.base,
            decoder=given.decoder,
            autoencoder=given.autoencoder,
            prompt_embedding=given.prompt_embedding,
        ),
    )
    if given.speed:
        name, result = f"true_size_{given.model}_speed", speed_figures(request, given.rounds)
    else:
        name, result = f"true_size_{given.model}_{given.precision}_{given.target}", build_figures(request)
    print(record(name, result, "torch", "onnx", "onnxruntime", "diffusers", "tensorrt_rtx"))
    for key, value in result.items():
        print(f"{key:<36} {value}"[:300])


if __name__ == "__main__":
    main()
