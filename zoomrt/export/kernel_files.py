"""The compiled kernels of a bundle: those that its target's row names, for the GPUs that the row names."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from zoomrt.export.pipeline import Progress
from zoomrt.export.targets import Target
from zoomrt.kernel_file import KernelFile
from zoomrt.kernels.compile import KernelBinary, compile_kernels
from zoomrt.kernels.configuration import Configuration, all_configurations

__all__ = ["FOLDER", "without_kernels", "write_kernels"]

FOLDER = "kernels"
"""Of the binaries, inside the bundle."""


def write_kernels(
    target: Target, dtype: Literal["float32", "float16"], scratch: Path, report: Progress
) -> dict[str, KernelFile]:
    """Compile the kernels of a target into `scratch`, and describe them for the manifest.

    dtype : of the engine's input and output; configurations for the other one are left out.

    Nothing where the target has none or Triton is not installed, see `without_kernels`. Raises PluginError for a kernel
    that does not compile or fit.
    """
    if not target.kernels or not _triton_is_here():
        return {}
    chosen = [one for one in all_configurations() if one.kernel in target.kernels and _takes(one, dtype)]
    sms = [int(name.removeprefix("SM")) for name in target.compute_capabilities]
    report("kernels", 0.0)
    binaries = compile_kernels(chosen, sms, on_progress=lambda _, fraction: report("kernels", fraction))
    (scratch / FOLDER).mkdir(parents=True, exist_ok=True)
    return {binary.key: _written(binary, scratch) for binary in binaries}


def without_kernels(target: Target, kernels: Mapping[str, KernelFile]) -> list[str]:
    """The warning that a bundle without the kernels of its target carries."""
    if kernels or not target.kernels or _triton_is_here():
        return []
    return [
        f"no {' and '.join(target.kernels)} kernels in the bundle, since triton is not installed here: frames will be "
        "cut and blended on the CPU; pip install 'zoomrt[kernels]' (Linux only) and build again for them"
    ]


def _triton_is_here() -> bool:
    return importlib.util.find_spec("triton") is not None


def _takes(configuration: Configuration, dtype: str) -> bool:
    """Whether a kernel works on tiles of that type, by the argument that holds them; True where there is none."""
    kind = configuration.signature.get("tiles")
    return kind is None or kind == {"float16": "*fp16", "float32": "*fp32"}[dtype]


def _written(binary: KernelBinary, scratch: Path) -> KernelFile:
    one, compiled = binary.configuration, binary.compiled
    file = f"{FOLDER}/{binary.file_name}"
    (scratch / file).write_bytes(compiled.cubin)
    return KernelFile(
        kernel=one.kernel,
        file=file,
        entry=compiled.entry,
        arguments=tuple(one.signature.items()),
        aligned=one.aligned,
        constants=dict(one.constants),
        grid=one.grid,
        extents=one.extents,
        warps=one.warps,
        shared_bytes=compiled.shared_bytes,
        registers=compiled.resources.registers,
        spilled_bytes=compiled.resources.spilled_bytes,
    )
