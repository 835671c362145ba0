"""A compiled kernel as a bundle carries it: one binary for one GPU, and all that a launch of it needs.

Part of the contract between export, which writes it, and runtime, which launches it: see `bundle.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from zoomrt.errors import BundleError, EngineMismatch

SCALARS = frozenset({"i1", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "fp32", "fp64"})
"""Triton's names of numbers that a launch can pass; pointers are `*` and the type that they point to."""
Grid = Annotated[str, Meta(max_length=200)]

_EM_CUDA = 190
_OSABI_AT, _MACHINE_AT, _FLAGS_AT, _HEADER_BYTES = 7, 18, 48, 64
_NEWER_ABI = 0x41
"""In binaries with this OS ABI the SM is the second byte of the flags, in older ones the first (seen in ptxas 12.9)."""


class KernelFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configuration of a kernel, compiled for one SM."""

    kernel: str
    """What it does, as in `tile_gather`."""
    file: str
    """The cubin."""
    entry: str
    """Symbol to launch."""
    arguments: tuple[tuple[str, str], ...]
    """(name, Triton type) of all that a launch passes, in order: `*fp16`, `*u8`, `i32`, `fp32`."""
    aligned: tuple[str, ...] = ()
    """Arguments that must be multiples of 16 (pointers: in bytes)."""
    constants: dict[str, int | float | str | bool | None]
    """What was fixed when it was compiled."""
    grid: tuple[Grid, Grid, Grid]
    """Thread blocks along each axis: arguments, constants and `extents` joined by + - * // and cdiv(a, b)."""
    extents: tuple[str, ...] = ()
    """Names in `grid` that the launcher knows from its buffers."""
    warps: Annotated[int, Meta(ge=1, le=32)]
    """Of 32 threads, along the first axis of a block."""
    shared_bytes: Annotated[int, Meta(ge=0, le=1 << 20)]
    """Dynamic shared memory of a launch; above 48 KB the kernel's attribute has to be raised first."""
    registers: Annotated[int, Meta(ge=0, le=1024)]
    spilled_bytes: Annotated[int, Meta(ge=0, le=1 << 30)]
    """Per thread."""


def kernel_key(name: str, sm: int) -> str:
    """`attention_d64_fp16:sm89`: the manifest's name for a configuration compiled for an SM."""
    return f"{name}:sm{sm}"


def coverage(kernels: Mapping[str, KernelFile]) -> dict[str, list[int]]:
    """Configuration -> the SMs that there is a binary for, ascending."""
    covered: dict[str, list[int]] = {}
    for key in kernels:
        name, _, sm = key.rpartition(":sm")
        covered.setdefault(name, []).append(int(sm))
    return {name: sorted(sms) for name, sms in sorted(covered.items())}


def find_kernel(kernels: Mapping[str, KernelFile], name: str, sm: int, *, fallback: str) -> KernelFile:
    """The binary of a configuration for the GPU at hand.

    fallback : what is done without it, for the message, as in "Frames are cut into tiles on the CPU instead."

    Raises EngineMismatch where the bundle has none; whether that ends the program is the caller's to decide.
    """
    if (found := kernels.get(kernel_key(name, sm))) is not None:
        return found
    others = coverage(kernels).get(name, [])
    raise EngineMismatch(
        f"the bundle has no kernel {name!r} for this GPU",
        seen=", ".join(f"SM{other}" for other in others) or "none",
        needed=f"SM{sm}",
        remedy=f"{fallback} For the kernel, install zoomrt[kernels] where the bundle is built and name this GPU.",
    )


def record_problems(kernel: KernelFile) -> Iterator[str]:
    """What of a record a launch could not be made of."""
    names = {name for name, _ in kernel.arguments}
    for name, kind in kernel.arguments:
        if not kind.startswith("*") and kind not in SCALARS:
            yield f"argument {name} of type {kind}"
    for name in kernel.aligned:
        if name not in names:
            yield f"alignment of {name}, which is no argument"


def check_binary(key: str, kernel: KernelFile, content: bytes, *, where: str, remedy: str) -> None:
    """Raises BundleError if a binary is for another GPU than its key says."""
    found = _sm_of(content[:_HEADER_BYTES])
    if not key.endswith(f":sm{found}"):
        raise BundleError(
            f"{where}: kernel {key!r} is not what its name says",
            seen=f"{kernel.file!r} with code for " + (f"SM{found}" if found else "no GPU"),
            needed=f"SM{key.rpartition(':sm')[2]}",
            remedy=remedy,
        )


def _sm_of(header: bytes) -> int | None:
    """The SM that a cubin is for, from its ELF header; None if it is none."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        return None
    if struct.unpack_from("<H", header, _MACHINE_AT) != (_EM_CUDA,):
        return None
    return header[_FLAGS_AT + (header[_OSABI_AT] == _NEWER_ABI)]
