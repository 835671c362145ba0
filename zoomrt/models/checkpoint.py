"""Checkpoints from strangers, read safely: tensors and plain values, nothing that runs.

safetensors files by their own library, torch's by `torch_file.py`. Which state dict of a file is meant, and what stands
before its keys, is found in `state_dicts.py`; that its tensors are dense floating-point numbers is held here.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoomrt.errors import CheckpointError
from zoomrt.files import open_file, sha256_of, shown
from zoomrt.models.pickle_data import Made
from zoomrt.models.state_dicts import StateDict, described, find_state_dict, state_dicts
from zoomrt.models.torch_file import FAULTS, FLOATING, ForeignFile, StoredTensor, TorchFile, tensor_like
from zoomrt.models.weights_format import foreign_file, format_of

Network = TypeVar("Network", bound=nn.Module)
_DANGEROUS = re.compile(
    r"(?:os|posix|nt|sys|subprocess|shutil|socket|runpy|ctypes|pty)\..*|importlib\.(?:import_module|reload)"
    r"|(?:builtins|__builtin__)\.(?:eval|exec|execfile|compile|open|__import__|apply|input|breakpoint)"
)
"""Globals that no checkpoint has a use for. They would do nothing here; that a file names one is worth saying."""
_LISTED = 6  # keys named in an error before "and N more"


@dataclass(frozen=True)
class Checkpoint:
    """A weights file: `sha256` is that of the file, `states` are the state dicts in it, tensors not read yet."""

    path: Path
    sha256: str
    states: tuple[StateDict, ...] = field(repr=False)
    _file: TorchFile | None = field(default=None, repr=False)
    _read: dict[StoredTensor, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def find(self, *keys: str) -> StateDict | None:
        """The state dict that has all of `keys`, wrappers and prefix taken off; None if there is none.

        Of several an average of the weights comes first.
        """
        return find_state_dict(self.states, *keys)

    @property
    def described(self) -> str:
        """The first keys of its largest state dict, for a message."""
        return described(self.states)

    def tensors(self, state: StateDict, skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """The tensors of a state dict, read, but for keys with one of the endings `skip`.

        Raises CheckpointError for one that is not of dense floating-point numbers, and for a damaged file.
        """
        found: dict[str, Tensor | StoredTensor] = {}
        with _reading(self.path) as stream:
            for key, value in state.values.items():
                tensor = value if isinstance(value, Tensor) else tensor_like(value)
                if tensor is None or key.endswith(skip):
                    continue
                kind = tensor if isinstance(tensor, str) else str(tensor.dtype).removeprefix("torch.")
                if isinstance(tensor, str) or kind not in FLOATING:
                    raise _unusual(self.path, state.name_of(key), kind)
                found[key] = tensor
            if self._file is not None:
                stored = {tensor for tensor in found.values() if isinstance(tensor, StoredTensor)}
                self._read.update(self._file.load(stream, stored - self._read.keys()))
        return {key: tensor if isinstance(tensor, Tensor) else self._read[tensor] for key, tensor in found.items()}


def load_checkpoint(path: Path) -> Checkpoint:
    """Open a weights file without running anything in it. Raises CheckpointError."""
    content, file = _opened(path)
    if not isinstance(content, Mapping) or (isinstance(content, Made) and not content):
        raise CheckpointError(
            f"weights {shown(path)} have an unknown layout",
            seen=f"{_kind_of(content)} at the top",
            needed="a mapping from names to tensors",
            remedy="Save the model's state_dict() instead of the model.",
        )
    return Checkpoint(path, sha256_of(path, CheckpointError), tuple(state_dicts(content)), file)


def load_tensors(path: Path, skip: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The tensors at the top of a file; a bare one has the empty name. skip : endings of keys to leave out.

    Raises CheckpointError.
    """
    content, file = _opened(path)
    values = {"": content} if isinstance(content, Made) or not isinstance(content, Mapping) else content
    return Checkpoint(path, "", (), file).tensors(StateDict(values), skip)


def _kind_of(content: Any) -> str:
    return f"an object of {content.what}" if isinstance(content, Made) else f"a {type(content).__name__}"


def _opened(path: Path) -> tuple[Any, TorchFile | None]:
    """What stands at the top of a safetensors or torch file."""
    kind = format_of(path)
    with _reading(path) as stream:
        if kind == "safetensors":
            return load_file(path), None
        file = TorchFile.open(stream)
    if found := sorted(filter(_DANGEROUS.fullmatch, file.names)):
        raise CheckpointError(
            f"weights {shown(path)} hold more than tensors and were not run",
            seen="a reference to " + ", ".join(found[:_LISTED]),
            needed="tensors and plain values only",
            remedy="Do not use this file: no checkpoint needs that, malicious ones do. Ask for a safetensors file.",
        )
    return file.content, file


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The file, open; what a foreign, damaged or unreadable one raises becomes a CheckpointError."""
    with open_file(path, CheckpointError, needed="a weights file") as stream:
        try:
            yield stream
        except ForeignFile as cause:
            raise foreign_file(path, cause) from cause
        except (*FAULTS, SafetensorError) as cause:
            if isinstance(cause, OSError) and cause.errno != errno.EINVAL:  # the disk's, which open_file tells
                raise
            raise CheckpointError(
                f"weights {shown(path)} are damaged or truncated",
                seen=" ".join(str(cause).split())[:160] or type(cause).__name__,
                needed="a complete safetensors file or torch checkpoint",
                remedy="Download the file again and compare its size.",
            ) from cause


def _unusual(path: Path, key: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"tensor {key!r} of weights {shown(path)} cannot be used",
        seen=kind,
        needed="dense floating-point numbers",
        remedy="Save the network as it was trained, in FP32 or FP16; zoomrt quantises it itself.",
    )


def loaded(make: Callable[[], Network], tensors: Mapping[str, Tensor], origin: Path) -> Network:
    """A network with these weights, for one that computes buffers when it is made and so needs a device at once.

    It is made without memory first: what the tensors do not fit is refused before anything is taken for it.
    Raises as `load_weights`.
    """
    with torch.device("meta"):
        _check_fit(make(), tensors, origin)
    network = make()
    load_weights(network, tensors, origin)
    return network


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Make the tensors the network's own, as FP32, demanding equal keys and shapes.

    Raises CheckpointError that lists what is missing, unexpected or misshapen, or not finite.
    """
    _check_fit(network, tensors, origin)
    # assign: no second copy, and networks made on the meta device become real
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    broken = [key for key, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"weights {shown(origin)} are not usable",
            seen=f"non-finite values in {_some(broken)}",
            needed="finite numbers",
            remedy="Use another checkpoint; this one diverged in training or is corrupt.",
        )


def _check_fit(network: nn.Module, tensors: Mapping[str, Tensor], origin: Path) -> None:
    expected = network.state_dict()
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in tensors and tensors[key].shape != expected[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if any(faults.values()):
        raise CheckpointError(
            f"weights {shown(origin)} do not fit the network",
            seen="; ".join(f"{len(keys)} {name}: {_some(keys)}" for name, keys in faults.items() if keys),
            needed=f"exactly the network's {len(expected)} tensors",
            remedy="Check that the file belongs to this model and version.",
        )


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + more
