"""Picture file formats: which are read, which are written, and what each of them can hold. The one table of them.

Nothing else is ever opened as a picture, whatever a file is called and whatever else Pillow knows: PostScript would
start a program. Imports no library, so that a command may plan with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class Holds:
    """What a file of a format that is written can hold.

    max_side : pixels. alpha : beside colour. deep : 16 bits a channel. grey : pixels of one channel.
    blocks : metadata by its field in `images.Picture` -> most bytes of it. dpi : resolution, outside of EXIF.
    """

    max_side: int
    alpha: bool
    deep: bool
    grey: bool
    dpi: bool
    blocks: dict[str, int]


@dataclass(frozen=True)
class Format:
    """name : Pillow's, and pillow-heif's for HEIF. endings : lower case, the first is that of new files."""

    name: str
    endings: tuple[str, ...]
    holds: Holds | None = None
    """None: it is read only."""


_BLOCK = 8_000_000
"""Most bytes of a block of metadata where the format has no limit of its own. Profiles of printers have 3 million."""
_SEGMENT = 65533
"""Most bytes in a JPEG segment (ITU-T T.81 B.1.1.4), from which each block's own heading is taken."""
_JPEG_BLOCKS = {"exif": _SEGMENT, "xmp": _SEGMENT - 29, "iptc": _SEGMENT - 28, "icc": _BLOCK}
_PNG_BLOCKS = {"exif": _BLOCK, "xmp": _BLOCK, "icc": _BLOCK}

FORMATS: tuple[Format, ...] = (
    # 65500 is libjpeg's own limit, below the 65535 of the file format
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jfif"),
        Holds(65500, alpha=False, deep=False, grey=True, dpi=True, blocks=_JPEG_BLOCKS),
    ),
    Format("PNG", (".png",), Holds(2**31 - 1, alpha=True, deep=True, grey=True, dpi=True, blocks=_PNG_BLOCKS)),
    Format(
        "TIFF",
        (".tiff", ".tif"),
        Holds(2**31 - 1, alpha=True, deep=True, grey=True, dpi=True, blocks=_PNG_BLOCKS | {"iptc": _BLOCK}),
    ),
    Format("WEBP", (".webp",), Holds(16383, alpha=True, deep=False, grey=False, dpi=False, blocks=_PNG_BLOCKS)),
    Format("HEIF", (".heic", ".heif", ".hif")),
    Format("AVIF", (".avif",)),
    Format("BMP", (".bmp",)),
    Format("GIF", (".gif",)),
    Format("JPEG2000", (".jp2", ".j2k")),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm")),
)

READABLE: tuple[str, ...] = tuple(ending for form in FORMATS for ending in form.endings)
"""Endings by which the pictures of a folder are found. A file that is named itself may be called anything."""
WRITABLE: tuple[str, ...] = tuple(ending for form in FORMATS if form.holds for ending in form.endings)
"""Endings of files that are written."""
NEW_ENDINGS: dict[str, str] = {form.endings[0][1:]: form.endings[0] for form in FORMATS if form.holds}
"""What a command calls the formats that are written -> the ending of a new file."""
CLASSIC_TIFF_BYTES = 3_500_000_000
"""Pixels beyond this are written as BigTIFF: a classic one ends at 4 GiB."""


def format_of(path: PurePath) -> tuple[str, Holds] | None:
    """Name of the format that a file is written in, by its ending, and what it holds; None for any other ending."""
    for form in FORMATS:
        if form.holds is not None and path.suffix.lower() in form.endings:
            return form.name, form.holds
    return None
