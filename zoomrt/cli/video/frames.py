"""FFmpeg's decoded pictures as `CameraFrame`s, and what is known of their colours.

The planes are read in place where the runtime has their layout; FFmpeg converts all others to the nearest one that it
has, of 8 or of 10 bits. Pictures are turned and mirrored as their display matrix has it, in place too.
"""

from __future__ import annotations

import contextlib
import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import av
import av.filter
import av.logging
import numpy as np

from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame, Matrix, PixelFormat, Siting, plane_shapes

LAYOUT_NAMES: dict[str, PixelFormat] = {
    "yuv420p": "i420",
    "yuv422p": "i422",
    "yuv444p": "i444",
    "nv12": "nv12",
    "nv21": "nv21",
    "yuv420p10le": "i010",
    "yuv422p10le": "i210",
    "yuv444p10le": "i410",
    "p010le": "p010",
    "rgb24": "rgb",
    "bgr24": "bgr",
    "rgb48le": "rgb48",
}
"""FFmpeg's name -> ours, where the planes are the same."""
_MATRICES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""AVCOL_SPC_* of libavutil/pixfmt.h (values of ITU-T H.273, table 4)."""
_NEAR: dict[int, Matrix] = {4: "bt601", 7: "bt709", 10: "bt2020"}
"""Those of FCC, SMPTE 240M and BT.2020 with constant luminance, and what they are taken for."""
_UNSAID = {0, 2, 3}
"""RGB, unspecified and reserved."""
_FULL = 2  # AVCOL_RANGE_JPEG
_HDR = {16: "PQ", 18: "HLG"}
"""AVCOL_TRC_* of high dynamic range (H.273, table 3)."""
_PRIMARIES = {1, *range(4, 13)}
_TRANSFERS = {1, *range(4, 19)}
"""Those that encoders know (H.273, tables 2 and 3); others are left unsaid."""
_DYNAMIC = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}
"""Side data that describes each picture anew; the base picture is right without it."""
_HD_LINES = 720
"""Lines from which an untagged video is taken for BT.709 and not BT.601, as players do."""
_SITING_NAMES: dict[str, Siting] = {
    "center": "center",
    "topleft": "top-left",
    "top": "top",
    "bottomleft": "bottom-left",
    "bottom": "bottom",
}
"""FFmpeg's name of AVCHROMA_LOC_* -> ours. Left is for all others: it is what is meant where nothing is said."""
_TURNED: dict[Siting, tuple[int, int]] = {
    "top-left": (-1, -1), "top": (-1, 0), "top-right": (-1, 1),
    "left": (0, -1), "center": (0, 0), "right": (0, 1),
    "bottom-left": (1, -1), "bottom": (1, 0), "bottom-right": (1, 1),
}  # fmt: skip
"""(down, right) of the middle between two luma pixels."""


@dataclass(frozen=True)
class Colours:
    """What a video says of its colours, beyond matrix and range. Numbers are those of H.273; 2 is unspecified."""

    primaries: int = 2
    transfer: int = 2
    mastering: tuple[Fraction, ...] = ()
    """x and y of red, green, blue and white, then least and greatest luminance in cd/m2 (SMPTE ST 2086); or nothing."""
    light: tuple[int, int] | None = None
    """MaxCLL and MaxFALL in cd/m2 (CTA-861.3)."""

    @property
    def curve(self) -> str | None:
        """PQ, HLG, or None for standard dynamic range."""
        return _HDR.get(self.transfer)


class _Turn(NamedTuple):
    """How stored pixels become the picture: rows and columns swapped, then rows and columns mirrored."""

    swapped: bool
    upside_down: bool
    mirrored: bool


def camera_frame(frame: Any, siting: Siting = "left", pixel_aspect: float = 1.0) -> CameraFrame:
    """A decoded `av.VideoFrame` as planes in place, turned as it is to be shown; valid as long as the frame is.

    siting, pixel_aspect : of the stored picture.
    """
    turn = _turn(frame)
    matrix = _matrix(frame)
    full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    name = _readable(frame.format)
    if any(turn) and (frame.width % 2 or frame.height % 2) and LAYOUTS[LAYOUT_NAMES[name]].step != (1, 1):
        # chroma of odd sizes, mirrored, would lie where no siting has it
        name = "yuv444p10le" if bits_of(frame.format) > 8 else "yuv444p"
    if name != _plain_name(frame.format.name):
        frame = frame.reformat(format=name, threads=1)  # in slices, odd widths overwrite each other (swscale)
    form = LAYOUT_NAMES[name]
    planes = planes_of(frame, form)
    if any(turn):
        planes = tuple(_turned(plane, turn) for plane in planes)
        siting = _turned_siting(siting, turn)
    return CameraFrame(planes, form, matrix, full, siting, 1 / pixel_aspect if turn.swapped else pixel_aspect)


def planes_of(frame: Any, form: PixelFormat) -> tuple[Any, ...]:
    """The planes of an FFmpeg picture of that layout, in place; a plane of alpha behind them is left out."""
    dtype, planes = LAYOUTS[form].dtype, []
    for shape, plane in zip(plane_shapes(form, frame.height, frame.width), frame.planes, strict=False):
        inner = (dtype.itemsize * shape[2], dtype.itemsize) if len(shape) == 3 else (dtype.itemsize,)
        planes.append(np.ndarray(shape, dtype, plane, strides=(plane.line_size, *inner)))
    return tuple(planes)


def _readable(format: Any) -> str:
    """FFmpeg's name of the layout that the runtime reads and that keeps most of this format."""
    name = _plain_name(format.name)
    if name in LAYOUT_NAMES:
        return name
    deep = bits_of(format) > 8
    if not _is_yuv(format):
        return "rgb48le" if deep else "rgb24"
    chroma = {(2, 2): "420", (1, 2): "422"}.get(chroma_step(format) or (1, 1), "444")
    return f"yuv{chroma}p{'10le' if deep else ''}"


def _plain_name(name: str) -> str:
    """A format's name without what it says of range and alpha: the planes are the same."""
    return name.replace("yuvj", "yuv").replace("yuva", "yuv")


def bits_of(format: Any) -> int:
    """Of the finest component of an FFmpeg pixel format."""
    return max((part.bits for part in format.components), default=8)


def _is_yuv(format: Any) -> bool:
    colours = [part for part in format.components if not part.is_alpha]
    return len(colours) == 3 and not format.is_rgb and not format.name.startswith("xyz")


def chroma_step(format: Any) -> tuple[int, int] | None:
    """Luma pixels for each sample of chroma, (down, across), of an FFmpeg pixel format; None where there is none."""
    return (64 // format.chroma_height(64), 64 // format.chroma_width(64)) if _is_yuv(format) else None


def _matrix(frame: Any) -> Matrix:
    return {**_MATRICES, **_NEAR}.get(int(frame.colorspace), "bt709" if frame.height >= _HD_LINES else "bt601")


def _side_data(frame: Any) -> dict[str, bytes] | None:
    """A picture's side data by PyAV's name; None where some has no name there, as PyAV hands out none of it then."""
    try:
        return {one.type.name: bytes(one) for one in frame.side_data}
    except ValueError:
        return None


def _turn(frame: Any) -> _Turn:
    """From the display matrix (libavutil/display.h): x' = a x + c y, y' = b x + d y; to the nearest quarter."""
    data = (_side_data(frame) or {}).get("DISPLAYMATRIX")
    if data is None:  # PyAV's own reading, which knows of no mirrors
        quarters = round(frame.rotation / 90) % 4  # counterclockwise
        a, b, c, d = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))[quarters]
    else:
        a, b, _, c, d, *_ = struct.unpack("=9i", data[:36])
    swapped = abs(b) > abs(a)
    return _Turn(swapped, (b if swapped else d) < 0, (c if swapped else a) < 0)


def _turned(plane: Any, turn: _Turn) -> Any:
    plane = plane.swapaxes(0, 1) if turn.swapped else plane
    return plane[:: -1 if turn.upside_down else 1, :: -1 if turn.mirrored else 1]


def _turned_siting(siting: Siting, turn: _Turn) -> Siting:
    """Of sides that are even."""
    down, right = _TURNED[siting][:: -1 if turn.swapped else 1]
    place = (-down if turn.upside_down else down, -right if turn.mirrored else right)
    return next(name for name, where in _TURNED.items() if where == place)


def siting_of(frame: Any) -> Siting:
    """Where a picture's chroma lies. PyAV does not hand this out; FFmpeg's filter `showinfo` says it in the log."""
    level = av.logging.get_level()
    said: list[tuple[int, str, str]] = []
    with contextlib.suppress(av.FFmpegError, ValueError):
        graph = av.filter.Graph()
        base = frame.time_base or Fraction(1, 1000)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
        info, sink = graph.add("showinfo"), graph.add("buffersink")
        source.link_to(info)
        info.link_to(sink)
        graph.configure()
        try:
            av.logging.set_level(av.logging.INFO)
            with av.logging.Capture() as said:
                graph.push(frame)
                graph.pull()
        finally:
            av.logging.set_level(level)
    found = re.search(r"\bcl:(\w+)", " ".join(text for _, _, text in said))
    return _SITING_NAMES.get(found[1], "left") if found else "left"


def colours_of(frame: Any) -> Colours:
    """What a picture says of its colours; numbers that no encoder knows are left unsaid."""
    primaries, transfer, data = int(frame.color_primaries), int(frame.color_trc), _side_data(frame) or {}
    light = data.get("CONTENT_LIGHT_LEVEL", b"")
    return Colours(
        primaries if primaries in _PRIMARIES else 2,
        transfer if transfer in _TRANSFERS else 2,
        _mastering(data.get("MASTERING_DISPLAY_METADATA", b"")),
        struct.unpack("=2I", light[:8]) if len(light) >= 8 else None,
    )


def _mastering(data: bytes) -> tuple[Fraction, ...]:
    """AVMasteringDisplayMetadata of libavutil/mastering_display_metadata.h: ten fractions, then what is there."""
    if len(data) < 88:
        return ()
    *numbers, has_primaries, has_luminance = struct.unpack("=22i", data[:88])
    if not (has_primaries and has_luminance and all(numbers[1::2])):
        return ()
    values = tuple(Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
    places, (least, most) = values[:8], values[8:]
    return values if all(0 <= place <= 1 for place in places) and 0 <= least < most <= 10000 else ()


def losses_of(frame: Any) -> list[str]:
    """What of a picture's values does not come through, whatever it is written to."""
    space, data = int(frame.colorspace), _side_data(frame)
    dynamic = sorted({name for kind, name in _DYNAMIC.items() if kind in (data or {})})
    said = (
        (any(part.is_alpha for part in frame.format.components), "transparency is left out"),
        (frame.interlaced_frame, "its interlaced fields are taken as whole pictures (deinterlace it first)"),
        (space not in _MATRICES and space not in _UNSAID, f"its colour matrix {space} is read as {_matrix(frame)}"),
        (bool(dynamic), f"the data of {' and '.join(dynamic)} for each picture are left out"),
        (data is None and colours_of(frame).curve, "how its HDR was mastered cannot be read by this PyAV"),
    )
    return [text for applies, text in said if applies]
