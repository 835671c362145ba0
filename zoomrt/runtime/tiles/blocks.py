"""Blocks: how a finished picture travels from the blend to the frame, in parts, so that it is never whole in memory.

A block is (rows, columns, pixels): where it lies and its values there, (channels, rows, columns) float32, black 0 and
white 1, not cut to that range. Blocks come in raster order; those beside each other have the same rows, and the last of
them ends with the picture's right edge. A step (`resized`, `colour.corrected`) takes blocks and gives blocks, which may
be its own buffers: use each before the next one is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.tiles.resample import LANCZOS, Band, add_resampled, cut, outputs, plan_axis

Block = tuple[slice, slice, NDArray[np.float32]]


class RowBuffer:
    """Some rows of a picture, over its whole width: new ones come at the bottom, old ones are dropped at the top.

    first, stop : the picture's rows that it holds.
    """

    def __init__(self, channels: int, width: int) -> None:
        self.first = self.stop = 0
        self._pixels = np.zeros((channels, 0, width), np.float32)

    def rows(self, first: int, stop: int) -> NDArray[np.float32]:
        """Rows of the picture, (channels, rows, width): a view, good until the next `grow` or `drop`."""
        return self._pixels[:, first - self.first : stop - self.first]

    def grow(self, stop: int) -> None:
        """Make room for rows before `stop`; new ones are 0."""
        held, room = self.stop - self.first, max(stop - self.first, 0)
        if room > self._pixels.shape[1]:
            larger = np.zeros((self._pixels.shape[0], room, self._pixels.shape[2]), np.float32)
            larger[:, :held] = self._pixels[:, :held]
            self._pixels = larger
        elif stop > self.stop:
            self._pixels[:, held:room] = 0
        self.stop = max(self.stop, stop)

    def drop(self, first: int) -> None:
        """Let go of the rows before `first`."""
        if first > self.first:
            kept = self.stop - first
            self._pixels[:, :kept] = self.rows(first, self.stop).copy()
            self.first = first


def resized(
    blocks: Iterable[Block], channels: int, source: tuple[int, int], target: tuple[int, int]
) -> Iterator[Block]:
    """The picture of `blocks`, (height, width) `source`, at another size: Lanczos (a = 3), wider where it shrinks, as
    Pillow has it. Holds the rows of the target that blocks of one height have a part in.
    """
    down, across = (plan_axis(0, old, new, old, LANCZOS) for old, new in zip(source, target, strict=True))
    columns_of: dict[int, list[Band]] = {}
    rows_of: tuple[slice | None, list[Band]] = (None, [])
    buffer = RowBuffer(channels, target[1])
    for rows, columns, block in blocks:
        if rows_of[0] != rows:
            rows_of = rows, cut(down, rows.start, np.ones(rows.stop - rows.start, np.float32))
        if columns.start not in columns_of:
            columns_of[columns.start] = cut(across, columns.start, np.ones(columns.stop - columns.start, np.float32))
        bands = rows_of[1]
        if bands:
            stop = bands[-1].start + len(bands[-1].matrix)
            buffer.grow(max(stop, buffer.stop))
            shifted = outputs(bands, slice(buffer.first, stop))
            add_resampled(block, shifted, columns_of[columns.start], buffer.rows(buffer.first, buffer.stop))
        if columns.stop == source[1]:
            final = int(np.searchsorted(down.stops, rows.stop, side="right"))  # outputs that need no row to come
            yield slice(buffer.first, final), slice(0, target[1]), buffer.rows(buffer.first, final)
            buffer.drop(final)
