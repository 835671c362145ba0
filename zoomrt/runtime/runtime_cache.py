"""What TensorRT-RTX compiled for this GPU while an engine was loaded, kept for the next time.

One file per engine, TensorRT-RTX version, driver and GPU: beside the engine, or in the user's cache folder where the
bundle cannot be written to. It may be deleted at any time; one that does not fit is not used.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

import platformdirs

__all__ = ["RuntimeCache"]


class RuntimeCache:
    """The cache of one engine file.

    version : of TensorRT-RTX. driver : of the NVIDIA driver. gpu : its name. digest : SHA-256 of the engine.
    """

    def __init__(self, engine: Path, digest: str, version: str, driver: int, gpu: str) -> None:
        place = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{version}-{driver}-{gpu}")
        name = f"{engine.stem}.{digest[:12]}.{place}.cache"
        root = Path(os.environ.get("ZOOMRT_CACHE") or platformdirs.user_cache_path("zoomrt"))
        self._places = (engine.parent / "runtime-cache" / name, root / "runtime-cache" / name)

    def read(self) -> bytes | None:
        """What was kept, from the first place that has it."""
        for place in self._places:
            with contextlib.suppress(OSError):
                return place.read_bytes()
        return None

    def write(self, content: bytes) -> Path | None:
        """Keep it in the first place that can be written; None where neither can. Never leaves half a file."""
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=place.parent, prefix=".part-")
            except OSError:
                continue
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(content)
                os.replace(name, place)
                return place
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(name)
        return None
