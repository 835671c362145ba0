"""HEIC and HEIF, as phones and cameras write them, through libheif: the extra `heic`. 10 and 12 bits become 16."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.pictures.source import PictureFacts, Planes, Raw, Source, stretched
from zoomrt.runtime.sizes import check_size

_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
"""ISO/IEC 23008-12, annex B. An AVIF may have the last two as well, and names itself beside them."""
_STANDARD_RANGE = {1, 2, 6, 13, 14, 15}
"""Transfer characteristics (ITU-T H.273) of pictures of standard range: BT.709's and sRGB's curve, or not stated."""
_SRGB_PRIMARIES = {1, 2, 5, 6, 7}
"""Colour primaries (ITU-T H.273) of BT.709 and its relatives of 1987 to 1999, or not stated."""


def is_heif(head: bytes) -> bool:
    """Whether a file that begins with these bytes, 64 or more, is HEIC or HEIF and no AVIF."""
    length = int.from_bytes(head[:4], "big")
    brands = {head[place : place + 4] for place in (8, *range(16, min(length, len(head)), 4))}
    return head[4:8] == b"ftyp" and bool(brands & _BRANDS) and not brands & {b"avif", b"avis"}


def open_with_libheif(stream: BinaryIO, what: str, notes: list[str]) -> Source:
    """The first picture of a HEIF. Raises MissingDependency, InputError, and anything for damaged data."""
    try:
        import pillow_heif
    except (ImportError, OSError) as cause:
        needed, remedy = "the extra heic", "Run: pip install 'zoomrt[heic]'"
        raise MissingDependency(what, seen="HEIC, and no pillow-heif", needed=needed, remedy=remedy) from cause
    stream.seek(0)
    image: Any = pillow_heif.open_heif(stream, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    width, height = image.size
    check_size(height, width, what)
    bits = image.info["bit_depth"]
    mode = image.mode.partition(";")[0]
    if mode not in ("L", "LA", "RGB", "RGBA"):
        remedy = "Save it as RGB first."
        raise InputError(what, seen=f"pixel format {image.mode}", needed="RGB or grey", remedy=remedy)

    def decode(_: list[str]) -> Planes:
        values: NDArray[Any] = np.asarray(image)
        if values.shape[:2] != (height, width):
            raise ValueError(f"{values.shape[1]}x{values.shape[0]} pixels, and {width}x{height} stated")
        if bits > 8:
            values = stretched(values.astype(np.uint16), 2**bits - 1)
        if values.ndim == 2:
            return values, None
        alpha = values[..., -1] if mode.endswith("A") else None
        return (values[..., 0] if mode.startswith("L") else values[..., :3]), alpha

    def exif() -> Image.Exif:
        result = Image.Exif()
        result.load(image.info.get("exif") or b"")
        return result

    curve, primaries = (
        (image.info.get("nclx_profile") or {}).get(field, 2)
        for field in ("transfer_characteristics", "color_primaries")
    )
    if curve not in _STANDARD_RANGE:
        notes.append("its high dynamic range is read as if it were standard range")
    elif primaries not in _SRGB_PRIMARIES and not image.info.get("icc_profile"):
        notes.append(f"its colours are read as sRGB, there is no profile for primaries {primaries}")
    # what the file says of turning is applied by libheif, and EXIF's orientation does not count (annex A.4.2)
    info = {key: image.info.get(key) for key in ("icc_profile", "xmp")}
    facts = PictureFacts(height, width, 1 if mode.startswith("L") else 3, bits > 8, mode.endswith("A"))
    return Source(facts, 1, decode, lambda: Raw(info, exif))
