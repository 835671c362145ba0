"""Where zoomrt keeps what it can make again. Open to every part; imports nothing of zoomrt."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["cache_root"]


def cache_root() -> Path:
    """$ZOOMRT_CACHE, or the platform's cache folder for zoomrt. May be deleted at any time."""
    return Path(os.environ.get("ZOOMRT_CACHE") or platformdirs.user_cache_path("zoomrt"))
