"""Engines and libraries, silenced before they are imported: they send nothing and write nothing of their own accord.

Every import of ONNX Runtime and OpenVINO in the package goes through here (tests/test_house.py holds that).
docs/privacy.md says what each library would do by itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from zoomrt.errors import MissingDependency, StorageError
from zoomrt.files import cache_path, check_writable
from zoomrt.runtime.resources import is_refusal, out_of_memory

_NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, Privacy.md in its package
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, "Environment variables"
    "DO_NOT_TRACK": "1",  # what other tools look for (consoledonottrack.com)
}
_CACHES = {
    "MPLCONFIGDIR": "matplotlib",  # matplotlib's list of fonts
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # what torch.compile, a peer of trt-bench, has compiled
    "SKIMAGE_DATADIR": "scikit-image",  # photographs of the demo
}
"""Variable that says where a library keeps its files -> the folder in `libraries/` of our cache."""
_OPENVINO_TELEMETRY = "openvino_telemetry"


def quiet_process() -> None:
    """Silence every library in a process that is ours alone, such as a command, and keep their files in our cache.

    Where the user has set a variable of `_CACHES`, that place stays. In the process of a user's own program zoomrt
    does nothing of this but what importing the two engines takes.
    """
    os.environ.update(_NO_TELEMETRY)
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]  # Python's way to say: cannot be imported
    if (place := cache_path("libraries")) is None:
        return
    with contextlib.suppress(StorageError):  # without a cache each library knows what to do
        check_writable(place / "any")
        for variable, folder in _CACHES.items():
            os.environ.setdefault(variable, str(place / folder))


def import_onnxruntime() -> Any:
    """The module `onnxruntime`. Raises MissingDependency, OutOfMemory."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    onnxruntime = _imported("onnxruntime", "onnxruntime 1.23 or newer", "pip install 'onnxruntime>=1.23'")
    onnxruntime.disable_telemetry_events()  # for a program that had imported it before us
    return onnxruntime


def import_openvino() -> Any:
    """The module `openvino`. Raises MissingDependency, OutOfMemory.

    OpenVINO sends an event while it is imported, by the package `openvino_telemetry`; where that cannot be imported it
    uses a stand-in of its own that does nothing.
    """
    with contextlib.nullcontext() if "openvino" in sys.modules else _without_openvino_telemetry():
        return _imported("openvino", "openvino 2026.0 or newer", "pip install 'zoomrt[openvino]'")


def _imported(name: str, needed: str, install: str) -> Any:
    try:
        return import_module(name)
    except (ImportError, OSError) as cause:
        if is_refusal(cause):
            raise out_of_memory(f"no room to import {name}: {cause}") from cause
        what, remedy = f"cannot import {name}", f"Run: {install}"
        raise MissingDependency(what, seen=cause, needed=needed, remedy=remedy) from cause


@contextlib.contextmanager
def _without_openvino_telemetry() -> Iterator[None]:
    """It cannot be imported for the length of a with-block; afterwards all is as it was."""
    missing = object()
    known = sys.modules.get(_OPENVINO_TELEMETRY, missing)
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if known is missing:
            sys.modules.pop(_OPENVINO_TELEMETRY, None)
        else:
            sys.modules[_OPENVINO_TELEMETRY] = known  # type: ignore[assignment]
