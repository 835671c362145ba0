"""The tile plan: which pixels each tile reads, which output pixels it answers for, and with what weight.

Pure arithmetic, no frame is touched. An axis is cut into tiles of `tile` LR pixels that share `overlap`; the last
one is flush with the edge. A seam lies between two neighbours, inside their overlap and `context` LR pixels away from
either cut, because a tile's pixels near its cut saw the network's zero padding. Across the seam the weight of the one
falls and that of the other rises; elsewhere exactly one tile per axis has weight one. A picture smaller than the tile
lies in the middle of it, mirrored outwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    origin : first LR pixel of the tile; negative only where the picture is smaller than the tile.
    start, stop : output pixels of the frame for which the tile has a weight above zero.
    rise, fall : output pixels at the start and at the stop that are shared with the neighbour; 0 at the frame's edge.
    offset : output pixel of the tile that lands on `start`.
    """

    origin: int
    start: int
    stop: int
    rise: int
    fall: int
    offset: int

    @property
    def done(self) -> int:
        """End of the output pixels that no later tile changes."""
        return self.stop - self.fall


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """All tiles along one axis, in order. `size` and `tile` in LR pixels, spans in output pixels."""

    size: int
    tile: int
    scale: int
    spans: tuple[Span, ...]
    ramp: NDArray[np.float32]
    """Rising weight across a seam, (pixels,) float32 in (0, 1); the falling neighbour has `fade` = 1 - ramp."""

    @cached_property
    def fade(self) -> NDArray[np.float32]:
        return np.float32(1) - self.ramp

    def weights(self, index: int) -> NDArray[np.float32]:
        """Weight of one tile along the whole axis, (size * scale,) float32: what the blend does, spelled out."""
        span = self.spans[index]
        weight = np.zeros(self.size * self.scale, np.float32)
        weight[span.start : span.stop] = 1
        weight[span.start : span.start + span.rise] = self.ramp[: span.rise]
        weight[span.done : span.stop] = self.fade[: span.fall]
        return weight

    def indices(self, index: int) -> slice | NDArray[np.intp]:
        """LR pixels that one tile reads: a slice, or mirrored indices where it reaches beyond the picture."""
        origin = self.spans[index].origin
        if origin >= 0 and origin + self.tile <= self.size:
            return slice(origin, origin + self.tile)
        return reflect_indices(origin, self.tile, self.size)


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Tiles of a frame, in raster order: tile `i` is row `i // len(columns.spans)` and column the rest."""

    rows: AxisPlan
    columns: AxisPlan

    def __len__(self) -> int:
        return len(self.rows.spans) * len(self.columns.spans)

    def position(self, index: int) -> tuple[int, int]:
        """(row, column) of a tile in the grid."""
        return divmod(index, len(self.columns.spans))

    def name(self, index: int) -> str:
        """A tile in words, for error messages."""
        row, column = self.position(index)
        y, x = self.rows.spans[row].origin, self.columns.spans[column].origin
        size = f"{self.columns.tile}x{self.rows.tile}"
        return f"tile {index + 1} of {len(self)} ({size} input pixels at x={x}, y={y})"


def plan(height: int, width: int, tile: TileFacts) -> TilePlan:
    """Cut a frame of (height, width) LR pixels, each at least 1, into tiles."""
    return TilePlan(
        _axis(height, tile.height, tile.overlap, tile.context, tile.scale),
        _axis(width, tile.width, tile.overlap, tile.context, tile.scale),
    )


def _axis(size: int, tile: int, overlap: int, context: int, scale: int) -> AxisPlan:
    stride = tile - overlap
    # A ramp longer than the stride would reach into the next seam; then the pixels before it belong to one tile alone.
    length = min(overlap - 2 * context, stride) * scale
    ramp = ((np.arange(length) + 0.5) / length).astype(np.float32)
    if size <= tile:
        before = (tile - size) // 2
        return AxisPlan(size, tile, scale, (Span(-before, 0, size * scale, 0, 0, before * scale),), ramp)
    count = -(-(size - tile) // stride) + 1
    origins = [min(index * stride, size - tile) for index in range(count)]
    # Seam k ends `context` before the cut of tile k. Tile k is at k * stride, so seams are one stride apart.
    seam_stops = [(origin + tile - context) * scale for origin in origins[:-1]]
    spans = []
    for index, origin in enumerate(origins):
        start = seam_stops[index - 1] - length if index else 0
        stop = seam_stops[index] if index < count - 1 else size * scale
        rise, fall = (length if index else 0), (length if index < count - 1 else 0)
        spans.append(Span(origin, start, stop, rise, fall, start - origin * scale))
    return AxisPlan(size, tile, scale, tuple(spans), ramp)


def reflect_indices(origin: int, count: int, size: int) -> NDArray[np.intp]:
    """Indices origin .. origin + count - 1 into an axis of `size`, mirrored about its first and last pixel.

    The same pixels as `np.pad(..., mode="reflect")`, which turns back as often as needed; a single pixel is repeated.
    """
    if size == 1:
        return np.zeros(count, np.intp)
    period = 2 * (size - 1)
    phase = np.arange(origin, origin + count, dtype=np.intp) % period
    return np.minimum(phase, period - phase)
