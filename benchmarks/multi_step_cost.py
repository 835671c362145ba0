"""What a frame costs with models of several steps: the encoder, as many calls of the step graph as evaluations, the
decoder, and next to nothing besides.

python -m benchmarks.multi_step_cost --threads 2 [--frames 5] [--true-size]
    FP32 bundles for the CPU of random weights, one tile per frame: writes benchmarks/results/multi_step_cost.json, or
    multi_step_cost_true_size.json

`ratio` is the frame over encoder + evaluations * the mean call + decoder, all of the same frame, so that a busy machine
shifts both: 1 is a runtime that adds nothing. Times themselves are as busy as the machine was (`load_1min`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._random_files import jit_file, latent_files, skipdiff_file
from benchmarks._record import record, summary
from zoomrt.bundle import open_bundle
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.runtime.sessions.common.multi_step import MultiStepSession
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph
from zoomrt.runtime.upscaler import Upscaler

JIT_STEPS = 50  # as published for B/16


class TimedGraph(OnnxRuntimeGraph):
    """Keeps the seconds of every call."""

    seconds: list[float]

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        started = time.perf_counter()
        results = super().__call__(values)
        self.seconds.append(time.perf_counter() - started)
        return results


def requests(folder: Path, *, true_size: bool) -> dict[str, BuildRequest]:
    """ResShift's two schedules, JiT-SR's samplers, and SkipDiff with every fine step taken and with none."""
    unet, autoencoder = latent_files(folder, true_size=true_size)
    jit = jit_file(folder, true_size=true_size)
    found = {
        f"resshift, --steps {steps}": BuildRequest(
            model="resshift", weights=unet, tile=64, options={"autoencoder": autoencoder, "steps": steps}
        )
        for steps in (15, 4)
    }
    for sampler, steps in (("heun", JIT_STEPS), ("euler", JIT_STEPS), ("heun", 1)):
        options = {"steps": steps, "sampler": sampler}
        found[f"jit-sr, {sampler}, --steps {steps}"] = BuildRequest(model="jit-sr", weights=jit, options=options)
    for accept in (True, False):
        weights = skipdiff_file(folder, true_size=true_size, accept=accept)
        name = f"skipdiff, --steps 20, {'none' if accept else 'every fine one'} skipped"
        found[name] = BuildRequest(model="skipdiff", weights=weights, tile=64 if true_size else 16)
    return found


def figures(request: BuildRequest, folder: Path, threads: int, frames: int) -> dict[str, object]:
    bundle = open_bundle(build(request, folder, use_cache=False).path)
    manifest = bundle.manifest
    assert manifest.sampling is not None
    graphs = {part: TimedGraph(bundle.graph(part), threads) for part in manifest.graphs}
    tile = manifest.tile
    frame = np.random.default_rng(0).integers(0, 256, (tile.height, tile.width, 3), np.uint8)
    took: list[float] = []
    ratios: list[float] = []
    kept: dict[str, list[float]] = {part: [] for part in graphs}
    with Upscaler(manifest, MultiStepSession(tile, manifest.sampling, graphs)) as upscaler:
        for number in range(frames + 1):
            for graph in graphs.values():
                graph.seconds = []
            started = time.perf_counter()
            upscaler(frame)
            whole = time.perf_counter() - started
            if number == 0:  # buffers are made
                continue
            took.append(whole)
            assert (len(graphs["encode"].seconds), len(graphs["step"].seconds)) == (1, upscaler.evaluations[0])
            ratios.append(whole / sum(sum(graph.seconds) for graph in graphs.values()))
            for part, graph in graphs.items():
                kept[part] += graph.seconds
        (evaluations,) = upscaler.evaluations
    return {
        "evaluations": evaluations,
        "frame": summary(took),
        **{f"{part}_call": summary(seconds) for part, seconds in kept.items()},
        "ratio": round(statistics.median(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--true-size", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found: dict[str, object] = {"threads": arguments.threads, "weights": "random"}
    with tempfile.TemporaryDirectory() as name:
        for what, request in requests(Path(name), true_size=arguments.true_size).items():
            found[what] = figures(request, Path(name) / "bundle", arguments.threads, arguments.frames)
            print(json.dumps({what: found[what]}), flush=True)
    place = "multi_step_cost_true_size" if arguments.true_size else "multi_step_cost"
    print("recorded in", record(place, found, "torch", "onnxruntime"))


if __name__ == "__main__":
    main()
