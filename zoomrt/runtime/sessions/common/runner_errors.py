"""What a CPU runner's exception means: too old for the graph, a broken graph, no memory, or a run that failed.

Runners have no error codes and no common exception, so words of their messages tell these apart; all ends in our tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoomrt.errors import BundleError, EngineMismatch, OutOfMemory, RuntimeFault, ZoomrtError
from zoomrt.runtime.resources import is_refusal

_LONGEST = 200


@dataclass(frozen=True)
class RunnerErrors:
    """Of one runner.

    name : for people. package : to install. too_old : what it says, in lower case, of a graph that it is too old for.
    """

    name: str
    package: str
    too_old: tuple[str, ...]

    def of_load(self, path: Path, cause: Exception, version: str, built_with: str | None) -> ZoomrtError:
        """OutOfMemory, EngineMismatch or BundleError. built_with : the version that built the bundle, where known."""
        if is_refusal(cause):
            return self._no_memory(cause)
        if type(cause).__name__ == "NotImplemented" or _mentions(cause, self.too_old):
            seen = f"{self.package} {version}, which says: {_end_of(cause)}"
            older = f"{self.package} {built_with}, with which it was built"
            needed = older if built_with else f"a newer {self.package}"
            remedy = "Install that version, or build the bundle again with trt-build on this machine."
            return EngineMismatch(f"cannot load graph {str(path)!r} here", seen=seen, needed=needed, remedy=remedy)
        remedy = "Build the bundle again with trt-build, or copy it again from where it came."
        what = f"graph {str(path)!r} is damaged"
        return BundleError(what, seen=_end_of(cause), needed="a valid ONNX graph", remedy=remedy)

    def of_run(self, cause: Exception) -> ZoomrtError:
        """OutOfMemory or RuntimeFault."""
        if is_refusal(cause):
            return self._no_memory(cause)
        remedy = "Run trt-doctor; if it is well, build the bundle again with trt-build."
        what = f"{self.name} failed on a tile"
        return RuntimeFault(what, seen=_end_of(cause), needed="a finished run", remedy=remedy)

    def _no_memory(self, cause: Exception) -> OutOfMemory:
        remedy = "Close other programs, or build the bundle with a smaller tile."
        what = f"{self.name} ran out of memory"
        return OutOfMemory(what, seen=_end_of(cause), needed="room for one tile", remedy=remedy)


def _mentions(cause: Exception, words: tuple[str, ...]) -> bool:
    text = str(cause).lower()
    return any(word in text for word in words)


def _end_of(cause: Exception) -> str:
    """Messages open with source files and signatures, which say nothing to a user."""
    text = " ".join(str(cause).split())
    return text if len(text) <= _LONGEST else "..." + text[-_LONGEST:]
