"""What belongs to a photograph beside its pixels: EXIF, XMP, IPTC, ICC profile and resolution.

A block that is damaged is dropped with a note, never the picture with it. What is kept is true of the pixels:
orientation is gone (it was applied), sizes follow, previews and statements about what else the old file held are left
out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image, ImageCms

from zoomrt.runtime.picture_formats import Holds
from zoomrt.runtime.picture_source import TURNED, Raw

__all__ = [
    "Metadata",
    "fitting",
    "metadata_of",
    "photoshop_segment",
    "resized",
    "tiff_tags",
    "usable_profile",
    "with_tags",
]

NAMES = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC", "icc": "its ICC profile"}

_PROFILE_BYTES = 128  # the header, ICC.1 7.2
# Tags of the first directory that describe the photograph. All others are the layout of a file, previews, layers.
_KEPT = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Rating,
    ExifTags.Base.RatingPercent,
    ExifTags.Base.Copyright,
    ExifTags.Base.XPTitle,
    ExifTags.Base.XPComment,
    ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords,
    ExifTags.Base.XPSubject,
    ExifTags.IFD.Exif,
    ExifTags.IFD.GPSInfo,
}
_PLACES = (0x9214, 0xA214)  # SubjectArea, SubjectLocation: in pixels of the old picture
_IPTC_RESOURCE = 0x0404  # Photoshop's number for IPTC, as JPEG and TIFF carry it
_IPTC_TAG = 33723
_INCHES = 2  # EXIF's and TIFF's unit of resolution


@dataclass(frozen=True)
class Metadata:
    """icc : ICC profile of the pixels. exif : with the `Exif` header. xmp : an XML packet. iptc : IIM records.
    dpi : pixels per inch, horizontal and vertical."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None


def metadata_of(raw: Raw, orientation: int, size: tuple[int, int], notes: list[str]) -> Metadata:
    """What can be kept for pixels that were turned by `orientation` to (height, width) `size`.

    notes : gets a line for each block that cannot be kept.
    """
    info = raw.info
    found: dict[str, Callable[[], bytes | None]] = {
        "icc": lambda: usable_profile(info.get("icc_profile")),
        "exif": lambda: _clean_exif(raw.exif()),
        "xmp": lambda: _clean_xmp(info.get("xmp") or info.get("XML:com.adobe.xmp")),
        "iptc": lambda: _clean_iptc(info.get("photoshop") or raw.tags.get(_IPTC_TAG), getattr(raw.tags, "prefix", b"")),
    }
    blocks: dict[str, bytes | None] = {}
    for name, read in found.items():
        try:
            blocks[name] = read()
        except Exception as cause:  # every camera and editor has its own reading of these standards
            notes.append(f"{NAMES[name]} is not kept, it is damaged ({cause})")
    dpi = _dpi(info.get("dpi"), notes)
    metadata = Metadata(**blocks, dpi=dpi[::-1] if dpi and orientation in TURNED else dpi)
    return resized(metadata, size, 1, notes)


def usable_profile(raw: bytes | None) -> bytes | None:
    """A profile for RGB or grey that can be used, without what follows it. Raises ValueError, OSError."""
    if not raw:
        return None
    length, space = int.from_bytes(raw[:4], "big"), raw[16:20]
    if not _PROFILE_BYTES <= length <= len(raw):
        raise ValueError(f"{len(raw)} bytes that state {length}")
    mode = {b"RGB ": "RGB", b"GRAY": "L"}.get(space)
    if mode is None:
        raise ValueError(f"for {space.decode('ascii', 'replace').strip()} pixels")
    try:
        ImageCms.buildTransform(ImageCms.ImageCmsProfile(BytesIO(raw)), ImageCms.createProfile("sRGB"), mode, "RGB")
    except ImageCms.PyCMSError as cause:
        raise ValueError(str(cause)) from cause
    return raw[:length]


def _clean_exif(exif: Image.Exif) -> bytes | None:
    for tag in set(exif) - _KEPT:
        del exif[tag]
    for tag in _PLACES:
        _details(exif).pop(tag, None)
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in exif and not exif.get_ifd(tag):  # it leads nowhere
            del exif[tag]
    exif.bigtiff = False  # of the file that it was in
    return exif.tobytes() if len(exif) else None


def _details(exif: Image.Exif) -> dict[int, Any]:
    """The directory of EXIF proper; changes count only where there is one."""
    return exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}


def _clean_xmp(raw: Any) -> bytes | None:
    if not raw:
        return None
    packet = raw.encode() if isinstance(raw, str) else bytes(raw)
    packet = packet.rstrip(b"\0")
    if b"rdf:RDF" not in packet and b"x:xmpmeta" not in packet:
        raise ValueError("no XMP packet")
    if re.search(rb"<!(DOCTYPE|ENTITY)", packet):
        raise ValueError("it declares entities")
    if re.search(rb"hdrgm:|Container:Directory|GCamera:M", packet):
        raise ValueError("it is about a gain map or a video behind the picture, which are not kept either")
    packet = re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", packet, flags=re.DOTALL)
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>)\s*)\d", rb"\g<1>1", packet)


def _clean_iptc(raw: Any, prefix: bytes) -> bytes | None:
    if isinstance(raw, dict):  # Photoshop's resources in a JPEG
        raw = raw.get(_IPTC_RESOURCE)
    if isinstance(raw, tuple):  # a TIFF that has them as 32-bit numbers
        raw = struct.pack(f"{'>' if prefix == b'MM' else '<'}{len(raw)}I", *raw)
    if not raw:
        return None
    if raw[:1] != b"\x1c":  # the mark that begins each record, IIM 4.2 section 1.5
        raise ValueError("no IPTC record")
    return bytes(raw)


def _dpi(value: Any, notes: list[str]) -> tuple[float, float] | None:
    """Pillow's `dpi` entry if it is two sane numbers. 0 and 1 stand for none, in JPEG and in TIFF."""
    try:
        across, down = (float(number) for number in value or (0, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        across = down = -1.0
    if 1 < across < 1e5 and 1 < down < 1e5:
        return across, down
    if (across, down) not in ((0, 0), (1, 1)):
        notes.append("its resolution is not kept, it makes no sense")
    return None


def resized(metadata: Metadata, size: tuple[int, int], factor: float, notes: list[str] | None = None) -> Metadata:
    """The metadata of the same picture at (height, width) `size`, `factor` times as large.

    notes : gets a line where EXIF turns out to be damaged.
    """
    dpi = metadata.dpi and _dpi([number * factor for number in metadata.dpi], [])
    exif, xmp = metadata.exif, metadata.xmp
    if exif is not None:
        try:
            exif = _exif_with_size(exif, size, factor)
        except Exception as cause:
            exif = None
            if notes is not None:
                notes.append(f"EXIF is not kept, it is damaged ({cause})")
    if xmp is not None:
        for names, value in ((rb"tiff:ImageWidth|exif:PixelXDimension", size[1]),
                             (rb"tiff:ImageLength|exif:PixelYDimension", size[0])):  # fmt: skip
            xmp = re.sub(rb"((?:%b)(?:=[\"']|>)\s*)\d+" % names, rb"\g<1>%d" % value, xmp)
    return replace(metadata, exif=exif, xmp=xmp, dpi=dpi)


def _exif_with_size(data: bytes, size: tuple[int, int], factor: float) -> bytes:
    exif = Image.Exif()
    exif.load(data)
    details = _details(exif)
    for tag, value in ((ExifTags.Base.ExifImageWidth, size[1]), (ExifTags.Base.ExifImageHeight, size[0])):
        if tag in details:
            details[tag] = value
    for tag in (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution):  # pixels over the sensor
        if factor != 1 and tag in details:
            details[tag] = details[tag] * factor
    return exif.tobytes()


# --- into a file ----------------------------------------------------------------------------------------------------


def fitting(metadata: Metadata, name: str, holds: Holds, notes: list[str]) -> Metadata:
    """What a format, by its name and limits, can hold of it. notes : gets a line for each block that it cannot."""
    kept: dict[str, Any] = {}
    for block, label in NAMES.items():
        content, limit = getattr(metadata, block), holds.blocks.get(block, 0)
        if content is not None and len(content) > limit:
            why = f"{len(content)} bytes are too many for {name}" if limit else f"{name} has no place for it"
            notes.append(f"{label} is not kept, {why}")
            content = None
        kept[block] = content
    if metadata.dpi and not holds.dpi:
        kept["exif"] = with_tags(kept["exif"], _resolution(metadata.dpi)).tobytes()
    return Metadata(**kept, dpi=metadata.dpi)


def with_tags(exif: bytes | None, tags: dict[int, Any]) -> Image.Exif:
    """EXIF, or none, with more tags in its first directory."""
    result = Image.Exif()
    if exif is not None:
        result.load(exif)
    for tag, value in tags.items():
        result[tag] = value
    return result


def tiff_tags(metadata: Metadata) -> dict[int, Any]:
    """What a TIFF has of it beside EXIF, in its first directory."""
    tags: dict[int, Any] = _resolution(metadata.dpi) if metadata.dpi else {}
    blocks = ((700, metadata.xmp), (_IPTC_TAG, metadata.iptc), (34675, metadata.icc))
    return tags | {tag: content for tag, content in blocks if content is not None}


def _resolution(dpi: tuple[float, float]) -> dict[int, Any]:
    return {
        ExifTags.Base.XResolution: dpi[0],
        ExifTags.Base.YResolution: dpi[1],
        ExifTags.Base.ResolutionUnit: _INCHES,
    }


def photoshop_segment(iptc: bytes) -> bytes:
    """IPTC as a JPEG carries it: segment APP13 with Photoshop's resource 0x0404 in it."""
    resource = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
