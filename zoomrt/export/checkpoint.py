"""Checkpoints from strangers, read safely: tensors, plain containers, nothing that runs.

safetensors files, or torch files through the restricted unpickler (`weights_only=True`).
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoomrt.bundle import sha256_of
from zoomrt.errors import CheckpointError

__all__ = ["Checkpoint", "load_checkpoint", "load_weights", "read_safely"]

_REFUSALS = ("GLOBAL ", "unrecognized function", "nsupported class")
"""How torch's restricted unpickler says that it met code, as against bytes that make no sense."""
_ADVICE = ("Weights only load failed", "Please file an issue", "Check the documentation", "Please use")
_TORCH_PICKLE_PROTOCOL = 2

_LISTED = 6  # keys named in an error before "and N more"


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds: `content` is the file's top-level mapping, `sha256` that of the file."""

    path: Path
    sha256: str
    content: Mapping[str, Any]

    def tensors(self, *wrappers: str) -> dict[str, Tensor]:
        """The tensors under the first of `wrappers` that the file has, else those at its top, by key."""
        inner = (self.content[name] for name in wrappers if isinstance(self.content.get(name), Mapping))
        content = next(inner, self.content)
        return {key: value for key, value in content.items() if isinstance(value, Tensor)}

    @contextlib.contextmanager
    def read_as(self, model: str, *, needed: str, remedy: str) -> Iterator[None]:
        """Around reading widths and counts off the shapes: what a foreign file raises there is a CheckpointError.

        needed : keys that tell the model. remedy : where its file is published.
        """
        try:
            yield
        except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as cause:
            raise CheckpointError(
                f"weights {str(self.path)!r} are not a checkpoint of {model}",
                seen="keys like " + (", ".join(list(self.content)[:4]) or "none"),
                needed=needed,
                remedy=remedy,
            ) from cause


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file without running anything in it. Raises CheckpointError."""
    content = read_safely(path)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"weights {str(path)!r} have an unknown layout",
            seen=f"a {type(content).__name__} at the top",
            needed="a mapping from names to tensors",
            remedy="Save the model's state_dict() instead of the model.",
        )
    return Checkpoint(path, sha256_of(path), content)


def read_safely(path: Path) -> Any:
    """Whatever stands at the top of a safetensors or torch file; nothing in it is run. Raises CheckpointError."""
    remedy = "Check the path, or download the file again."
    if not path.is_file():
        seen = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"cannot read weights {str(path)!r}", seen=seen, needed="a weights file", remedy=remedy)
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
        return _read(path, head)
    except OSError as cause:
        raise CheckpointError(
            f"cannot read weights {str(path)!r}", seen=cause.strerror or cause, needed="a readable file", remedy=remedy
        ) from cause


def _read(path: Path, head: bytes) -> Any:
    if not head:
        raise CheckpointError(
            f"weights {str(path)!r} are empty",
            seen="0 bytes",
            needed="a weights file",
            remedy="Download the file again.",
        )
    if _looks_like_safetensors(path, head):
        try:
            return load_file(path)
        except SafetensorError as cause:
            raise _damaged(path, cause) from cause
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        raise _damaged(path, "a zip archive without its directory")
    if head[:2] != b"PK" and head[:1] != b"\x80":
        raise CheckpointError(
            f"cannot tell what weights {str(path)!r} are",
            seen=f"a file that starts with {head[:8]!r}",
            needed="a safetensors file or a torch checkpoint",
            remedy="Convert it to safetensors, or check that the download is not a web page or a Git LFS pointer.",
        )
    if head[:1] == b"\x80" and head[1] > _TORCH_PICKLE_PROTOCOL:
        raise CheckpointError(
            f"weights {str(path)!r} are a plain pickle and were not run",
            seen=f"pickle protocol {head[1]}",
            needed=f"what torch.save writes (protocol {_TORCH_PICKLE_PROTOCOL}), or safetensors",
            remedy="Ask for a safetensors file; a pickle may hold malicious code.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            with torch.serialization.safe_globals([argparse.Namespace]):  # training options: names and plain values
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        # torch wraps its reason in paragraphs of advice
        reason = " ".join(p for p in str(cause).splitlines() if p.strip() and not p.startswith(_ADVICE)) or str(cause)
        if any(mark in reason for mark in _REFUSALS):
            raise CheckpointError(
                f"weights {str(path)!r} hold more than tensors and were not run",
                seen=_offender(reason),
                needed="tensors and plain containers only",
                remedy="Ask for a safetensors file; a pickle that names code may be malicious.",
            ) from cause
        raise _damaged(path, reason) from cause
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as cause:
        raise _damaged(path, cause) from cause


def _looks_like_safetensors(path: Path, head: bytes) -> bool:
    """A little-endian header length, then JSON."""
    return path.suffix == ".safetensors" or head[8:9] == b"{"


def _offender(reason: str) -> str:
    """The global that torch's unpickler refused, from its message."""
    if "GLOBAL " in reason:
        return "a reference to " + reason.partition("GLOBAL ")[2].split()[0].rstrip(".,")
    return reason.splitlines()[0][:120]


def _damaged(path: Path, cause: object) -> CheckpointError:
    seen = " ".join(str(cause).split())[:160]
    return CheckpointError(
        f"weights {str(path)!r} are damaged or truncated",
        seen=seen or type(cause).__name__,
        needed="a complete safetensors file or torch checkpoint",
        remedy="Download the file again and compare its size.",
    )


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Make the tensors the network's own, as FP32, demanding equal keys and shapes.

    Raises CheckpointError that lists what is missing, unexpected or misshapen.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(faults.values()):
        raise CheckpointError(
            f"weights {str(origin)!r} do not fit the network",
            seen="; ".join(f"{len(keys)} {name}: {_some(keys)}" for name, keys in faults.items() if keys),
            needed=f"exactly the network's {len(wanted)} tensors",
            remedy="Check that the file belongs to this model and version.",
        )
    # assign: no second copy, and networks made on the meta device become real
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    broken = [key for key, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"weights {str(origin)!r} are not usable",
            seen=f"non-finite values in {_some(broken)}",
            needed="finite numbers",
            remedy="Use another checkpoint; this one diverged in training or is corrupt.",
        )


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
