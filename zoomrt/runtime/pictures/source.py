"""A picture file that is open: what its header says, and how to get at its pixels. The common form of all decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]
Planes = tuple[Pixels, Pixels | None]
"""(H, W, 3) RGB or (H, W) grey, and alpha, (H, W), straight, or None; uint8 or uint16."""

AT_8_BITS = "its 16 bits a channel are read as 8; to keep them: pip install 'zoomrt[deep]'"
"""Note where the library for 16-bit colour is not installed."""
TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap width and height."""


@dataclass(frozen=True)
class PictureFacts:
    """What the header of a picture file says: enough to know whether a result fits into a format.

    height, width : of the upright picture. channels : 1 or 3. deep : 16 bits a channel. alpha : beside them.
    """

    height: int
    width: int
    channels: int
    deep: bool
    alpha: bool


@dataclass(frozen=True)
class Raw:
    """Metadata as it was found, not checked. info : blocks as Pillow names them. exif : parses it, may raise anything.
    tags : of a TIFF."""

    info: Mapping[Any, Any] = field(default_factory=dict)
    exif: Callable[[], Image.Exif] = Image.Exif
    tags: Mapping[int, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A picture whose header was read and whose pixels were not.

    orientation : EXIF's, 1 to 8, of the stored picture.
    decode : gives the upright planes; takes notes. raw : gives the metadata, after decoding.
    """

    facts: PictureFacts
    orientation: int
    decode: Callable[[list[str]], Planes]
    raw: Callable[[], Raw]


def upright(planes: Planes, orientation: int) -> Planes:
    """Views of stored planes as they are to be seen (EXIF 2.3, 4.6.4)."""
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    pixels, alpha = (
        None if plane is None else (plane.swapaxes(0, 1) if orientation in TURNED else plane)[::down, ::across]
        for plane in planes
    )
    assert pixels is not None
    return pixels, alpha


def stretched(values: NDArray[Any], white: int) -> NDArray[Any]:
    """Codes from 0 to `white` spread over the whole range of their type, uint8 or uint16, rounded; in place."""
    top = np.iinfo(values.dtype).max
    if white != top:
        for band in np.array_split(values, max(1, values.size >> 22)):
            band[...] = (np.minimum(band, white).astype(np.uint32) * top + white // 2) // white
    return values


def eight_bits(values: Pixels) -> NDArray[np.uint8]:
    """The nearest 8-bit codes of uint16 pixels; uint8 pixels as they are."""
    if values.dtype == np.uint8:
        return values
    result = np.empty(values.shape, np.uint8)
    parts = max(1, values.size >> 22)
    for old, new in zip(np.array_split(values, parts), np.array_split(result, parts), strict=True):
        new[...] = (old.astype(np.uint32) + 128) // 257
    return result
