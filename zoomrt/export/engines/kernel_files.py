"""The compiled kernels of a bundle: those that its target's row names, for the GPUs that the row names."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from zoomrt.bundle import TileFacts
from zoomrt.bundle.kernel_file import KernelFile
from zoomrt.export.engines.process import Progress
from zoomrt.export.targets import Target
from zoomrt.kernels.binary import LIMITS
from zoomrt.kernels.compile import KernelBinary, compile_kernels
from zoomrt.kernels.configuration import Configuration, all_configurations

FOLDER = "kernels"
"""Of the binaries, inside the bundle."""

_NOT_LAUNCHED = ("bgr",)
"""Formats of frames that kernels could read, and that the runtime turns into RGB bytes on the CPU."""


def write_kernels(target: Target, tile: TileFacts, scratch: Path, report: Progress) -> dict[str, KernelFile]:
    """Compile the kernels of a target into `scratch`, and describe them for the manifest.

    tile : tells the type of the engine's tiles; what is for others is left out.

    Nothing where the target has none or Triton is not installed, see `without_kernels`. Raises PluginError for a kernel
    that does not compile or fit.
    """
    if not target.kernels or not _triton_is_here():
        return {}
    chosen = [one for one in all_configurations() if one.kernel in target.kernels and _is_for(one, tile)]
    sms = [int(name.removeprefix("SM")) for name in target.compute_capabilities] or list(LIMITS)
    report("kernels", 0.0)
    binaries = compile_kernels(chosen, sms, on_progress=lambda _, fraction: report("kernels", fraction))
    (scratch / FOLDER).mkdir(parents=True, exist_ok=True)
    return {binary.key: _written(binary, scratch) for binary in binaries}


def without_kernels(target: Target, kernels: Mapping[str, KernelFile]) -> list[str]:
    """The warning that a bundle without the kernels of its target carries."""
    if kernels or not target.kernels or _triton_is_here():
        return []
    names = f"{', '.join(target.kernels[:-1])} and {target.kernels[-1]}"
    return [
        f"no kernels {names} in the bundle, since triton is not installed here: frames will be cut and blended on the "
        "CPU; pip install 'zoomrt[kernels]' (Linux only) and build again for them"
    ]


def _triton_is_here() -> bool:
    return importlib.util.find_spec("triton") is not None


def _is_for(configuration: Configuration, tile: TileFacts) -> bool:
    """Names of configurations hold the type of the tiles and the format of the frames that they read or write."""
    other = {"float16": "fp32", "float32": "fp16"}[tile.dtype]
    return not {other, *_NOT_LAUNCHED} & set(configuration.name.split("_"))


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
