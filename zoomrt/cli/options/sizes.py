"""The options that say how large results are to be: --scale, --size and --longest, of which one may be given."""

from __future__ import annotations

from fractions import Fraction

import click

from zoomrt.cli.options.numbers import Parsed, Whole, fraction, whole
from zoomrt.errors import UsageError
from zoomrt.runtime.sizes import MAX_RESULT_PIXELS, MAX_RESULT_SIDE, ResultSize

MOST_TIMES = 1000


def sides(text: str, most: int) -> tuple[int, int]:
    """`1280x720` -> (1280, 720), each up to `most`. Raises ValueError."""
    width, height = (whole(word, 1, most) for word in text.lower().split("x"))
    return width, height


def _result_sides(text: str) -> tuple[int, int]:
    width, height = sides(text, MAX_RESULT_SIDE)
    if width * height > MAX_RESULT_PIXELS:
        raise ValueError(text)
    return width, height


scale_option = click.option(
    "--scale",
    type=Parsed(
        lambda text: fraction(text, 1 / MOST_TIMES, MOST_TIMES), f"a number from 0.001 to {MOST_TIMES}, such as 6.5"
    ),
    help="Times the picture's size, such as 2 or 6.5; the model's scale if left out.",
)
size_option = click.option(
    "--size",
    type=Parsed(
        _result_sides,
        f"two sides from 1 to {MAX_RESULT_SIDE}, {MAX_RESULT_PIXELS // 10**6} million pixels in all, such as 3840x2160",
    ),
    help="Exactly so large, such as 3840x2160; pictures of another shape are refused.",
)
longest_option = click.option(
    "--longest", type=Whole(1, MAX_RESULT_SIDE), help="So long on the longer side, in pixels; the other follows."
)


def result_size(scale: Fraction | None, size: tuple[int, int] | None, longest: int | None) -> ResultSize | None:
    """What was asked for; None for the model's own scale. Raises UsageError for more than one of them."""
    given = {
        name: value
        for name, value in (("--scale", scale), ("--size", size), ("--longest", longest))
        if value is not None
    }
    if len(given) > 1:
        remedy = "Leave the others out."
        raise UsageError("cannot follow two sizes at once", seen=" and ".join(given), needed="one", remedy=remedy)
    return ResultSize(scale, size, longest) if given else None
