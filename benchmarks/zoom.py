"""Zoom sessions with `edge`: frame rates with and without reuse, against bicubic and a naive run; deadlines; flicker.

python -m benchmarks.zoom [--threads 2] [--pan 60] [--live 120]

A preview of 720p or 1080p, frame and view of one size. Timed is one call, from the frame to the finished RGB view.
`reuse`: a pan of a still scene, after one frame that is not counted; tiles that come into view are counted.
`anew`: every tile of every frame computed. `bicubic`: Pillow, with a box. `naive`: the whole frame through the
upscaler, then Pillow's Lanczos of the crop.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from benchmarks._record import record
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.runtime.upscaler import Upscaler, load
from zoomrt.runtime.zoom.crop import crop_of
from zoomrt.runtime.zoom.session import ZoomSession

SIZES = {"720p": (720, 1280), "1080p": (1080, 1920)}
ZOOMS = (2.0, 4.0, 8.0)
CENTER = (0.5, 0.4)
RATE = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pan", type=int, default=60)
    parser.add_argument("--live", type=int, default=120)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build(BuildRequest(), Path(scratch) / "edge").path
        with load(bundle, threads=arguments.threads) as upscaler:
            figures: dict[str, object] = {"threads": arguments.threads, "tile": upscaler.manifest.tile.height}
            figures["previews"] = {name: preview(upscaler, size, arguments.pan) for name, size in SIZES.items()}
            figures["live"] = {name: live(upscaler, size, arguments.live) for name, size in SIZES.items()}
            figures["flicker"] = flicker(upscaler)
    print(json.dumps(figures, indent=2))
    print("recorded in", record("zoom", figures, "onnxruntime", "pillow", "numpy"))


def scene(size: tuple[int, int]) -> NDArray[np.uint8]:
    """A photograph, mirrored on until it fills the frame."""
    picture = data.astronaut()
    below, beside = (max(side - 512, 0) for side in size)
    return np.ascontiguousarray(
        np.pad(picture, ((0, below), (0, beside), (0, 0)), mode="symmetric")[: size[0], : size[1]]
    )


def preview(upscaler: Upscaler, size: tuple[int, int], pan: int) -> dict[str, object]:
    frame, output = scene(size), (size[1], size[0])
    started = time.perf_counter()
    large = Image.fromarray(upscaler(frame))
    full_frame_s = time.perf_counter() - started
    rows: dict[str, object] = {"full_frame_ms": round(full_frame_s * 1e3, 1)}
    small = Image.fromarray(frame)
    for zoom in ZOOMS:
        path = [(zoom, (CENTER[0] + 0.02 * math.sin(step / 10), CENTER[1])) for step in range(pan)]
        with ZoomSession(upscaler, output) as session, ZoomSession(upscaler, output, reuse=False) as anew:
            first = session.process(frame, *path[0])
            counts: Counter[str] = Counter()

            def reused(view: Any, session: ZoomSession = session, counts: Counter[str] = counts) -> None:
                result = session.process(frame, *view)
                counts.update(computed=result.computed, reused=result.reused)

            row: dict[str, object] = {"tiles": first.tiles, "reuse": timed(reused, path), **counts}
            row["anew"] = timed(lambda view, session=anew: session.process(frame, *view), path[:2])
            picture = session.process(frame, *path[0]).pixels
        row["bicubic_pillow"] = timed(lambda view: resized(small, size, view, Image.Resampling.BICUBIC, 1), path)
        naive = timed(lambda view: resized(large, size, view, Image.Resampling.LANCZOS, 4), path[:3])
        row["naive_ms"] = round(full_frame_s * 1e3 + float(naive["p50_ms"]), 1)
        reference = resized(large, size, path[0], Image.Resampling.LANCZOS, 4)
        row["psnr_to_naive_db"] = round(psnr(picture, reference), 1)
        rows[f"{zoom:g}x"] = row
    return rows


def timed(run: Callable[[Any], object], views: Iterable[Any]) -> dict[str, float]:
    seconds = []
    for view in views:
        started = time.perf_counter()
        run(view)
        seconds.append(time.perf_counter() - started)
    ms = np.array(seconds) * 1e3
    middle, worst = (round(float(value), 1) for value in np.percentile(ms, [50, 99]))
    return {"p50_ms": middle, "p99_ms": worst, "fps": round(1e3 * len(ms) / float(ms.sum()), 2), "n": len(ms)}


def resized(picture: Image.Image, size: tuple[int, int], view: Any, kernel: Any, scale: int) -> NDArray[np.uint8]:
    crop = crop_of(size, size, *view)
    box = tuple(scale * side for side in (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height))
    return np.asarray(picture.resize((size[1], size[0]), kernel, box=box))


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def live(upscaler: Upscaler, size: tuple[int, int], count: int) -> dict[str, object]:
    """A camera at 30 frames a second with a budget of one frame: a second of zooming, then the view stands still.

    On a CPU one tile costs several budgets: this is the overload. Timed from `submit` to the finished view.
    """
    frame, process = scene(size), psutil.Process()
    with ZoomSession(upscaler, (size[1], size[0]), budget_ms=1e3 / RATE) as session:
        session.process(frame, 2.0, CENTER)
        before = process.memory_info().rss
        results: list[tuple[str, float]] = []
        start = time.perf_counter()
        for index in range(count):
            time.sleep(max(start + index / RATE - time.perf_counter(), 0))
            ticket = session.submit(frame, min(2.0 * 1.047**index, 8.0), CENTER)
            ticket.add_done_callback(lambda done: results.append((done.result().mode, done.result().latency_ms)))
        session.result(ticket)
        took = time.perf_counter() - start
        grown = process.memory_info().rss - before
        tile_ms = session.tile_ms
    latencies = [latency for mode, latency in results if mode != "dropped"]
    middle, worst = (round(float(value), 1) for value in np.percentile(latencies, [50, 99]))
    return {
        "tile_ms": round(tile_ms or 0, 1),
        "frames": count,
        "modes": dict(Counter(mode for mode, _ in results)),
        "answers_per_second": round(len(latencies) / took, 1),
        "p50_ms": middle,
        "p99_ms": worst,
        "in_budget": round(sum(latency <= 1e3 / RATE for latency in latencies) / len(latencies), 3),
        "last_mode": results[-1][0],
        "grown_mb": round(grown / 1e6, 1),
    }


def flicker(upscaler: Upscaler, frames: int = 12, noise: float = 2.0) -> dict[str, object]:
    """Temporal variance of a still scene with noise of 2 codes, over that of the bicubic view; 2x view of 180 x 180."""
    rng = np.random.default_rng(0)
    still = data.astronaut()[100:280, 150:330].astype(np.float64)
    views: dict[str, list[NDArray[np.uint8]]] = {"network": [], "network_smoothed": [], "bicubic": []}
    with (
        ZoomSession(upscaler, (360, 360)) as session,
        ZoomSession(upscaler, (360, 360), noise=noise / 255) as smoothed,
    ):
        for index in range(8 + frames):
            noisy = np.clip(still + rng.normal(0, noise, still.shape), 0, 255).round().astype(np.uint8)
            pictures = {"network_smoothed": smoothed.process(noisy, 1.0).pixels}
            if index >= 8:
                pictures |= {
                    "network": session.process(noisy, 1.0).pixels,
                    "bicubic": session.bicubic(noisy, 1.0).pixels,
                }
                for name, picture in pictures.items():
                    views[name].append(picture)
    variance = {
        name: float(np.var(np.array(stack, np.float64), axis=0, ddof=1).mean()) for name, stack in views.items()
    }
    ratios = {f"{name}_over_bicubic": round(value / variance["bicubic"], 3) for name, value in variance.items()}
    return {"noise_codes": noise, "frames": frames, **ratios, "bicubic_variance": round(variance["bicubic"], 3)}


if __name__ == "__main__":
    main()
