"""One tile on the CPU in every engine: time against torch eager FP32, pair by pair, and PSNR to it beside each figure.

python -m benchmarks.cpu_engines --model edge                 128x128 -> 512x512, the weights of the package
python -m benchmarks.cpu_engines --model osediff [--files F]  the same tile at true size with random weights of the
    published layout, made in F if they are not there yet (a temporary folder if left out); 16 GB, half an hour
    [--rounds 5] [--only "openvino bf16" ...]  writes benchmarks/results/cpu_engines_MODEL.json

Each engine is loaded, warmed up, run in turns with torch eager, A B A B, and dropped: two networks in memory at most.
INT8 has ranges from one other tile and no quality search: every layer that placement allows is quantised.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks._record import record, summary
from zoomrt.bench.record import Ceilings
from zoomrt.bench.roofline import ceilings
from zoomrt.bundle import TileFacts
from zoomrt.calibration.calibrate import observe, ranges_of
from zoomrt.calibration.data import tiles_from_pictures
from zoomrt.calibration.fake_quant import INT8
from zoomrt.calibration.layers import layers_of
from zoomrt.calibration.placement import placement_of
from zoomrt.calibration.quantise import quantise
from zoomrt.export.engines.cpu import CpuEngine, Graphs
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.verify.parity import compare
from zoomrt.export.verify.sample_tiles import PHOTOGRAPH, photograph_tile
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES
from zoomrt.runtime.resources import core_count

SIDE = 128
SETTLE_S = 0.2
"""Pause before each run: worker threads of the library that ran before spin on for a while and would take a core."""
BURST_S = 0.3
ENGINES = {
    "onnxruntime fp32": ("fp32", CpuEngine("onnxruntime")),
    "onnxruntime int8": ("int8", CpuEngine("onnxruntime")),
    "openvino fp32": ("fp32", CpuEngine("openvino")),
    "openvino bf16": ("fp32", CpuEngine("openvino", "bf16")),
    "openvino int8": ("int8", CpuEngine("openvino")),
    "openvino int8, rest bf16": ("int8", CpuEngine("openvino", "bf16")),
}
"""The graph, and what runs it. Besides these there are torch eager, torch.compile and torch in BF16."""
NAMES = ("torch compile", "torch bf16", *ENGINES)

Run = Callable[[], NDArray[np.float32]]


def network_of(model: str, files: Path) -> nn.Module:
    family = FAMILIES.named(model)
    if family.embedded_weights is not None:
        return family.network(load_checkpoint(family.embedded_weights)).eval()
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "export"))
    from test_true_size import osediff_files

    files.mkdir(parents=True, exist_ok=True)
    ready = (files / "w").exists() and (files / "base").is_dir()
    options = {"base": files / "base", "prompt_embedding": files / "prompt.pt"} if ready else osediff_files(files)
    return family.network(load_checkpoint(files / "w"), options or {}).eval()


def write_graphs(network: nn.Module, tile: TileFacts, folder: Path) -> tuple[dict[str, Graphs], dict[str, float]]:
    """The FP32 and the INT8 graph; and the multiply-adds of one tile in billions, all and in 8 bits."""
    shape = (1, tile.channels, tile.height, tile.width)
    (seen,) = tiles = tiles_from_pictures(
        [PHOTOGRAPH], count=1, height=tile.height, width=tile.width, value_range=tile.value_range, seed=1
    )
    placement = placement_of(network, layers_of(network, seen), "openvino")
    networks = {"fp32": network, "int8": quantise(network, ranges_of(observe(network, tiles), "mse"), placement, INT8)}
    graphs = {}
    for precision, one in networks.items():
        (folder / precision).mkdir()
        path = folder / precision / "graph.onnx"
        export_graph(one, path, shape=shape, half=False, opset=23, group_norm="moments")
        graphs[precision] = Graphs(path.parent, {1: path.name}, precision, tile)
    total = sum(placement.multiply_adds.values())
    return graphs, {"gmac": round(total / 1e9, 2), "gmac_in_8_bits": round(total * placement.share / 1e9, 2)}


@contextmanager
def running(name: str, network: nn.Module, graphs: dict[str, Graphs], lr: NDArray[np.float32]) -> Iterator[Run]:
    """One engine, loaded; dropped afterwards."""
    if name in ENGINES:
        precision, engine = ENGINES[name]
        with graphs[precision].load(engine, 1) as session:
            yield lambda: session.run(lr)
    elif name == "torch compile":
        yield torch_run(torch.compile(network), lr)
        torch.compiler.reset()
    elif name == "torch bf16":
        narrow = copy.deepcopy(network).to(torch.bfloat16, memory_format=torch.channels_last)
        yield torch_run(narrow, lr, torch.bfloat16)
    else:
        yield torch_run(network, lr)
    gc.collect()
    return_freed_memory()


def torch_run(network: Callable[..., torch.Tensor], lr: NDArray[np.float32], dtype: torch.dtype = torch.float32) -> Run:
    tile = torch.from_numpy(lr).to(dtype)
    if dtype is torch.bfloat16:
        tile = tile.contiguous(memory_format=torch.channels_last)

    def run() -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(tile).float().numpy()

    return run


def timed(run: Run) -> float:
    """Seconds of one run. Where it is short, the median of a burst without its first run, as in a stream of tiles."""
    time.sleep(SETTLE_S)
    taken: list[float] = []
    while not taken or sum(taken) < BURST_S:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:] or taken)


def row(name: str, run: Run, eager: Run, wanted: NDArray[np.float32], peak: float, rounds: int) -> dict[str, object]:
    got = run().copy()
    pairs = [(timed(eager), timed(run)) for _ in range(rounds)]
    ratios = [mine / base for base, mine in pairs]
    return {
        **summary([mine for _, mine in pairs]),
        "eager_median_ms": summary([base for base, _ in pairs])["median_ms"],
        "ratio_to_torch_eager": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "psnr_to_torch_fp32_db": compare(wanted, got, "photograph", name, peak, 0.0).psnr_db,
    }


def floor_ms(name: str, work: dict[str, float], wall: Ceilings) -> float | None:
    """The least that the multiply-adds of layers with weights take, at what this machine reaches in large products."""
    kind = "bf16" if "bf16" in name else "fp32"
    eight = work["gmac_in_8_bits"] if "int8" in name else 0.0
    parts = {kind: work["gmac"] - eight, "int8": eight}
    if any(done and kind not in wall.tflops for kind, done in parts.items()):
        return None
    return round(sum(2 * done / wall.tflops[kind] for kind, done in parts.items() if done), 2)


def tile_facts(model: str) -> TileFacts:
    facts = FAMILIES.named(model)
    return TileFacts(
        scale=facts.scale,
        height=SIDE,
        width=SIDE,
        batches=(1,),
        overlap=16,
        context=4,
        value_range=facts.value_range,
        dtype="float32",
    )


def figures_of(model: str, files: Path, only: list[str], rounds: int) -> dict[str, object]:
    network = network_of(model, files)
    facts, tile = FAMILIES.named(model), tile_facts(model)
    lr = photograph_tile(SIDE, SIDE, tile.value_range)
    low, high = tile.value_range
    rows: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(dir=files) as folder:
        graphs, work = write_graphs(network, tile, Path(folder))
        return_freed_memory()
        eager = torch_run(network, lr)
        wanted = eager()
        for name in only:
            try:
                with running(name, network, graphs, lr) as run:
                    rows[name] = row(name, run, eager, wanted, high - low, rounds)
            except Exception as problem:  # an engine that is missing or fails is a line in the table
                rows[name] = {"failed": " ".join(f"{type(problem).__name__}: {problem}".split())[:300]}
            print(f"{name:<26}{rows[name]}", flush=True)
    wall = ceilings(core_count(), again=True)
    for name, figures in rows.items():
        figures["floor_ms"] = floor_ms(name, work, wall)
    return {
        "tile": f"{SIDE}x{SIDE} -> {SIDE * tile.scale}x{SIDE * tile.scale}",
        "weights": "of the package" if facts.embedded_weights else "random, of the published layout and size",
        "threads": core_count(),
        **work,
        "ceilings": {"tflops": wall.tflops, "gb_per_s": wall.gb_per_s, "how": wall.how},
        "engines": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("edge", "osediff"), required=True)
    parser.add_argument("--files", type=Path, help="folder with, or for, osediff's files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    given = parser.parse_args()
    torch.set_num_threads(core_count())
    with tempfile.TemporaryDirectory() as scratch:
        files = given.files or Path(scratch)
        files.mkdir(parents=True, exist_ok=True)
        figures = figures_of(given.model, files, given.only, given.rounds)
    packages = ("torch", "onnxruntime", "openvino", "onnx", "diffusers")
    print("recorded in", record(f"cpu_engines_{given.model}", figures, *packages))


if __name__ == "__main__":
    main()
