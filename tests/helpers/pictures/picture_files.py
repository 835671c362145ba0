"""Picture files built by hand: what no library at hand writes, or what has to be wrong in one known place."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG's number (PNG specification, 11.2.2)
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    values: NDArray[np.unsignedinteger], *, before: bytes = b"", after: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG of (H, W) or (H, W, 2 to 4), uint8 or uint16, with rows that are not filtered.

    before, after : chunks in front of the pixels and behind them.
    """
    height, width, channels = (*values.shape, 1)[:3]
    parts = [values[down::step_down, across::step_across] for down, across, step_down, step_across in _PASSES]
    rows = b"".join(
        b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes()
        for part in (parts if interlaced else [values])
        for row in part
        if part.size
    )
    bits, colour = 8 * values.itemsize, _COLOUR_TYPES[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    return b"".join([PNG_SIGNATURE, header, before, chunk(b"IDAT", zlib.compress(rows)), after, chunk(b"IEND", b"")])


def png_of_size(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG of 8-bit RGB whose header claims a size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return PNG_SIGNATURE + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def cmyk_profile(lab: NDArray[np.floating]) -> bytes:
    """An ICC profile for CMYK whose sixteen corners have these colours; between them they are interpolated.

    lab : (2, 2, 2, 2, 3) L*, a*, b* by ink C, M, Y, K. ICC.1:2010, 10.9 (lut8Type).
    """
    codes = np.rint(lab * [255 / 100, 1, 1] + [0, 128, 128]).astype(np.uint8)
    identity = bytes(range(256))
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table += identity * 4 + codes.tobytes() + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def grey_profile() -> bytes:
    """An ICC profile for grey with a gamma of 2.2. ICC.1:2010, 8.4.2 and 10.6 (curveType)."""
    curve = struct.pack(">4s4xIH", b"curv", 1, round(2.2 * 256)) + b"\0\0"
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def _profile(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """ICC.1:2010, 7.2 (header) and 7.3 (tag table)."""
    d50 = struct.pack(">3i", 63190, 65536, 54061)  # in 1/65536
    tags = tags | {
        b"cprt": struct.pack(">4s4x", b"text") + b"none\0",
        b"desc": struct.pack(">4s4xI", b"desc", 5) + b"test\0" + b"\0" * 78,
        b"wtpt": struct.pack(">4s4x", b"XYZ ") + d50,
    }
    content, directory, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in sorted(tags.items()):
        directory += tag + struct.pack(">II", start + len(content), len(data))
        content += data + b"\0" * (-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s", start + len(content), 0x02400000, device, space, connection, b"acsp")
    header = header.ljust(68, b"\0") + d50
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + directory + content
