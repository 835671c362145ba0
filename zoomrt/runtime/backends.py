"""What a backend is, and the table of those there are: a file of `sessions/` each, and those of other packages.

Light: names are told without importing a session. Nothing else in the package lists backends.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from zoomrt.registry import Registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoomrt.bundle import Bundle
    from zoomrt.runtime.session import Session

Arithmetic = Literal["fp32", "bf16"]
GroupNormForm = Literal["node", "instance", "moments"]


def _fp32_only() -> tuple[Arithmetic, ...]:
    return ("fp32",)


class NodeTime(NamedTuple):
    """Of one node or layer, as a backend's own profile has it.

    name : its own. operator : in ONNX's words, "" where nodes were fused and it is not told into what. ms : median.
    dtype : of its data, "" if not told. made_of : nodes of the graph that went into it, as far as told.
    otherwise : the operator of a fused one where none of these is known.
    """

    name: str
    operator: str
    ms: float
    dtype: str
    made_of: tuple[str, ...] = ()
    otherwise: str = "unknown"


@dataclass(frozen=True)
class Backend:
    """What runs a bundle's engines.

    name : what users type and manifests hold; in this package, the name of the file too. title : for messages.
    device : what it runs on. Backends for the CPU are candidates of every build for it: the fastest that passes parity
        is taken. Those for a GPU are named by targets.
    module : Python module that it needs. package : the distribution that has it, whose version is in the cache key.
    extra : of zoomrt that installs it, "" where it is another package's affair.
    open : (bundle, CPU threads or None for one per core) -> session.
    kinds : of `export.precisions`, that it does.
    arithmetics : what this very processor computes in where a graph's values are FP32; see `Manifest.arithmetic`.
    widens : kinds that it computes in FP32 all the same: smaller files, no speed.
    compiles : whether engines are compiled from graphs while a bundle is built; all others load the graphs.
    several_graphs : whether it takes bundles of several steps.
    readable : whether its compiled engines can be read back without a GPU, see `export.engines.plan_reader`.
    plugins : whether our kernels can run in the middle of a graph.
    weight_scales : one scale for a whole 8-bit weight tensor, or one for each output channel (more accurate).
    weight_scales_why : the reason.
    group_norm : form of GroupNorm that its graphs want, for storage in fp32 and fp16. All backends for the CPU share
        one graph, in the form that the first of them wants.
    check : a line for trt-doctor about it on this machine; raises RuntimeFault where it computes wrong numbers.
    profile : (bundle, a batch of one tile, CPU threads, runs) -> its nodes, under the options of its sessions.
    """

    name: str
    title: str
    device: Literal["cpu", "cuda"]
    module: str
    package: str
    open: Callable[[Bundle, int | None], Session]
    kinds: tuple[str, ...] = ("fp32",)
    extra: str = ""
    arithmetics: Callable[[], tuple[Arithmetic, ...]] = _fp32_only
    widens: tuple[str, ...] = ()
    compiles: bool = False
    several_graphs: bool = False
    readable: bool = False
    plugins: bool = False
    weight_scales: Literal["tensor", "channel"] = "channel"
    weight_scales_why: str = "its 8-bit kernels take a scale for each output channel at no cost"
    group_norm: dict[str, GroupNormForm] = field(default_factory=lambda: {"fp32": "moments", "fp16": "instance"})
    check: Callable[[], str] | None = None
    profile: Callable[[Bundle, NDArray[Any], int, int], list[NodeTime]] | None = None

    @property
    def installed(self) -> bool:
        """Whether its module can be found; it is not imported."""
        return is_installed(self.module)

    @property
    def requirement(self) -> str:
        """What pip is to install for it."""
        return f"zoomrt[{self.extra}]" if self.extra else self.package


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def _own() -> tuple[str, ...]:
    folder = str(Path(__file__).parent / "sessions")
    return tuple(sorted(module.name for module in pkgutil.iter_modules([folder]) if not module.ispkg))


def _load(name: str) -> Backend:
    record: Backend = import_module(f"zoomrt.runtime.sessions.{name}").BACKEND
    return record


BACKENDS: Registry[Backend] = Registry("backend", "zoomrt.backends", _own, _load)


def backends_for(device: Literal["cpu", "cuda"]) -> tuple[Backend, ...]:
    """Those that run there, zoomrt's own first."""
    return tuple(backend for backend in BACKENDS.records() if backend.device == device)
