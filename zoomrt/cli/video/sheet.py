"""A side-by-side picture: labelled columns, the same region enlarged below each. Drawing only, for the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[Any]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

GAP = 12
LABEL_HEIGHT = 44
FONT_SIZE = 24
PAPER, INK, FRAME = (255, 255, 255), (20, 20, 20), (230, 60, 40)


def sheet(columns: Sequence[tuple[str, Pixels]], crop: Box, *, whole: bool = True) -> Image.Image:
    """Draw columns of equal size side by side, each with its label above and its crop enlarged to the same width.

    columns : (label, (H, W, 3) uint8), all of one size.
    whole : False leaves out the whole pictures and draws the enlarged crops only.
    """
    pictures = [Image.fromarray(pixels) for _, pixels in columns]
    width, height = pictures[0].size
    left, top, right, bottom = crop
    crop_height = round(width * (bottom - top) / (right - left))
    rows = ([height] if whole else []) + [crop_height]
    size = (len(columns) * (width + GAP) + GAP, LABEL_HEIGHT + sum(row + GAP for row in rows))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(FONT_SIZE)
    for column, ((label, _), picture) in enumerate(zip(columns, pictures, strict=True)):
        x, y = GAP + column * (width + GAP), LABEL_HEIGHT
        draw.text((x, LABEL_HEIGHT // 2), label, fill=INK, font=font, anchor="lm")
        if whole:
            canvas.paste(picture, (x, y))
            draw.rectangle((x + left, y + top, x + right, y + bottom), outline=FRAME, width=2)
            y += height + GAP
        # nearest neighbour, so that every pixel of the result can be seen
        canvas.paste(picture.crop(crop).resize((width, crop_height), Image.Resampling.NEAREST), (x, y))
    return canvas
