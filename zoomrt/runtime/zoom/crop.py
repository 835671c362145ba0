"""The visible crop: which part of a frame a zoom shows, and which tiles and pixels of the frame that part needs.

Pure arithmetic, exact below the pixel. Positions are in frame pixels, whose edges lie at whole numbers. The tiles are
those of a plan of the whole frame, so they stay where they are while the crop moves over them: a pan finds again
what was computed, and a tile that comes into view enters with its own blend weight, not with a new seam.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from zoomrt.errors import InputError
from zoomrt.runtime.checks import brief, within
from zoomrt.runtime.tiles.plan import AxisPlan, TilePlan

MAX_ZOOM = 64.0
"""Largest zoom: beyond it a 1080p view shows 30 frame pixels."""

FULL_SHARE = 1.5
"""Output pixels per frame pixel from which on the network alone makes the picture."""


@dataclass(frozen=True)
class Crop:
    """A part of a frame: first row and column and size, in frame pixels, with fractions."""

    top: float
    left: float
    height: float
    width: float


def crop_of(
    frame: tuple[int, int],
    output: tuple[int, int],
    zoom: float,
    centre: tuple[float, float] = (0.5, 0.5),
    pixel_aspect: float = 1.0,
) -> Crop:
    """The part of a frame that is shown.

    frame, output : (height, width) in pixels. At zoom 1 the crop is the largest part of the frame with the shape of
        the output, so a 4:3 frame loses rows on a 16:9 view.
    zoom : 1 to MAX_ZOOM; the crop's sides are divided by it.
    centre : (x, y) of the crop's middle, each a fraction of the frame in [0, 1]; the crop is moved to stay inside.
    pixel_aspect : width of the frame's pixels over their height; those of the output are square.

    Raises InputError for a zoom or centre that is no number, out of range or not finite.
    """
    zoom, centre = checked_zoom(zoom, centre)
    scale = min(frame[0] / output[0], frame[1] * pixel_aspect / output[1]) / zoom  # frame rows for each output pixel
    height = min(output[0] * scale, frame[0])  # larger by rounding only
    width = min(output[1] * scale / pixel_aspect, frame[1])
    top = max(min(centre[1] * frame[0] - height / 2, frame[0] - height), 0.0)
    left = max(min(centre[0] * frame[1] - width / 2, frame[1] - width), 0.0)
    return Crop(top, left, height, width)


def checked_zoom(zoom: object, centre: object) -> tuple[float, tuple[float, float]]:
    """Zoom and centre as floats; arguments and errors as for `crop_of`."""
    if not within(zoom, 1, MAX_ZOOM):
        seen, needed = f"zoom {brief(zoom)}", f"a number from 1 to {MAX_ZOOM:g}"
        raise InputError("cannot zoom", seen=seen, needed=needed, remedy="Clamp what the fingers ask for.")
    middle = tuple(centre) if isinstance(centre, Iterable) else ()
    if len(middle) != 2 or not all(within(value, 0, 1) for value in middle):
        seen, needed = f"centre {brief(centre)}", "two numbers, x and y as fractions of the frame, 0 to 1"
        raise InputError("cannot zoom there", seen=seen, needed=needed, remedy="Divide by the size.")
    return float(zoom), (float(middle[0]), float(middle[1]))  # type: ignore[arg-type]


def network_share(magnification: float) -> float:
    """Weight of the network's picture in the view, 0 to 1; the rest is the resampled frame.

    magnification : output pixels per frame pixel. Up to 1 the frame holds every detail that the output can show, and
    the network is not needed; from FULL_SHARE on it is all there is. Between, a smooth step (zero slope at both
    ends), so that sharpness does not jump when the zoom passes 1.
    """
    position = min(max((magnification - 1) / (FULL_SHARE - 1), 0.0), 1.0)
    return position * position * (3 - 2 * position)


def needed_spans(axis: AxisPlan, first: int, stop: int) -> range:
    """Tiles of one axis that have a weight above zero in output pixels `first` .. `stop - 1` of the whole frame."""
    chosen = [index for index, span in enumerate(axis.spans) if span.start < stop and span.stop > first]
    return range(chosen[0], chosen[-1] + 1)


def lr_range(axis: AxisPlan, chosen: range) -> tuple[int, int]:
    """First and one past the last frame pixel that these tiles read."""
    low = min(axis.spans[index].origin for index in chosen)
    high = max(axis.spans[index].origin for index in chosen) + axis.tile
    return max(low, 0), min(high, axis.size)


def centre_first(plan: TilePlan, rows: range, columns: range, crop: Crop) -> list[int]:
    """Indices of these tiles, nearest to the middle of the crop first; raster order among equals."""
    y, x = crop.top + crop.height / 2, crop.left + crop.width / 2

    def distance(index: int) -> float:
        row, column = plan.position(index)
        tile_y = plan.rows.spans[row].origin + plan.rows.tile / 2
        tile_x = plan.columns.spans[column].origin + plan.columns.tile / 2
        return math.hypot(tile_y - y, tile_x - x)

    wide = len(plan.columns.spans)
    return sorted((row * wide + column for row in rows for column in columns), key=distance)
