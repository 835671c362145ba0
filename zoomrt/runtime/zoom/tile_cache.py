"""Finished tiles, kept for the frames that come: a tile whose input did not change is not computed again.

A tile is found by its place in the frame and by the content of its input, compared pixel by pixel: there is no hash,
so there is no collision, and what comes back is what the engine would give. Pixels are kept in 16 bits, half the memory
of the engine's floats, at 1/257 of an 8-bit step (1/64 where the colour step looks beyond black and white); computed
and reused tiles go through the same rounding, so both give the same bits. The least recently used tiles go first once
`limit_bytes` is reached, but never one of the view that is shown now: a view that lost its tiles while others come
would never be whole.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.runtime.tiles.colour import takes_codes
from zoomrt.runtime.tiles.pixels import FIXED_WHITE, to_codes, values_of

Codes = NDArray[np.uint16] | NDArray[np.int16]
_BLOCK = 8  # pixels a side over which a change is averaged: larger than noise, smaller than what moves


@dataclass(frozen=True, eq=False)
class _Entry:
    source: NDArray[np.float32]
    codes: Codes

    @property
    def bytes(self) -> int:
        return self.source.nbytes + self.codes.nbytes


class TileCache:
    """Tiles by place, which may be anything that tells one tile of a grid from another. Threads may share it.

    limit_bytes : of inputs and pixels together. Tiles that are pinned stay, also where they alone take more.
    tolerance : largest change of an input, in [0, 1], that still counts as unchanged; 0 demands the same bits. See
        `largest_change`.
    """

    def __init__(self, limit_bytes: int, tolerance: float = 0.0) -> None:
        self._limit, self._tolerance = limit_bytes, tolerance
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._pinned: frozenset[Hashable] = frozenset()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is held now."""
        return self._bytes

    def get(self, place: Hashable, source: NDArray[np.float32]) -> Codes | None:
        """The pixels of the tile at `place` if they were made from `source`, else None."""
        with self._lock:
            entry = self._entries.get(place)
            if entry is None:
                return None
            self._entries.move_to_end(place)
        return entry.codes if unchanged(entry.source, source, self._tolerance) else None

    def put(self, place: Hashable, source: NDArray[np.float32], codes: Codes) -> None:
        """Keep a tile; the arrays are kept, not copied, and must not be written to afterwards."""
        entry = _Entry(source, codes)
        with self._lock:
            old = self._entries.pop(place, None)
            self._bytes += entry.bytes - (old.bytes if old else 0)
            self._entries[place] = entry
            self._trim()

    def pin(self, places: Iterable[Hashable]) -> None:
        """Keep the tiles at these places, there or to come, whatever the limit; those pinned before are let go."""
        with self._lock:
            self._pinned = frozenset(places)
            self._trim()

    def _trim(self) -> None:
        for place in [place for place in self._entries if place not in self._pinned]:  # the least recently used first
            if self._bytes <= self._limit:
                return
            self._bytes -= self._entries.pop(place).bytes

    def clear(self) -> None:
        """Forget every tile, and what was pinned."""
        with self._lock:
            self._pinned = frozenset()
            self._entries.clear()
            self._bytes = 0


def unchanged(before: NDArray[np.float32], now: NDArray[np.float32], tolerance: float) -> bool:
    """Whether two inputs, (channels, H, W) in [0, 1], are the same, or nearly."""
    return np.array_equal(before, now) or (tolerance > 0 and largest_change(before, now) <= tolerance)


def largest_change(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """The largest mean absolute difference of any 8x8 block, all channels together; sides are cut to whole blocks.

    Noise of standard deviation s gives about 1.13 s (the mean of |N(0, 2 s^2)|) and little more, as 192 values are
    averaged; an edge that moves by a pixel gives a part of its contrast. Sides below 8 count as one block.
    """
    channels, height, width = before.shape
    rows, columns = min(_BLOCK, height), min(_BLOCK, width)
    high, wide = height // rows * rows, width // columns * columns
    difference = np.abs(before[:, :high, :wide] - now[:, :high, :wide])
    blocks = difference.reshape(channels, high // rows, rows, wide // columns, columns)
    return float(blocks.mean(axis=(0, 2, 4)).max())


def code_white(tile: TileFacts) -> int:
    """The code of white in `codes_of`."""
    return 65535 if takes_codes(tile.colour) else FIXED_WHITE


def codes_of(pixels: NDArray[Any], tile: TileFacts) -> Codes:
    """An engine's tile, (3, H, W) in tile.value_range, as 16-bit codes.

    uint16 from black to white, or int16 in fixed point where the colour step looks at what lies beyond them.
    """
    white = code_white(tile)
    values = values_of(pixels.astype(np.float32), tile, 3, white)
    codes: Codes = np.empty(values.shape, np.uint16) if takes_codes(tile.colour) else np.empty(values.shape, np.int16)
    to_codes(values, codes)
    return codes
