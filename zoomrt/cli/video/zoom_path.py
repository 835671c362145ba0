"""The way of a zoom over time: keyframes, and the zoom and centre at any second between them. Pure arithmetic.

Between two keyframes the zoom grows by equal factors in equal times, which looks like a steady movement, and the centre
moves so that its path on the screen is straight too: in step with the crop's side, which is 1 / zoom.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from zoomrt.cli.options.numbers import bad_value, number

Centre = tuple[float, float]
_REMEDY = "Write --zoom 1:8 or --keyframes '0=1 3=8@0.6,0.4'."


@dataclass(frozen=True)
class Keyframe:
    """Zoom and centre, (x, y) in [0, 1], at `seconds` from the start."""

    seconds: float
    zoom: float
    centre: Centre


class ZoomPath:
    """Keyframes in order of time; before the first and after the last nothing moves."""

    def __init__(self, keyframes: Sequence[Keyframe]) -> None:
        self.keyframes = tuple(keyframes)

    def at(self, seconds: float) -> tuple[float, Centre]:
        """Zoom and centre at a time."""
        frames = self.keyframes
        if seconds <= frames[0].seconds:
            return frames[0].zoom, frames[0].centre
        for before, after in itertools.pairwise(frames):
            if seconds < after.seconds:
                share = (seconds - before.seconds) / (after.seconds - before.seconds)
                zoom = _between(before.zoom, after.zoom, before.zoom * (after.zoom / before.zoom) ** share)
                if abs(after.zoom / before.zoom - 1) > 1e-6:
                    share = (1 / before.zoom - 1 / zoom) / (1 / before.zoom - 1 / after.zoom)
                x, y = (_between(a, b, a + share * (b - a)) for a, b in zip(before.centre, after.centre, strict=True))
                return zoom, (x, y)
        return frames[-1].zoom, frames[-1].centre


def parse_path(zoom: str, centre: str, seconds: float | None) -> ZoomPath:
    """A path from `--zoom 1:8` or `4` and `--centre 0.6,0.4` or `0.5,0.5:0.6,0.4`.

    seconds : how long it takes; None where it is not known, which only a path that stands still may be.

    Raises UsageError.
    """
    zooms = [_zoom(text, "--zoom", zoom) for text in zoom.split(":")]
    centres = [_centre(text, centre) for text in centre.split(":")]
    for option, values, text in (("--zoom", zooms, zoom), ("--centre", centres, centre)):
        if len(values) > 2:
            raise bad_value(option, text, "one value, or two with a colon between", "For more, use --keyframes.")
    first = Keyframe(0.0, zooms[0], centres[0])
    if len(zooms) == len(centres) == 1:
        return ZoomPath([first])
    if seconds is None:
        raise bad_value(
            "--zoom", zoom, "an input of known length, or --seconds", "Add --seconds, the length of the zoom."
        )
    return ZoomPath([first, Keyframe(max(seconds, 1e-6), zooms[-1], centres[-1])])


def parse_keyframes(text: str) -> ZoomPath:
    """A path from words such as `0=1@0.5,0.5 2.5=8@0.6,0.4`: second = zoom @ x,y. Raises UsageError."""
    frames = []
    for word in text.split():
        seconds, _, rest = word.partition("=")
        zoom, _, centre = rest.partition("@")
        number = _zoom(zoom, "--keyframes", word)
        frames.append(Keyframe(_number(seconds, "--keyframes", word), number, _centre(centre or "0.5,0.5", word)))
    if not frames or any(a.seconds >= b.seconds for a, b in itertools.pairwise(frames)):
        raise bad_value(
            "--keyframes", text, "SECOND=ZOOM@X,Y words, each later than the one before", "Sort them by time."
        )
    return ZoomPath(frames)


def _between(one: float, other: float, value: float) -> float:
    """`value`, which lies between two others but for rounding: a zoom of 1 - 1e-16 would be refused."""
    return min(max(value, min(one, other)), max(one, other))


def _number(text: str, option: str, whole: str) -> float:
    try:
        return number(text, 0, 1e9)
    except ValueError as cause:
        raise bad_value(option, whole, "numbers, 0 or more", _REMEDY) from cause


def _zoom(text: str, option: str, whole: str) -> float:
    from zoomrt.runtime.zoom.crop import MAX_ZOOM

    value = _number(text, option, whole)
    if not 1 <= value <= MAX_ZOOM:
        raise bad_value(option, whole, f"zooms of 1 to {MAX_ZOOM:g}", _REMEDY)
    return value


def _centre(text: str, whole: str) -> Centre:
    values = [_number(part, "--centre", whole) for part in text.split(",")]
    if len(values) != 2 or max(values) > 1:
        raise bad_value("--centre", whole, "X,Y from 0 to 1", "Write --centre 0.6,0.4: fractions of width and height.")
    return values[0], values[1]
