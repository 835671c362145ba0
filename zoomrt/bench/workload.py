"""What goes through an engine, and what lies between the two readings of the clock.

Every peer becomes a session, so that all of them take the very same tiles and frames through the very same runtime.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoomrt.bench.record import What
from zoomrt.bundle import TileFacts
from zoomrt.export.verify.sample_tiles import PHOTOGRAPH, with_noise
from zoomrt.runtime.pictures.images import read_rgb8
from zoomrt.runtime.session import Session
from zoomrt.runtime.tiles import noise, pixels
from zoomrt.runtime.tiles.blend import Blender
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import Upscaler, engine_of

SPANS: dict[What, str] = {
    "engine": "the tile into the engine's buffer, the engine, and the check that its output is finite",
    "tile": "one tile of 8-bit pixels: converted, through the engine, blended and converted back",
    "frame": "a whole picture of 8-bit pixels: cut into tiles, each as above, and colours where the model has them",
}


class RunSession(Session):
    """A function from tiles to tiles as an engine, in batches of one unless told."""

    def __init__(
        self, tile: TileFacts, run: Callable[[NDArray[Any]], NDArray[Any]], batches: tuple[int, ...] = (1,)
    ) -> None:
        super().__init__(msgspec.structs.replace(tile, batches=batches))
        self._run = run

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        return self._run(batch)

    def _release(self) -> None:
        del self._run


@dataclass(frozen=True)
class Workload:
    """frame : (H, W, 3) uint8. corner : what fits one tile of it. batch : that tile as the engine takes it."""

    what: What
    name: str
    frame: NDArray[np.uint8]
    corner: NDArray[np.uint8]
    batch: NDArray[np.float32]

    @classmethod
    def of(cls, what: What, tile: TileFacts, picture: Path | None) -> Workload:
        """The bundled photograph if `picture` is None. Raises InputError."""
        frame = np.ascontiguousarray(read_rgb8(picture or PHOTOGRAPH))
        corner = np.ascontiguousarray(frame[: tile.height, : tile.width])
        batch = np.empty((1, 3, tile.height, tile.width), np.float32)
        pixels.gather(corner, plan(corner.shape[0], corner.shape[1], tile), 0, tile, batch[0])
        shown = frame if what == "frame" else corner
        name = f"{picture.name if picture else 'the bundled photograph'}, {shown.shape[1]} x {shown.shape[0]} px"
        return cls(what, name, frame, corner, with_noise(batch, tile.noise))

    def tiles(self, tile: TileFacts) -> int:
        """How many go through the engine in one run."""
        return len(plan(self.frame.shape[0], self.frame.shape[1], tile)) if self.what == "frame" else 1


@contextlib.contextmanager
def calling(upscaler: Upscaler, work: Workload) -> Iterator[Callable[[], NDArray[Any]]]:
    """What is timed, while the block lasts."""
    if work.what == "engine":
        with engine_of(upscaler).use() as session:
            yield lambda: session.run(work.batch)
    else:
        frame = work.corner if work.what == "tile" else work.frame
        yield lambda: upscaler.upscale(frame)


def tile_stages(upscaler: Upscaler, work: Workload, rounds: int) -> dict[str, float]:
    """Median milliseconds of each part of one tile."""
    tile = upscaler.manifest.tile
    spans = plan(work.corner.shape[0], work.corner.shape[1], tile)
    batch = work.batch.copy()
    size = work.corner.shape[0] * tile.scale, work.corner.shape[1] * tile.scale
    out = np.empty((*size, 3), np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in ("convert in", "engine", "blend", "convert out")}
    with engine_of(upscaler).use() as session:
        for _ in range(rounds):
            blender = Blender(spans)
            clock = [time.perf_counter()]
            pixels.gather(work.corner, spans, 0, tile, batch[0, :3])
            if tile.noise is not None:
                noise.gather(tile.noise, spans, 0, batch[0, 3:])
            clock.append(time.perf_counter())
            (answer,) = session.run(batch)
            clock.append(time.perf_counter())
            rows, columns, block = blender.add(0, answer)
            clock.append(time.perf_counter())
            pixels.store(pixels.values_of(block, tile, 3, 255.0), out[rows, columns], 255.0)
            clock.append(time.perf_counter())
            for name, begin, end in zip(taken, clock, clock[1:], strict=False):
                taken[name].append(end - begin)
    return {name: float(np.median(seconds)) * 1e3 for name, seconds in taken.items()}


def frame_stages(upscaler: Upscaler, work: Workload, rounds: int) -> dict[str, float]:
    """Median milliseconds of a whole frame inside and outside the engine, in the batches that it uses."""
    inside = 0.0

    with engine_of(upscaler).use() as session:

        def run(batch: NDArray[Any]) -> NDArray[Any]:
            nonlocal inside
            started = time.perf_counter()
            answer = session.run(batch)
            inside += time.perf_counter() - started
            return answer

        taken: dict[str, list[float]] = {"inside the engine": [], "outside the engine": []}
        watched = RunSession(upscaler.manifest.tile, run, session.batches)
        manifest = msgspec.structs.replace(upscaler.manifest, tile=watched.tile)
        with Upscaler(manifest, watched) as outer:
            for _ in range(rounds):
                inside, started = 0.0, time.perf_counter()
                outer.upscale(work.frame)
                whole = time.perf_counter() - started
                taken["inside the engine"].append(inside)
                taken["outside the engine"].append(whole - inside)
    return {f"frame, {name}": float(np.median(seconds)) * 1e3 for name, seconds in taken.items()}
