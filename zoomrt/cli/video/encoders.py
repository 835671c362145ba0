"""The encoders of FFmpeg that videos are written with, and their libraries' own options."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from zoomrt.cli.video.frames import Colours


class Encoder(NamedTuple):
    """even, odd : FFmpeg's pixel format for sizes of even sides, and of an odd one."""

    name: str
    even: str
    odd: str
    options: dict[str, str]


ENCODERS = {
    8: (
        Encoder("libx264", "yuv420p", "yuv444p", {"crf": "16", "preset": "veryfast"}),
        Encoder("mpeg4", "yuv420p", "yuv420p", {}),
        Encoder("libvpx-vp9", "yuv420p", "yuv420p", {"crf": "20", "deadline": "realtime", "cpu-used": "5"}),
    ),
    10: (
        Encoder("libx265", "yuv420p10le", "yuv444p10le", {"crf": "16", "preset": "veryfast"}),
        Encoder("libsvtav1", "yuv420p10le", "yuv420p10le", {"crf": "20", "preset": "8"}),
    ),
}
"""By bits; the first one that FFmpeg was built with, the container takes and the size suits."""


def options_of(encoder: Encoder, colours: Colours) -> dict[str, str]:
    """All options, with silence and the luminance that HDR was mastered with as the encoder's library wants them."""
    if encoder.name == "libx265":  # the units of HEVC: 0.00002 and 0.0001 cd/m2
        place, level = (lambda x: f"{x * 50000:.0f}"), (lambda y: f"{y * 10000:.0f}")
        words = _luminance(colours, "master-display", "max-cll", place, level)
        return {**encoder.options, "x265-params": ":".join(["log-level=none", *words])}
    if encoder.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "0")  # the only way to its silence
        words = _luminance(colours, "mastering-display", "content-light", lambda x: f"{x:.5f}", lambda y: f"{y:.4f}")
        return {**encoder.options, **({"svtav1-params": ":".join(words)} if words else {})}
    return encoder.options


def _luminance(
    colours: Colours, display: str, light: str, place: Callable[[float], str], level: Callable[[float], str]
) -> list[str]:
    """SMPTE ST 2086 and CTA-861.3 in the notation that both libraries share."""
    words = []
    if colours.mastering:
        *places, least, most = map(float, colours.mastering)
        red, green, blue, white = (f"({place(x)},{place(y)})" for x, y in zip(places[::2], places[1::2], strict=True))
        words.append(f"{display}=G{green}B{blue}R{red}WP{white}L({level(most)},{level(least)})")
    if colours.light:
        words.append(f"{light}={colours.light[0]},{colours.light[1]}")
    return words
