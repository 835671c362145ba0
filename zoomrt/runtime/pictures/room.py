"""How much memory a picture takes from file to file, and whether it is there: known from the header, before the work.

Beside the engine and what the tile size sets, there are the planes of the input and of the result, and the copies that
decoders and encoders make of them. tests/runtime/pictures/test_room.py measures them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from zoomrt.errors import OutOfMemory
from zoomrt.runtime.pictures.formats import format_of
from zoomrt.runtime.pictures.source import PictureFacts

_WEBP_BYTES = 10
"""A pixel of WebP while it is encoded: Pillow's copy, and libwebp's planes and what it keeps while it searches."""


def needed_bytes(facts: PictureFacts, size: tuple[int, int], output: Path, working: int = 0) -> int:
    """Peak of reading, upscaling to (height, width) `size` and writing, in bytes.

    output : its ending decides the encoder. working : what upscaling holds beside both pictures.
    """
    source, result = facts.height * facts.width, size[0] * size[1]
    planes = (facts.channels + facts.alpha) * (2 if facts.deep else 1)  # bytes a pixel
    pillow = 4 if facts.channels == 3 or facts.alpha else 1  # of its own copy, of 8 bits
    name, holds = format_of(output) or ("", None)
    if facts.deep and holds is not None and holds.deep:
        encoder = 0  # libvips takes the planes as they are
    else:
        encoder = (_WEBP_BYTES if name == "WEBP" else pillow) + (planes // 2 if facts.deep else 0)
    shown = planes if facts.alpha else 0  # the input with its hidden colours filled
    return max(
        source * (planes + pillow),
        source * (planes + shown) + result * planes + working,
        (source + result) * planes + result * encoder,
    )


def check_room(facts: PictureFacts, size: tuple[int, int], output: Path, what: str, working: int = 0) -> None:
    """Raise OutOfMemory where `needed_bytes` are not there. Where the system does not say, nothing is checked."""
    needed, free = needed_bytes(facts, size, output, working), available_bytes()
    if free is not None and needed > free:
        raise OutOfMemory(
            what,
            seen=f"{free / 1e9:.1f} GB of free memory",
            needed=f"{needed / 1e9:.1f} GB for {facts.width}x{facts.height} pixels that become {size[1]}x{size[0]}",
            remedy="Ask for a smaller result, cut the picture into parts, or close other programs.",
        )


def available_bytes() -> int | None:
    """Memory that this process may still take without swapping, on Linux; None elsewhere."""
    found = [free for free in (_of_the_system(), _of_the_group()) if free is not None]
    return min(found, default=None)


def _of_the_system() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_the_group() -> int | None:
    """Of a container: control groups, version 2 and 1. Its cache of files counts as free."""
    for folder, limit, used in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cache = int(fields.get("inactive_file", 0))
            return max(int((folder / limit).read_text()) - int((folder / used).read_text()) + cache, 0)
    return None
