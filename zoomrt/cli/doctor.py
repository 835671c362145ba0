"""trt-doctor: what is here, what is missing, the command that mends it, and a smoke run of about a second.

Exit code 0 when the core works (and the bundle, if one is named, runs one tile); else that of the error.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoomrt import __version__
from zoomrt.cli._common import ANY_PATH, EXTRAS, pip_line, say, shared_options, start
from zoomrt.errors import MissingDependency, StorageError, ZoomrtError
from zoomrt.files import cache_path, check_writable, free_bytes, total_bytes
from zoomrt.runtime.backends import BACKENDS, backends_for, is_installed

if TYPE_CHECKING:
    from zoomrt.runtime.session import SessionStats

CORE = ("click", "msgspec", "numpy", "onnxruntime", "PIL", "platformdirs", "rich")
"""Modules of the core install."""

_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader")


@click.command("trt-doctor")
@click.argument("bundle", required=False, type=ANY_PATH)
@shared_options
def cli(bundle: Path | None, quiet: bool) -> None:
    """Say what is here and what is missing, and run a tiny graph; with BUNDLE, also verify it and run one tile."""
    if not quiet:
        say(f"zoomrt {__version__} in {Path(__file__).parent.parent}")
        _print("machine", machine_lines())
        _print("packages", package_lines())
        _print("bundles for a GPU need", gpu_path_lines())
    missing = [module for module in CORE if not is_installed(module)]
    if missing:
        raise MissingDependency(
            "the core install is incomplete",
            seen="no " + ", ".join(missing),
            needed="every core package",
            remedy=f"Run: {sys.executable} -m pip install --force-reinstall zoomrt",
        )
    checks = [(one.name, one.check()) for one in backends_for("cpu") if one.installed and one.check]
    if bundle is not None and not quiet:
        _print("bundle", bundle_lines(bundle))
    if bundle is not None:
        checks.append(("bundle", run_one_tile(bundle)))
    if not quiet:
        _print("smoke run", checks)


def _print(title: str, lines: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
    say("", title)
    for name, text in lines:
        say(f"  {name:<12} {text}")


def machine_lines() -> Iterator[tuple[str, str]]:
    """(name, finding) about Python, the processor, memory, disk, the cache folder and the GPU."""
    yield "python", f"{platform.python_version()} at {sys.executable}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "cores", f"{_usable_cores()} usable of {os.cpu_count()}"
    yield "memory", _memory()
    yield "disk", f"{free_bytes('.') / 1e9:.0f} GB free here"
    yield "cache", _cache()
    yield "gpu", gpu()


def _cache() -> str:
    if (folder := cache_path()) is None:
        return "none for want of a home folder: set ZOOMRT_CACHE to a folder"
    try:
        check_writable(folder / "probe")
        writable = "writable"
    except StorageError as problem:
        writable = f"not writable ({problem.seen}): set ZOOMRT_CACHE to a folder that is"
    return f"{folder}, {total_bytes(folder) / 1e6:.0f} MB kept, {writable}"


def package_lines() -> Iterator[tuple[str, str]]:
    """(extra, its packages with versions, or the command that installs what is missing)."""
    yield "core", _versions(CORE)
    extras: list[tuple[str, tuple[str, ...], str]]
    extras = [(extra, modules, f"zoomrt[{extra}]") for extra, modules in EXTRAS.items()]
    for one in BACKENDS.records():
        if one.module not in CORE:
            extras.append((one.extra or one.name, (one.module,), one.requirement))
    for name, modules, requirement in extras:
        missing = [module for module in modules if not is_installed(module)]
        mend = f"; missing {', '.join(missing)}: {pip_line(requirement)}" if missing else ""
        yield name, _versions(modules) + mend


def gpu_path_lines() -> Iterator[tuple[str, str]]:
    """(part, finding) about what it takes to run engines on a GPU here."""
    from zoomrt.runtime.gpu.cuda_device import CudaDevice, require_driver

    try:
        require_driver("no bundle for a GPU runs here")
        device = CudaDevice()
        driver = f"{device.driver_version // 1000}.{device.driver_version % 1000 // 10}"
        yield "device", f"{device.name}, SM{device.sm}, a driver for CUDA {driver}"
    except ZoomrtError as problem:
        yield "device", str(problem)
    backends = backends_for("cuda")
    modules = (*EXTRAS["cuda"], *(one.module for one in backends if one.compiles))
    missing = [_distribution(module) for module in modules if not is_installed(module)]
    yield "packages", _versions(modules) + (f"; missing {', '.join(missing)}" if missing else "")
    yield from ((one.module, one.check()) for one in backends if one.installed and one.check)


def gpu() -> str:
    """What nvidia-smi says, or what its absence means here."""
    import subprocess
    from ctypes.util import find_library

    if shutil.which(_NVIDIA_SMI[0]) is None:
        driver = "a driver (libcuda) but no nvidia-smi" if find_library("cuda") else "no NVIDIA driver"
        return f"{driver}: engines for GPU targets are built here, not run"
    try:
        answer = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as cause:
        return f"nvidia-smi failed ({type(cause).__name__}): check the driver with nvidia-smi"
    return "; ".join(answer.stdout.strip().splitlines()) or "nvidia-smi lists none"


def bundle_lines(bundle: Path) -> Iterator[tuple[str, str]]:
    """(name, finding) about what a bundle is for: its target, and the GPUs its kernels are compiled for."""
    from zoomrt.bundle import open_bundle
    from zoomrt.bundle.kernel_file import coverage

    manifest = open_bundle(bundle, verify=False).manifest
    yield "target", f"{manifest.target}, by {manifest.backend}"
    covered = coverage(manifest.kernels)
    for name, sms in covered.items():
        yield "kernel", f"{name} for {', '.join(f'SM{sm}' for sm in sms)}"
    if manifest.engines and not covered:
        yield "kernel", "none: frames are cut and blended on the CPU"


def run_one_tile(bundle: Path) -> str:
    """Verify the bundle and upscale one tile of noise. Raises what load and upscale raise."""
    import numpy as np

    from zoomrt.runtime.upscaler import load

    with load(bundle, measure_batch=True) as upscaler:
        tile = upscaler.manifest.tile
        frame = np.random.default_rng(0).integers(0, 256, (tile.height, tile.width, 3), dtype=np.uint8)
        started = time.perf_counter()
        height, width = upscaler.upscale(frame).shape[:2]
        seconds = time.perf_counter() - started
        facts = f"{upscaler.manifest.family} {upscaler.manifest.precision}"
        batch = _batch_line(upscaler.stats)
    done = f"{facts} took {tile.width} x {tile.height} to {width} x {height} in {seconds:.2f} s"
    return f"{bundle} is whole; {done}{batch}"


def _batch_line(stats: SessionStats) -> str:
    """Which batch size was chosen, from what, and what was given up; empty where there was nothing to choose."""
    measured = ", ".join(f"{size} in {ms:.1f} ms" for size, ms in stats.batch_ms.items())
    return (f"; batches of {stats.batch}, measured: {measured}" if measured else "") + "".join(
        f"; {note}" for note in stats.notes
    )


def _versions(modules: tuple[str, ...]) -> str:
    return ", ".join(f"{_distribution(m)} {_version(m)}" for m in modules if is_installed(m)) or "none"


def _version(module: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(_distribution(module))
    except PackageNotFoundError:
        return "of unknown version"


def _distribution(module: str) -> str:
    known = {one.module: one.package for one in BACKENDS.records()} | {"PIL": "pillow", "skimage": "scikit-image"}
    return known.get(module, module).replace("_", "-").replace(".", "-")


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> str:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return "unknown on this system"
    page = os.sysconf("SC_PAGE_SIZE")
    free = f", {os.sysconf('SC_AVPHYS_PAGES') * page / 1e9:.1f} GB free" if "SC_AVPHYS_PAGES" in names else ""
    return f"{os.sysconf('SC_PHYS_PAGES') * page / 1e9:.1f} GB{free}"


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
