"""Ten thousand frames at random zooms and places: memory, threads, file descriptors, and every view twice, bit for bit.

python -m benchmarks.endurance [--frames 10000] [--every 500]

`edge` with tiles of 64 on frames of 160x120 that change every so many frames. Each view is asked for with `submit` from
one session, whose cache is too small to hold a frame's tiles, and with `process` from another that keeps them all.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks._record import record
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.runtime.zoom.session import ZoomSession

SIZE, OUTPUT = (120, 160), (160, 120)
SETTLE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=10000)
    parser.add_argument("--every", type=int, default=500)
    arguments = parser.parse_args()
    rng, process = np.random.default_rng(0), psutil.Process()
    different, start = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build(BuildRequest(tile=64), Path(scratch) / "edge").path
        memory: list[int] = []
        threads_before = threading.active_count()
        with (
            ZoomSession(bundle, OUTPUT, threads=1, cache_bytes=5 << 20) as one,
            ZoomSession(bundle, OUTPUT, threads=1) as other,
        ):
            counts: list[tuple[int, int]] = []
            for index in range(arguments.frames):
                if index % arguments.every == 0:
                    frame = np.kron(rng.integers(0, 256, (30, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
                zoom, center = float(rng.uniform(1, 16)), (float(rng.random()), float(rng.random()))
                ticket = one.submit(frame, zoom, center)
                expected = other.process(frame, zoom, center).pixels
                different += not np.array_equal(one.result(ticket).pixels, expected)
                if index >= min(SETTLE, arguments.frames // 2) and index % 100 == 99:
                    gc.collect()
                    memory.append(process.memory_info().rss)
                    counts.append((process.num_threads(), process.num_fds()))
        left = threading.active_count() - threads_before
    half = len(memory) // 2
    growth = float(np.median(memory[half:]) / np.median(memory[:half]) - 1)
    figures: dict[str, object] = {
        "frames": arguments.frames,
        "different_views": different,
        "rss_mb_after_settling": round(memory[0] / 1e6, 1),
        "rss_mb_at_the_end": round(memory[-1] / 1e6, 1),
        "growth_first_to_last": round(memory[-1] / memory[0] - 1, 5),
        "growth_between_halves": round(growth, 5),
        "threads_and_descriptors": sorted(set(counts)),
        "python_threads_left_after_close": left,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(figures, indent=2))
    print("recorded in", record("endurance", figures, "onnxruntime", "numpy"))


if __name__ == "__main__":
    main()
