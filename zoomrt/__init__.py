"""zoomrt: one-step diffusion super-resolution, from a checkpoint to verified engines and sharp pixels.

The public names, nothing else. They load on first use, so that `import zoomrt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoomrt.bundle import Manifest, open_bundle
    from zoomrt.errors import ZoomrtError
    from zoomrt.runtime.frames.pixel_formats import CameraFrame
    from zoomrt.runtime.upscaler import Upscaler, load
    from zoomrt.runtime.zoom.result import ZoomResult
    from zoomrt.runtime.zoom.session import ZoomSession

__all__ = [
    "CameraFrame",
    "Manifest",
    "Upscaler",
    "ZoomResult",
    "ZoomSession",
    "ZoomrtError",
    "__version__",
    "load",
    "open_bundle",
]

__version__ = "0.1.0"

_HOMES = {
    "Manifest": "zoomrt.bundle",
    "open_bundle": "zoomrt.bundle",
    "ZoomrtError": "zoomrt.errors",
    "Upscaler": "zoomrt.runtime.upscaler",
    "load": "zoomrt.runtime.upscaler",
    "CameraFrame": "zoomrt.runtime.frames.pixel_formats",
    "ZoomResult": "zoomrt.runtime.zoom.result",
    "ZoomSession": "zoomrt.runtime.zoom.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoomrt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
