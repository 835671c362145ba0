"""Everything that can go wrong for a user, in one tree. A bug in zoomrt is never in this tree.

    ZoomrtError                     exit  what it means
      UsageError                      2   an unknown model, target, precision or a contradictory request
      InputError                      3   a picture or frame that cannot be read or upscaled
      CheckpointError                 4   weights that cannot be loaded, or do not fit the family
      ExportError                     5   the network could not be turned into a verified graph
      PrecisionError                  6   the asked precision is not what came out
      BuildError                      7   the engine compiler failed
        PluginError                   8   a plugin or ahead-of-time kernel failed
      BundleError                     9   a bundle that is missing, damaged or edited
        EngineMismatch               10   a sound bundle that this machine or version cannot run
      OutOfMemory                    11   memory, address space or threads ran out
        TileTooLarge                 15   there is no room for one tile: a smaller one may do
      RuntimeFault                   12   the engine failed or gave non-finite pixels while running
      StorageError                   13   a file or folder cannot be written
      MissingDependency              14   an optional package is not installed
      FetchError                     16   a published file cannot be fetched

Ctrl-C ends a command with exit code 130, SIGTERM with 143 and SIGHUP with 129, as a shell expects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BuildError",
    "BundleError",
    "CheckpointError",
    "EngineMismatch",
    "ExportError",
    "FetchError",
    "InputError",
    "MissingDependency",
    "OutOfMemory",
    "PluginError",
    "PrecisionError",
    "RuntimeFault",
    "StorageError",
    "TileTooLarge",
    "UsageError",
    "ZoomrtError",
    "unknown_name",
]


class ZoomrtError(Exception):
    """Base of the tree.

    Parameters
    ----------
    what
        What failed, a clause without a full stop ("cannot read weights 'a.pth'").
    seen
        The value that was met.
    needed
        The value that would have been right.
    remedy
        What to do now, as an instruction.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, seen: object, needed: object, remedy: str) -> None:
        self.what, self.seen, self.needed, self.remedy = what, str(seen), str(needed), remedy
        super().__init__(what, self.seen, self.needed, remedy)

    def __str__(self) -> str:
        return " ".join(f"{self.what}: got {self.seen}, need {self.needed}. {self.remedy}".split())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.seen, self.needed, self.remedy)


def _rebuild(kind: type[ZoomrtError], what: str, seen: str, needed: str, remedy: str) -> ZoomrtError:
    """Unpickle: builds run in child processes, and their errors come back through a pipe."""
    return kind(what, seen=seen, needed=needed, remedy=remedy)


class UsageError(ZoomrtError):
    """An unknown model, target, precision or a contradictory request."""

    exit_code = 2


class InputError(ZoomrtError):
    """A picture or frame that cannot be read or upscaled."""

    exit_code = 3


class CheckpointError(ZoomrtError):
    """Weights that cannot be loaded, or do not fit the family."""

    exit_code = 4


class ExportError(ZoomrtError):
    """The network could not be turned into a verified graph."""

    exit_code = 5


class PrecisionError(ZoomrtError):
    """The asked precision is not what came out."""

    exit_code = 6


class BuildError(ZoomrtError):
    """The engine compiler failed."""

    exit_code = 7


class PluginError(BuildError):
    """A plugin or ahead-of-time kernel failed."""

    exit_code = 8


class BundleError(ZoomrtError):
    """A bundle that is missing, damaged or edited."""

    exit_code = 9


class EngineMismatch(BundleError):
    """A sound bundle that this machine or version cannot run."""

    exit_code = 10


class OutOfMemory(ZoomrtError):
    """Memory, address space or threads ran out."""

    exit_code = 11


class TileTooLarge(OutOfMemory):
    """There is no room for a single tile in the engine. A smaller one may do: `zoomrt.load(fallback=)`."""

    exit_code = 15


class RuntimeFault(ZoomrtError):
    """The engine failed or gave non-finite pixels while running."""

    exit_code = 12


class StorageError(ZoomrtError):
    """A file or folder cannot be written."""

    exit_code = 13


class MissingDependency(ZoomrtError):
    """An optional package is not installed."""

    exit_code = 14


class FetchError(ZoomrtError):
    """A published file cannot be fetched. The message says how to put it in its place by hand."""

    exit_code = 16


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError for a mistyped name, with the nearest known ones as remedy."""
    choices = sorted(known)
    near = difflib.get_close_matches(name.lower(), choices, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Choose one of the known {kind}s."
    return UsageError(f"unknown {kind}", seen=repr(name), needed="one of " + ", ".join(choices), remedy=remedy)
