"""zoomrt: one-step diffusion super-resolution, from a checkpoint to verified engines and sharp pixels.

The public names, nothing else. They load on first use, so that `import zoomrt` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoomrt.bundle import Bundle, Manifest, TileFacts, open_bundle
    from zoomrt.errors import (
        BuildError,
        BundleError,
        CheckpointError,
        EngineMismatch,
        ExportError,
        InputError,
        MissingDependency,
        OutOfMemory,
        PluginError,
        PrecisionError,
        RuntimeFault,
        StorageError,
        TileTooLarge,
        UsageError,
        ZoomrtError,
    )
    from zoomrt.export.api import build
    from zoomrt.runtime.frames.interop import DeviceArray
    from zoomrt.runtime.frames.pixel_formats import CameraFrame, PixelFormat
    from zoomrt.runtime.session import SessionStats
    from zoomrt.runtime.upscaler import Upscaler, load
    from zoomrt.runtime.zoom.result import Ticket, ZoomResult
    from zoomrt.runtime.zoom.session import ZoomSession

__all__ = [
    "BuildError",
    "Bundle",
    "BundleError",
    "CameraFrame",
    "CheckpointError",
    "DeviceArray",
    "EngineMismatch",
    "ExportError",
    "InputError",
    "Manifest",
    "MissingDependency",
    "OutOfMemory",
    "PixelFormat",
    "PluginError",
    "PrecisionError",
    "RuntimeFault",
    "SessionStats",
    "StorageError",
    "Ticket",
    "TileFacts",
    "TileTooLarge",
    "Upscaler",
    "UsageError",
    "ZoomResult",
    "ZoomSession",
    "ZoomrtError",
    "__version__",
    "build",
    "load",
    "open_bundle",
]

__version__ = "0.2.0"

_HOMES = {
    "BuildError": "zoomrt.errors",
    "Bundle": "zoomrt.bundle",
    "BundleError": "zoomrt.errors",
    "CameraFrame": "zoomrt.runtime.frames.pixel_formats",
    "CheckpointError": "zoomrt.errors",
    "DeviceArray": "zoomrt.runtime.frames.interop",
    "EngineMismatch": "zoomrt.errors",
    "ExportError": "zoomrt.errors",
    "InputError": "zoomrt.errors",
    "Manifest": "zoomrt.bundle",
    "MissingDependency": "zoomrt.errors",
    "OutOfMemory": "zoomrt.errors",
    "PixelFormat": "zoomrt.runtime.frames.pixel_formats",
    "PluginError": "zoomrt.errors",
    "PrecisionError": "zoomrt.errors",
    "RuntimeFault": "zoomrt.errors",
    "SessionStats": "zoomrt.runtime.session",
    "StorageError": "zoomrt.errors",
    "Ticket": "zoomrt.runtime.zoom.result",
    "TileFacts": "zoomrt.bundle",
    "TileTooLarge": "zoomrt.errors",
    "Upscaler": "zoomrt.runtime.upscaler",
    "UsageError": "zoomrt.errors",
    "ZoomResult": "zoomrt.runtime.zoom.result",
    "ZoomSession": "zoomrt.runtime.zoom.session",
    "ZoomrtError": "zoomrt.errors",
    "build": "zoomrt.export.api",
    "load": "zoomrt.runtime.upscaler",
    "open_bundle": "zoomrt.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zoomrt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
