"""The scheduler's timeline on threads with a slow engine: a picture, and how much of the copies is hidden.

python -m benchmarks.scheduler_timeline [--batches 8] [--compute-ms 30] [--copy-ms 12] [--slots 2]

The engine and the copies only sleep, so the figures are about the order of work and say nothing about any GPU's speed.
Writes docs/scheduler-timeline.png and benchmarks/results/scheduler_timeline.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks._record import record
from tests.helpers.devices.thread_device import SessionEngine, ThreadDevice, ThreadStream
from zoomrt.runtime.gpu.device import Buffer
from zoomrt.runtime.gpu.scheduler import Pipeline
from zoomrt.runtime.session import batches_of

STREAMS = ("copy in", "compute", "copy out")
PICTURE = Path(__file__).parent.parent / "docs" / "scheduler-timeline.png"
Moments = dict[tuple[str, int, str], float]


class SlowStream(ThreadStream):
    """Copies take their time, as over a bus."""

    seconds = 0.0

    def copy(self, target: Buffer, source: Buffer) -> None:
        super().call(lambda: (time.sleep(self.seconds), np.copyto(target.array, source.array)))  # type: ignore[attr-defined]


class SlowDevice(ThreadDevice):
    def __init__(self, copy_s: float) -> None:
        self.moments: Moments = {}
        super().__init__(self.note)
        self._copy_s = copy_s

    def note(self, stream: str, number: int, moment: str) -> None:
        self.moments[stream, number, moment] = time.perf_counter()

    def stream(self, name: str) -> ThreadStream:
        stream = SlowStream(name, self.note)
        stream.seconds = self._copy_s
        return stream


def run(slots: int, batches: int, compute_s: float, copy_s: float) -> tuple[float, Moments]:
    """Seconds for all batches, and when each piece of work began and ended, in seconds from the start."""
    device = SlowDevice(copy_s)
    pipeline = Pipeline(device, slots)

    def engine(batch: np.ndarray) -> np.ndarray:
        time.sleep(compute_s)
        return batch

    pipeline.add(1, SessionEngine(engine), ((1, 4), (1, 4)), "float32")
    started = time.perf_counter()
    for _, land in pipeline.run(batches_of(range(batches), (1,)), lambda items, out: out.fill(items.start)):
        land()
    seconds = time.perf_counter() - started
    pipeline.close()
    return seconds, {key: moment - started for key, moment in device.moments.items()}


def draw(
    runs: dict[int, tuple[float, Moments]], path: Path, note: str = "threads that sleep; the number is the batch"
) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(runs), 1, figsize=(9, 2.1 * len(runs)), sharex=True, layout="constrained")
    colours = pyplot.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for panel, (slots, (seconds, moments)) in zip(np.atleast_1d(panels), runs.items(), strict=True):
        for stream, number, moment in moments:
            if moment == "begin":
                left, right = (moments[stream, number, edge] * 1e3 for edge in ("begin", "end"))
                line = STREAMS.index(stream)
                panel.barh(line, right - left, left=left, color=colours[number % 10], edgecolor="white", height=0.8)
                panel.text((left + right) / 2, line, str(number), ha="center", va="center", color="white", fontsize=8)
        panel.set_yticks(range(len(STREAMS)), STREAMS)
        panel.invert_yaxis()
        name = "1 slot: one after another" if slots == 1 else f"{slots} slots: neighbours overlap"
        panel.set_title(f"{name}, {seconds * 1e3:.0f} ms in all", loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel(f"ms ({note})")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--compute-ms", type=float, default=30)
    parser.add_argument("--copy-ms", type=float, default=12, help="each way")
    parser.add_argument("--slots", type=int, default=2)
    arguments = parser.parse_args()
    compute, copy = arguments.compute_ms / 1e3, arguments.copy_ms / 1e3
    runs = {slots: run(slots, arguments.batches, compute, copy) for slots in sorted({1, arguments.slots})}
    figures: dict[str, object] = {
        "batches": arguments.batches,
        "compute_ms": arguments.compute_ms,
        "copy_ms_each_way": arguments.copy_ms,
        "total_ms": {f"slots {slots}": round(seconds * 1e3, 1) for slots, (seconds, _) in runs.items()},
        "compute_alone_ms": round(arguments.batches * arguments.compute_ms, 1),
        "what": "threads that sleep, no GPU: how work is ordered, not how fast anything is",
    }
    print(json.dumps(figures, indent=2))
    print(record("scheduler_timeline", figures, "matplotlib"))
    draw(runs, PICTURE)


if __name__ == "__main__":
    main()
