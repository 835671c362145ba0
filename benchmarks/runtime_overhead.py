"""What the runtime adds to the engine: plan, gather, blend and colour over the raw engine on the same tiles.

python -m benchmarks.runtime_overhead BUNDLE [--threads 2] [--rounds 7] [--side 1024]

Two measures, because a busy machine shifts whole calls: `ratio`, whole upscale() calls over raw engine runs, taken in
turns; and `outside`, the share of each upscale() call that is spent outside its own engine runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks._record import record, summary
from zoomrt.bundle import open_bundle
from zoomrt.runtime.sessions.onnxruntime import OnnxRuntimeSession
from zoomrt.runtime.tiles import pixels
from zoomrt.runtime.tiles.colour import with_method
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import Upscaler

COLOURS = ("none", "adain", "wavelet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=1024, help="output pixels, each axis")
    arguments = parser.parse_args()

    bundle = open_bundle(arguments.bundle)
    facts = bundle.manifest.tile
    session = TimedSession(bundle, arguments.threads)
    upscalers = {colour: Upscaler(with_method(bundle, colour).manifest, session) for colour in COLOURS}
    side = arguments.side // facts.scale
    frame = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    tiles = gathered(frame, session)
    engine = session._engines[1]

    def raw() -> None:
        """The engine and nothing else, through the same bound buffers."""
        for tile in tiles:
            np.copyto(engine.input, tile)
            engine.session.run_with_iobinding(engine.binding)

    runs: dict[str, Callable[[], object]] = {"raw": raw} | {
        colour: lambda colour=colour: upscalers[colour](frame) for colour in COLOURS
    }
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    outside: dict[str, list[float]] = {colour: [] for colour in COLOURS}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            session.seconds = 0.0
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
            if name in outside:
                outside[name].append(seconds[name][-1] - session.seconds)

    raw_median = statistics.median(seconds["raw"])
    figures: dict[str, object] = {
        "goal": "at most 5 % over the raw engine",
        "bundle": {key: getattr(bundle.manifest, key) for key in ("family", "precision", "target", "key")},
        "output": f"{side * facts.scale}x{side * facts.scale} uint8 RGB",
        "tiles": f"{len(tiles)} of {facts.width}x{facts.height}, overlap {facts.overlap}, context {facts.context}",
        "threads": arguments.threads,
        "raw": summary(seconds["raw"]),
    }
    for colour in COLOURS:
        figures[colour] = {
            "upscale": summary(seconds[colour]),
            "ratio_to_raw": round(statistics.median(seconds[colour]) / raw_median, 4),
            "outside_engine": summary(outside[colour]),
            "outside_share_of_raw": round(statistics.median(outside[colour]) / raw_median, 4),
        }
    print(json.dumps(figures, indent=2))
    print(record("runtime_overhead", figures, "numpy", "onnxruntime"))


class TimedSession(OnnxRuntimeSession):
    """Adds up the seconds spent in the engine."""

    seconds = 0.0

    def _execute(self, batch: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        result = super()._execute(batch)
        self.seconds += time.perf_counter() - started
        return result


def gathered(frame: np.ndarray, session: OnnxRuntimeSession) -> list[np.ndarray]:
    """The very tiles that upscale() sends through the engine."""
    facts = session.tile
    cut = plan(frame.shape[0], frame.shape[1], facts)
    tiles = [np.empty((1, 3, facts.height, facts.width), np.float32) for _ in range(len(cut))]
    for index, tile in enumerate(tiles):
        pixels.gather(frame, cut, index, facts, tile[0])
    return tiles


if __name__ == "__main__":
    main()
