"""A view: the visible crop of one frame as pixels, from the tiles that are there and the frame itself.

    view = share * tiles + (1 - share * cover) * plain

`tiles` is the blend of the tiles at hand, resampled to the output in one step each; `cover` is the blend weight that
they reach at each output pixel, 1 where none is missing; `plain` is the frame, resampled bicubically; `share` is the
network's weight at this magnification. A missing tile therefore shows as bicubic, with the blend's own soft seams, and
nothing else in the view changes when it arrives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import ColourFacts, TileFacts
from zoomrt.runtime.sizes import bands
from zoomrt.runtime.tiles import noise
from zoomrt.runtime.tiles.colour import corrected
from zoomrt.runtime.tiles.moments import Moments
from zoomrt.runtime.tiles.plan import AxisPlan, TilePlan, plan
from zoomrt.runtime.tiles.resample import BICUBIC, LANCZOS, Axis, Band, add_resampled, axis_sum, cut, outputs, plan_axis
from zoomrt.runtime.zoom.crop import Crop, centre_first, crop_of, lr_range, needed_spans, network_share
from zoomrt.runtime.zoom.tile_cache import Codes, code_white

_STRIP = 64
"""Rows of a strip: those of a 1080p view take 1.5 MB (`benchmarks/zoom.py` has the time)."""


@dataclass(frozen=True, eq=False)
class View:
    """What one crop needs, and how its pixels are made. Holds no pixels, so one may serve many frames."""

    crop: Crop
    output: tuple[int, int]
    """(height, width) in pixels."""
    share: float
    facts: TileFacts
    tiles: TilePlan
    """Of the whole frame."""
    needed: tuple[int, ...]
    """Indices of the tiles that are shown, the middle one first; none where `share` is 0."""
    window: tuple[slice, slice]
    """Rows and columns of the frame that the tiles and the plain resample read."""
    axes: tuple[Axis, Axis]
    """Rows and columns from the network's picture of the whole frame to the output."""
    plain_axes: tuple[Axis, Axis]
    """The same from the frame."""
    _bands: dict[tuple[int, int], tuple[list[Band], slice]] = field(default_factory=dict, init=False)

    def place(self, index: int) -> tuple[int, ...]:
        """Which tile of which grid: a frame of another size has other tiles, and so has an engine of other ones."""
        return self.tiles.rows.size, self.tiles.columns.size, self.facts.height, self.facts.width, index

    def tile_input(self, window: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        """What tile `index` reads, (3, tile height, tile width) in [0, 1], mirrored beyond the frame; a copy.

        window : (3, rows, columns) float32 in [0, 1], the part of the frame that `self.window` names.
        """
        row, column = self.tiles.position(index)
        rows = _indices(self.tiles.rows, row, self.window[0].start)
        columns = _indices(self.tiles.columns, column, self.window[1].start)
        return window[:, rows][:, :, columns].copy()

    def network_input(self, source: NDArray[np.float32], index: int, out: NDArray[np.float32]) -> None:
        """Fill `out`, (facts.channels, tile height, tile width), from a tile's input, in the network's values."""
        low, high = self.facts.value_range
        np.multiply(source, np.float32(high - low), out=out[:3])
        out[:3] += np.float32(low)
        if self.facts.noise is not None:
            noise.gather(self.facts.noise, self.tiles, index, out[3:])

    @property
    def strips(self) -> list[slice]:
        """The view's rows in parts that fit a processor's cache; one part where the colour step looks at all of them.

        Taken as a whole, each step of a 1080p view would send 25 MB through memory.
        """
        height = self.output[0]
        return list(bands(height, _STRIP if self.facts.colour.method == "none" else height))

    def compose(
        self, window: NDArray[np.float32], tiles: Mapping[int, Codes], rows: slice | None = None
    ) -> NDArray[np.float32]:
        """Rows of the view, (3, rows, width) float32 in [0, 1].

        window : as for `tile_input`. tiles : index -> (3, tile height * scale, tile width * scale) codes, any part of
            `needed`; none gives the plain bicubic view.
        rows : which ones; None means all, and with a colour step only that is right.
        """
        rows = rows or slice(0, self.output[0])
        if not tiles:
            return _clip(self._plain(window, rows))
        network = self._blend(tiles, rows)
        alone = self.share == 1 and len(tiles) == len(self.needed)
        if alone and self.facts.colour.method == "none":
            return _clip(network)
        plain, cover = self._plain(window, rows), self._cover(tiles, rows)
        if self.facts.colour.method != "none":
            network += (1 - cover) * plain
            cover.fill(1)
            self._match_colours(network, plain, window)
        if alone:
            return network
        plain *= 1 - np.float32(self.share) * cover
        network *= np.float32(self.share)
        network += plain
        return _clip(network)

    def _plain(self, window: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        out = np.zeros((3, rows.stop - rows.start, self.output[1]), np.float32)
        down, across = self._plain_bands
        add_resampled(window, outputs(down, rows), across, out)
        return out

    def _blend(self, tiles: Mapping[int, Codes], rows: slice) -> NDArray[np.float32]:
        """The tiles' part of the view; raster order, so that the same tiles give the same bits."""
        out = np.zeros((3, rows.stop - rows.start, self.output[1]), np.float32)
        for index in sorted(tiles):
            (down, top), (across, left) = self._tile_bands(index)
            add_resampled(tiles[index][:, top, left], outputs(down, rows), across, out, 1 / code_white(self.facts))
        return out

    def _cover(self, tiles: Mapping[int, Codes], rows: slice) -> NDArray[np.float32]:
        """What the blend weights of these tiles add up to, (rows, width)."""
        cover = np.zeros((rows.stop - rows.start, self.output[1]), np.float32)
        for index in sorted(tiles):
            (down, _), (across, _) = self._tile_bands(index)
            part = outputs(down, rows)
            if part:
                cover += np.outer(axis_sum(part, len(cover)), axis_sum(across, self.output[1]))
        return cover

    def _match_colours(
        self, network: NDArray[np.float32], plain: NDArray[np.float32], window: NDArray[np.float32]
    ) -> None:
        """Bring the view to the colours of the frame, in place: the model's colour step, over what is visible."""
        tops = (self.crop.top - self.window[0].start, self.crop.left - self.window[1].start)
        rows, columns = (
            slice(int(top), math.ceil(top + length))
            for top, length in zip(tops, (self.crop.height, self.crop.width), strict=True)
        )
        reference = _ViewReference(plain, window[:, rows, columns], self.facts.colour)
        whole = slice(0, network.shape[1]), slice(0, network.shape[2]), network
        out = network.transpose(1, 2, 0)
        for rows, columns, block in corrected([whole], reference, out, self.facts.colour):
            np.clip(block, 0, 1, out=network[:, rows, columns])

    @cached_property
    def _plain_bands(self) -> tuple[list[Band], list[Band]]:
        """Rows and columns, from the window."""
        down, across = (
            cut(axis, part.start, np.ones(part.stop - part.start, np.float32))
            for axis, part in zip(self.plain_axes, self.window, strict=True)
        )
        return down, across

    def _tile_bands(self, index: int) -> tuple[tuple[list[Band], slice], tuple[list[Band], slice]]:
        """For rows and for columns: a tile's part of the axis, and which of the tile's pixels it counts from."""
        row, column = self.tiles.position(index)
        return self._bands_of(0, row), self._bands_of(1, column)

    def _bands_of(self, side: int, chosen: int) -> tuple[list[Band], slice]:
        if (side, chosen) not in self._bands:
            part = (self.tiles.rows, self.tiles.columns)[side]
            span = part.spans[chosen]
            bands = cut(self.axes[side], span.start, part.weights(chosen)[span.start : span.stop])
            self._bands[side, chosen] = bands, slice(span.offset, span.offset + span.stop - span.start)
        return self._bands[side, chosen]


class _ViewReference:
    """Whose colours a view takes, see `reference.Reference`: `plain` is the crop at the view's size, `crop` as it is.

    One enlargement serves all models here: a view is no size that the authors of any have.
    """

    def __init__(self, plain: NDArray[np.float32], crop: NDArray[np.float32], colour: ColourFacts) -> None:
        self._plain, self._crop, self._colour = np.clip(plain, 0, 1), crop, colour

    def moments(self) -> Moments:
        picture = self._crop if self._colour.reference == "input" else self._plain
        moments = Moments(3)
        moments.add(picture)
        return moments

    def rows(self, first: int, stop: int) -> NDArray[np.float32]:
        return self._plain[:, first:stop].copy()


def view_of(
    frame: tuple[int, int],
    output: tuple[int, int],
    facts: TileFacts,
    zoom: float,
    centre: tuple[float, float],
    pixel_aspect: float = 1.0,
) -> View:
    """Plan a view; arguments as for `crop_of`, whose errors it raises."""
    crop = crop_of(frame, output, zoom, centre, pixel_aspect)
    tiles = plan(*frame, facts)
    share = network_share(max(output[0] / crop.height, output[1] / crop.width))
    parts = ((crop.top, crop.height, output[0], tiles.rows), (crop.left, crop.width, output[1], tiles.columns))
    plain_axes, axes, windows, spans = [], [], [], []
    for start, length, count, axis in parts:
        plain = plan_axis(start, start + length, count, axis.size, BICUBIC)
        first, stop, scale = plain.first, plain.stop, facts.scale
        network = plan_axis(start * scale, (start + length) * scale, count, axis.size * scale, LANCZOS)
        chosen = needed_spans(axis, network.first, network.stop)
        if share > 0:
            low, high = lr_range(axis, chosen)
            first, stop = min(first, low), max(stop, high)
        plain_axes.append(plain)
        axes.append(network)
        windows.append(slice(first, stop))
        spans.append(chosen)
    needed = centre_first(tiles, spans[0], spans[1], crop) if share > 0 else []
    return View(
        crop=crop,
        output=output,
        share=share,
        facts=facts,
        tiles=tiles,
        needed=tuple(needed),
        window=(windows[0], windows[1]),
        axes=(axes[0], axes[1]),
        plain_axes=(plain_axes[0], plain_axes[1]),
    )


def _indices(axis: AxisPlan, index: int, first: int) -> slice | NDArray[np.intp]:
    """Where a tile's pixels are in a window that begins at `first`."""
    found = axis.indices(index)
    return slice(found.start - first, found.stop - first) if isinstance(found, slice) else found - first


def _clip(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.clip(picture, 0, 1, out=picture)
