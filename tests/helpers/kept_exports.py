"""What `export_named` wrote for a network, kept for the session and for all its processes.

The exporter takes seconds, also for a network of three layers, and tests build the same few networks again and again.
Only builds are given a kept file; a test that calls the exporter itself has it run.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

EXPORTER = "zoomrt.export.graph.to_onnx"


def users() -> Iterator[tuple[Any, str]]:
    """Modules that build, and the name of the exporter in each."""
    exporter = sys.modules.get(EXPORTER)
    if exporter is not None:
        for name in [name for name in sys.modules if name.startswith("zoomrt.export.") and name != EXPORTER]:
            for function in ("export_graph", "export_named"):
                if vars(sys.modules[name]).get(function) is getattr(exporter, function):
                    yield sys.modules[name], function


def keeping(export: Callable[..., None], folder: Path) -> Callable[..., None]:
    """An exporter that writes from `folder` what it was once asked for."""

    def exported(network: Any, path: Path, *arguments: Any, **options: Any) -> None:
        name = _name(export.__name__, network.eval(), arguments, options)
        kept = folder / name if name else None
        if kept and kept.is_file():
            path.write_bytes(kept.read_bytes())
            return
        export(network, path, *arguments, **options)
        if kept and not path.with_name(f"{path.name}.data").exists():
            scratch = kept.with_suffix(f".{os.getpid()}")
            scratch.write_bytes(path.read_bytes())
            scratch.replace(kept)

    return exported


def _name(*asked: Any) -> str | None:
    """Of every attribute, tensor and line of code of a network and every argument; None for what has no such name."""
    names = _Names(file := io.BytesIO())
    names.fast = True  # equal values alike, whether or not they are the same object
    try:
        names.dump(asked)
    except (AttributeError, TypeError, ValueError, pickle.PicklingError):
        return None
    return hashlib.sha256(file.getbuffer()).hexdigest()


class _Names(pickle.Pickler):
    """Tensors by their values, modules with their code: a test may have replaced it."""

    def persistent_id(self, value: Any) -> Any:
        torch = sys.modules["torch"]
        if isinstance(value, torch.Tensor):
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            return str(value.dtype), tuple(value.shape), hashlib.sha256(data).hexdigest()
        if isinstance(value, type) and issubclass(value, torch.nn.Module) and "<locals>" not in value.__qualname__:
            code = getattr(value.forward, "__code__", None)
            return value.__module__, value.__qualname__, code and (code.co_code, code.co_names, repr(code.co_consts))
        return None
