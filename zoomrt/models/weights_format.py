"""What kind of weights file this is, by its first bytes. Needs no torch: a cached build looks and hashes, no more.

Looked at before a file is hashed, so that a disk image is refused at once and not after its last byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from zoomrt.errors import CheckpointError
from zoomrt.files import open_file, shown

WeightsFormat = Literal["safetensors", "torch"]


def format_of(path: Path) -> WeightsFormat:
    """Raises CheckpointError for a file of something else, and for one that cannot be read."""
    with open_file(path, CheckpointError, needed="a weights file") as stream:
        head = stream.read(16)
    if head[8:9] == b"{" or (path.suffix == ".safetensors" and head):  # a header's length, then JSON
        return "safetensors"
    if head[:2] == b"PK" or head[:1] == b"\x80":  # a zip archive; a pickle of protocol 2 or later
        return "torch"
    raise foreign_file(path, f"a file that starts with {head[:8]!r}" if head else "0 bytes")


def foreign_file(path: Path, seen: object) -> CheckpointError:
    """For what is whole, but no weights file."""
    return CheckpointError(
        f"cannot use weights {shown(path)}",
        seen=seen,
        needed="a state dict that torch.save wrote, or a safetensors file",
        remedy="Convert it, or check that the download is whole and not a web page or a Git LFS pointer.",
    )
