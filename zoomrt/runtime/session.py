"""What every engine looks like to the runtime: a batch of tiles in, a batch of enlarged tiles out.

A session is one loaded engine and its buffers. It owns them, closes them, and allocates nothing after loading.
One file per backend fills in `_execute` and `_release`; the checks are here, so that they are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError, RuntimeFault

__all__ = ["Session"]


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
        self._closed = False

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that `run` takes, ascending."""
        return self.tile.batches

    @property
    def closed(self) -> bool:
        return self._closed

    def run(self, batch: NDArray[Any], names: Sequence[str] = ()) -> NDArray[Any]:
        """Send tiles through the engine.

        batch : (N, tile.channels, tile.height, tile.width) float32 or float16, N one of `batches`; the picture in
            tile.value_range, then the start noise if there is any.
        names : each item in words, for error messages; default "item i of the batch".

        Returns (N, 3, height * scale, width * scale) in tile.dtype.
        IMPORTANT: the result is the session's own buffer, which the next `run` overwrites.

        Raises InputError for a batch of another shape or a type that is no float, RuntimeFault when the engine fails,
        answers in another shape or gives a value that is not finite (that would become a black tile).
        """
        if self._closed:
            raise RuntimeFault("cannot run a tile", seen="a closed session", needed="an open one", remedy="Load again.")
        shape = (self.tile.channels, self.tile.height, self.tile.width)
        if batch.shape[1:] != shape or batch.shape[0] not in self.batches or batch.dtype.kind != "f":
            needed = f"floats ({' or '.join(map(str, self.batches))}, {', '.join(map(str, shape))})"
            seen, remedy = f"{batch.dtype} {batch.shape}", "Pad the tiles, and use a batch size of the bundle."
            raise InputError("cannot run a batch", seen=seen, needed=needed, remedy=remedy)
        result = self._execute(batch)
        expected = (len(batch), 3, shape[1] * self.tile.scale, shape[2] * self.tile.scale)
        if result.shape != expected:
            remedy = "Build the bundle again with trt-build."
            raise RuntimeFault(
                "the engine answered in another shape", seen=result.shape, needed=expected, remedy=remedy
            )
        for item, pixels in enumerate(result):
            if not np.isfinite(pixels).all():
                bad = int(pixels.size - np.isfinite(pixels).sum())
                which = names[item] if names else f"item {item} of the batch"
                seen = f"{bad} of {pixels.size} values NaN or infinite"
                remedy = "Build with --precision fp32: half precision overflowed, or the weights are damaged."
                raise RuntimeFault(f"the engine failed on {which}", seen=seen, needed="finite values", remedy=remedy)
        return result

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
