"""Every family on the CPU at true size: one tile in ONNX Runtime, in turns with torch eager and torch.compile.

python -m benchmarks.families --family osediff [--repeats 3] [--peers torch,compile] [--steps 4]
    files of the published layout with random weights (edge has its own), one FP32 bundle for the CPU in a process of
    its own, then `trt-bench` on it in another: writes benchmarks/results/family_NAME.json

The tile is 128 pixels wide where the family takes that, so that one run makes 512 x 512; else the family's own. Random
weights tell speed, memory and size, and nothing about pictures. The Stable Diffusion families take 10 GB and half an
hour; jit-sr, skipdiff and resshift an hour, since they call their network up to a hundred times.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks._random_files import jit_file, latent_files, randomise, skipdiff_file, swinir_file
from benchmarks._record import record
from benchmarks.true_size import high_water
from zoomrt.bench.record import Row
from zoomrt.bench.run import BenchRequest, run_bench
from zoomrt.bench.timing import Rule
from zoomrt.errors import UsageError
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.families import FAMILIES
from zoomrt.models.networks.edsr import EdsrConfig, EdsrNetwork
from zoomrt.models.networks.real_esrgan import DenseConfig, DenseNetwork
from zoomrt.models.networks.real_esrgan_compact import CompactConfig, CompactNetwork
from zoomrt.models.options import Values

TILE = 128
RESSHIFT_STEPS = 4
Files = tuple[Path | None, Values]


def network_file(network: torch.nn.Module, folder: Path) -> Files:
    torch.save(randomise(network).state_dict(), folder / "w.pth")
    return folder / "w.pth", {}


def stable_diffusion(write: str) -> Callable[[Path], Files]:
    """By the writers of the tests at true size."""

    def files(folder: Path) -> Files:
        sys.path.append(str(Path(__file__).parent.parent / "tests" / "export"))
        import test_true_size

        return folder / "w", getattr(test_true_size, write)(folder)

    return files


def latent(steps: int | None) -> Callable[[Path], Files]:
    def files(folder: Path) -> Files:
        unet, autoencoder = latent_files(folder, true_size=True)
        return unet, {"autoencoder": autoencoder, "steps": steps}

    return files


FILES: dict[str, Callable[[Path], Files]] = {
    "edge": lambda _: (None, {}),
    "osediff": stable_diffusion("osediff_files"),
    "hypir": stable_diffusion("hypir_files"),
    "adcsr": stable_diffusion("adcsr_files"),
    "sinsr": latent(None),
    "resshift": latent(RESSHIFT_STEPS),
    "jit-sr": lambda folder: (jit_file(folder, true_size=True), {}),
    "skipdiff": lambda folder: (skipdiff_file(folder, true_size=True, accept=False), {}),
    "swinir": lambda folder: (swinir_file(folder, true_size=True), {}),
    "real-esrgan": lambda folder: network_file(DenseNetwork(DenseConfig()), folder),
    "real-esrgan-compact": lambda folder: network_file(CompactNetwork(CompactConfig()), folder),
    "edsr": lambda folder: network_file(EdsrNetwork(EdsrConfig(width=256, blocks=32)), folder),
}


def tile_of(family: str) -> int | None:
    """TILE, or None for the family's own."""
    try:
        FAMILIES.named(family).size.check(TILE)
    except UsageError:
        return None
    return TILE


def made(family: str, folder: Path) -> Files:
    torch.manual_seed(0)
    return FILES[family](folder)


def built(request: BuildRequest, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    manifest = build(request, folder, use_cache=False).manifest
    return {
        "build_seconds": round(time.perf_counter() - started, 1),
        "build_peak_rss_gb": round(high_water() / 1e9, 2),
        "bundle_mb": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 1),
        "parameters": manifest.weights.parameters,
        "steps": manifest.steps,
        "parity_psnr_db": min(one.psnr_db for graph in manifest.parity.values() for one in graph.results),
    }


def timed(request: BenchRequest) -> dict[str, Any]:
    found = run_bench(request, lambda label, _: print(label, "...", flush=True))
    tile, scale = found.bundle["tile"], found.bundle["scale"]
    return {
        "threads": found.threads,
        "rule": found.rule,
        "output": [side * scale for side in tile],
        "gmac": round(found.cost.gmac, 2) if found.cost else None,
        "ceilings": {"tflops": found.ceilings.tflops, "gb_per_s": found.ceilings.gb_per_s} if found.ceilings else None,
        "run_peak_rss_gb": round(high_water() / 1e9, 2),
        "layers_ms": found.layers.groups_ms if found.layers else None,
        "rows": {row.name: row_figures(row) for row in found.rows},
        "notes": list(found.notes),
    }


def row_figures(row: Row) -> dict[str, Any]:
    if row.latency is None:
        return {"failed": row.failed}
    return {
        "p50_ms": round(row.latency.p50_ms, 2),
        "interval_ms": [round(end, 2) for end in row.latency.interval_ms],
        "coverage": round(row.latency.coverage, 4),
        "n": row.latency.n,
        "load_s": row.load_s and round(row.load_s, 2),
        "first_ms": row.first_ms and round(row.first_ms, 1),
        "time_over_onnxruntime": row.ratio and round(row.ratio.median, 3),
        "time_over_onnxruntime_interval": row.ratio and [round(end, 3) for end in row.ratio.interval],
        "psnr_db": row.psnr_db,
        "share_of_peak": row.roofline and row.roofline.compute_share and round(row.roofline.compute_share, 3),
        "bound": row.roofline and row.roofline.bound,
        "memory_mb": row.memory_mb,
    }


def child(task: Callable[..., Any], *given: Any) -> Any:
    """Run in a process of its own, so that its memory is nobody else's; what it raises is raised here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *given).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", required=True, choices=FAMILIES.names())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--peers", default="torch,compile")
    parser.add_argument("--steps", type=int, help="of the sampler, instead of those of the files")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights, options = child(made, given.family, folder)
        if given.steps is not None:
            options = {**options, "steps": given.steps}
        request = BuildRequest(
            model=given.family, weights=weights, tile=tile_of(given.family), backend="onnxruntime", options=options
        )
        figures = child(built, request, folder / "bundle")
        print(figures, flush=True)
        bench = BenchRequest(
            bundle=folder / "bundle",
            peers=tuple(given.peers.split(",")),
            rule=Rule(repeats=given.repeats, seconds=given.seconds),
            weights=weights,
            options=options,
            new_ceilings=True,
        )
        figures |= child(timed, bench)
    figures["weights"] = "random, of the published layout and size" if weights else "of the package"
    place = record(f"family_{given.family}", figures, "torch", "onnxruntime", "onnx", "diffusers")
    print(figures["rows"], figures["notes"], f"recorded in {place}", sep="\n")


if __name__ == "__main__":
    main()
