"""A compiled kernel: what a launcher must know of it, what it takes of the GPU, and whether the GPU has that.

The figures are read back from the binary by cuobjdump, which Triton brings along. The dynamic shared memory alone is
not in it: that is an argument of the launch, and comes from the compiler.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import msgspec

from zoomrt.errors import PluginError
from zoomrt.files import scratch_folder


@dataclass(frozen=True)
class Limits:
    """Of one thread block."""

    shared_bytes: int
    """Shared memory, static and dynamic, for a kernel that asks for more than 48 KB."""
    registers_per_thread: int = 255
    registers: int = 65536
    threads: int = 1024


_KB = 1024
LIMITS = {
    75: Limits(64 * _KB),
    80: Limits(163 * _KB),
    86: Limits(99 * _KB),
    89: Limits(99 * _KB),
    90: Limits(227 * _KB),
    120: Limits(99 * _KB),
    121: Limits(99 * _KB),
}
"""SM -> limits: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability"."""

_WARP, _REGISTER_UNIT = 32, 256
"""Threads of a warp; registers are handed to a warp in such units (the same table)."""
_USAGE = re.compile(r"Function ([\w$]+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class Resources(msgspec.Struct, frozen=True):
    """What one kernel of a binary takes."""

    registers: int
    """Per thread."""
    spilled_bytes: int
    """Stack and local memory of a thread: values that found no register. In device memory, so it costs speed only."""
    static_shared_bytes: int
    """Per block. From SM90 on with the 1 KB that the system reserves in a kernel with shared memory."""


class Compiled(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One kernel for one SM, as the compiler left it."""

    entry: str
    """Symbol in cubin and PTX."""
    shared_bytes: int
    """Dynamic shared memory of a launch."""
    resources: Resources
    cubin: bytes
    ptx: str
    """The text that `cubin` was assembled from."""
    compiler: str
    """Triton and ptxas, with versions."""


def read_resources(cubin: bytes, entry: str, cuobjdump: str) -> Resources:
    """The figures of kernel `entry`. cuobjdump : path of the tool.

    Raises PluginError if the tool does not find the kernel in the binary.
    """
    with scratch_folder() as folder:
        file = folder / "kernel.cubin"
        file.write_bytes(cubin)
        answer = subprocess.run([cuobjdump, "-res-usage", file], capture_output=True, text=True, check=False)
    found = {match[1]: [int(number) for number in match.groups()[1:]] for match in _USAGE.finditer(answer.stdout)}
    if entry not in found:
        raise PluginError(
            f"cannot read the binary of kernel {entry!r} back",
            seen=(answer.stderr or answer.stdout).strip()[:200] or "no output of cuobjdump",
            needed="a line with its registers and shared memory",
            remedy="Install the triton that the extra 'kernels' names; if it stays, report it.",
        )
    registers, stack, shared, local = found[entry]
    return Resources(registers, stack + local, shared)


def check_fit(compiled: Compiled, name: str, sm: int, warps: int, *, may_spill: bool = False) -> None:
    """Raises PluginError with the figures if `sm` could not launch this kernel, of configuration `name`, or it spills.

    may_spill : it runs all the same, only slower; a configuration says that this is known.
    """
    limits, used = LIMITS[sm], compiled.resources
    registers_per_warp = -(-used.registers * _WARP // _REGISTER_UNIT) * _REGISTER_UNIT
    figures = (
        ("threads per block", warps * _WARP, limits.threads),
        ("registers per thread", used.registers, limits.registers_per_thread),
        ("registers per block", warps * registers_per_warp, limits.registers),
        ("bytes of shared memory", used.static_shared_bytes + compiled.shared_bytes, limits.shared_bytes),
        ("spilled bytes per thread", used.spilled_bytes, used.spilled_bytes if may_spill else 0),
    )
    over = [(what, seen, most) for what, seen, most in figures if seen > most]
    if over:
        raise PluginError(
            f"kernel {name!r} does not fit SM{sm}",
            seen=", ".join(f"{seen} {what}" for what, seen, _ in over),
            needed=", ".join(f"at most {most} {what}" for what, _, most in over),
            remedy="Use smaller blocks, fewer stages or fewer warps, or take this SM off the configuration's `sms`.",
        )
