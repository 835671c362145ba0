"""What every engine looks like to the runtime: a batch of tiles in, a batch of enlarged tiles out.

A session is one loaded engine and its buffers. It owns them, closes them, and allocates nothing after loading.
One file per backend fills in `_execute` and `_release`; the checks are here, so that they are the same for all.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError, OutOfMemory, RuntimeFault, TileTooLarge


@dataclass
class SessionStats:
    """What a session decided for itself, and why."""

    batch: int
    """The largest batch in use."""
    batch_ms: dict[int, float] = field(default_factory=dict)
    """Milliseconds that a batch of each size took when the session was loaded; empty where nothing was measured."""
    notes: list[str] = field(default_factory=list)
    """What was not as the bundle has it: batch sizes given up, fallbacks."""


def batches_of(items: range, sizes: Sequence[int]) -> Iterator[range]:
    """Cut items into runs, each as long as the largest batch size that is left to fill; sizes[0] is 1."""
    first = items.start
    while first < items.stop:
        size = max(size for size in sizes if size <= items.stop - first)
        yield range(first, first + size)
        first += size


class Session(ABC):
    """One loaded engine. Not thread-safe: the upscaler takes turns.

    Parameters
    ----------
    tile : shapes and batches that the engine was built for.
    """

    def __init__(self, tile: TileFacts) -> None:
        self.tile = tile
        self.evaluations = 1
        """Network evaluations that the last run took for each tile."""
        self.stats = SessionStats(tile.batches[-1])
        self._closed = False

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes in use, ascending from 1: those of the bundle up to `stats.batch`."""
        return tuple(size for size in self.tile.batches if size <= self.stats.batch)

    @property
    def closed(self) -> bool:
        return self._closed

    def run(self, batch: NDArray[Any], names: Sequence[str] = ()) -> NDArray[Any]:
        """Send tiles through the engine.

        batch : (N, tile.channels, tile.height, tile.width) float32 or float16, N one of tile.batches; the picture in
            tile.value_range, then the start noise if there is any.
        names : each item in words, for error messages; default "item i of the batch".

        Returns (N, 3, height * scale, width * scale) in tile.dtype.
        IMPORTANT: the result is the session's own buffer, which the next `run` overwrites.

        Where memory runs out the batch is run in smaller ones, from then on, with one warning and a note in `stats`.

        Raises InputError for a batch of another shape or a type that is no float, RuntimeFault when the engine fails,
        answers in another shape or gives a value that is not finite (that would become a black tile), TileTooLarge when
        there is no room for one tile.
        """
        self._check_open()
        shape = (self.tile.channels, self.tile.height, self.tile.width)
        if batch.shape[1:] != shape or batch.shape[0] not in self.tile.batches or batch.dtype.kind != "f":
            needed = f"floats ({' or '.join(map(str, self.tile.batches))}, {', '.join(map(str, shape))})"
            seen, remedy = f"{batch.dtype} {batch.shape}", "Pad the tiles, and use a batch size of the bundle."
            raise InputError("cannot run a batch", seen=seen, needed=needed, remedy=remedy)
        parts: list[NDArray[Any]] = []
        first = 0
        while first < len(batch):
            items = next(batches_of(range(first, len(batch)), self.batches))
            try:
                result = self._execute(batch[first : items.stop])
            except OutOfMemory as error:
                self._give_up(len(items), error)
                continue
            except RuntimeFault as fault:
                raise named(fault, names[first : items.stop]) from fault
            self._check(result, len(items), names[first : items.stop])
            if len(items) == len(batch):
                return result
            parts.append(result.copy())
            first = items.stop
        return np.concatenate(parts)

    def run_tiles(
        self, count: int, fill: Callable[[range, NDArray[Any]], None], name: Callable[[int], str]
    ) -> Generator[tuple[range, NDArray[Any]], None, None]:
        """Send tiles 0 to count - 1 through the engine, in order, in the largest batches.

        fill(tiles, inputs) : write the inputs of a run of tiles, as `run` takes them, into float32
            (len(tiles), tile.channels, tile.height, tile.width).
        name(index) : a tile in words.

        Yields (tiles, outputs), the outputs as of `run`: use them before the next. Raises what `run` raises. A session
        may fill tiles before the ones ahead of them are out; close the generator to leave early.
        """
        tile = self.tile
        inputs = np.empty((min(self.batches[-1], count), tile.channels, tile.height, tile.width), np.float32)
        for tiles in batches_of(range(count), self.batches):
            fill(tiles, inputs[: len(tiles)])
            yield tiles, self.run(inputs[: len(tiles)], [name(index) for index in tiles])

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeFault("cannot run a tile", seen="a closed session", needed="an open one", remedy="Load again.")

    def _check(self, result: NDArray[Any], count: int, names: Sequence[str]) -> None:
        """RuntimeFault unless an engine's answer has the right shape and is finite."""
        side = (self.tile.height * self.tile.scale, self.tile.width * self.tile.scale)
        if result.shape != (count, 3, *side):
            remedy = "Build the bundle again with trt-build."
            raise RuntimeFault(
                "the engine answered in another shape", seen=result.shape, needed=(count, 3, *side), remedy=remedy
            )
        for item, pixels in enumerate(result):
            if not np.isfinite(pixels).all():
                bad = int(pixels.size - np.isfinite(pixels).sum())
                which = names[item] if names else f"item {item} of the batch"
                seen = f"{bad} of {pixels.size} values NaN or infinite"
                remedy = "Build with --precision fp32: half precision overflowed, or the weights are damaged."
                raise RuntimeFault(f"the engine failed on {which}", seen=seen, needed="finite values", remedy=remedy)

    def _give_up(self, size: int, error: OutOfMemory) -> None:
        """No batches of `size` from now on; TileTooLarge where nothing smaller is left."""
        smaller = [other for other in self.tile.batches if other < size]
        if not smaller:
            raise TileTooLarge(
                f"{error.what}; this bundle has no smaller batch, and a bundle has one tile size",
                seen=error.seen,
                needed=error.needed,
                remedy=f"{error.remedy} Or build one with --tile {max(self.tile.height // 2, 1)} and name it: "
                "zoomrt.load(bundle, fallback=...), trt-upscale --fallback.",
            ) from error
        self.stats.batch = smaller[-1]
        self.note(f"out of memory for a batch of {size} ({error.seen}): batches of {smaller[-1]} from now on")

    def note(self, text: str) -> None:
        """Say once, and keep, that something is not as the bundle has it."""
        self.stats.notes.append(text)
        warnings.warn(text, stacklevel=2)

    def close(self) -> None:
        """Release the engine and its buffers. May be called again."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Run a batch of checked shape; RuntimeFault or OutOfMemory if the engine fails."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of everything; called once."""


def named(fault: RuntimeFault, names: Sequence[str]) -> RuntimeFault:
    """The same fault with the tiles it is about."""
    if not names:
        return fault
    where = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return RuntimeFault(f"{fault.what}: {where}", seen=fault.seen, needed=fault.needed, remedy=fault.remedy)
