"""The chunks of a PNG (PNG specification, section 5): pixels apart from metadata, in both directions.

Text and profiles may stand behind the pixels, where a reader of pixels does not come, and one that is damaged makes
Pillow refuse the whole file. Rebuilding the file with some of its chunks only answers both.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from PIL import Image, PngImagePlugin

from zoomrt.runtime.pictures.metadata import Metadata

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"acTL", b"IDAT", b"IEND"}
_METADATA = {b"eXIf", b"iCCP", b"iTXt", b"pHYs", b"tEXt", b"zTXt"}


def pixels_only(stream: BinaryIO) -> BytesIO:
    """The same picture without its metadata."""
    return BytesIO(SIGNATURE + b"".join(chunk for _, chunk in _chunks(stream, _PIXELS)))


def metadata_only(stream: BinaryIO) -> BytesIO:
    """One pixel with the metadata of the picture, wherever in the file it stands."""
    found = [chunk for _, chunk in _chunks(stream, _METADATA)]
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = _chunk(b"IDAT", zlib.compress(b"\0\0"))
    return BytesIO(b"".join([SIGNATURE, header, *found, pixel, _chunk(b"IEND", b"")]))


def _chunks(stream: BinaryIO, names: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes of each whole chunk of these names."""
    end = stream.seek(0, 2)
    place = len(SIGNATURE)
    while place + 12 <= end:
        stream.seek(place)
        head = stream.read(8)
        length, name = struct.unpack(">I4s", head)
        place += length + 12
        if place > end:
            return
        if name in names:
            yield name, head + stream.read(length + 4)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


class AfterHeader:
    """A stream for an encoder of PNG that puts the metadata behind the first chunk, where every reader finds it, and
    leaves out what the encoder made up."""

    def __init__(self, stream: BinaryIO, metadata: Metadata) -> None:
        self._stream, self._head = stream, b""
        text = PngImagePlugin.PngInfo()
        if metadata.xmp is not None:
            text.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
        fields = {"icc_profile": metadata.icc, "exif": metadata.exif, "dpi": metadata.dpi, "pnginfo": text}
        given = {name: value for name, value in fields.items() if value is not None}
        made = PngImagePlugin.getchunks(Image.new("L", (1, 1)), **given)
        self._metadata = b"".join(_chunk(name, content) for name, content, _ in made if name in _METADATA)
        self._pixels = False

    def write(self, content: bytes) -> int:
        if self._pixels:
            self._stream.write(content)
            return len(content)
        self._head += content
        place = self._head.find(b"IDAT") - 4  # behind the length
        if place >= 0:
            self._pixels = True
            header, *others = (chunk for _, chunk in _chunks(BytesIO(self._head[:place]), _PIXELS))
            self._stream.write(b"".join([SIGNATURE, header, self._metadata, *others, self._head[place:]]))
        return len(content)
