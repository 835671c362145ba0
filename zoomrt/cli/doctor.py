"""trt-doctor: what is here, what is missing, the command that mends it, and a smoke run of about a second.

Exit code 0 when the core works (and the bundle, if one is named, runs one tile); else that of the error.
"""

from __future__ import annotations

import base64
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomrt import __version__
from zoomrt.cli._common import ANY_PATH, EXTRAS, install_line, is_installed, say, shared_options, start
from zoomrt.errors import MissingDependency, RuntimeFault, StorageError, ZoomrtError
from zoomrt.files import cache_path, check_writable, free_bytes, total_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoomrt.runtime.session import SessionStats

CORE = ("click", "msgspec", "numpy", "onnxruntime", "PIL", "platformdirs", "rich")
"""Modules of the core install."""

SMOKE_GRAPH = base64.b64decode(
    "CAg6hwEKDwoBeAoBdxIBeSIEQ29udhIFc21va2UqMwgDCAMIAQgBEAEiJAAAAAAAAAAAAACAPwAAAAAAAIA/AAAAAAAAgD8AAAAAAAAAAEIBd1ob"
    "CgF4EhYKFAgBEhAKAggBCgIIAwoCCAgKAggIYhsKAXkSFgoUCAESEAoCCAEKAggDCgIICAoCCAhCBAoAEBI="
)
"""An ONNX model of 146 bytes, opset 18: a 1x1 Conv that reverses the channels of (1, 3, 8, 8) float32.

Made once with onnx.helper, so that the core install, which has no onnx package, can prove that its engine computes.
"""

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
    checks = [("onnxruntime", run_smoke_graph())]
    if is_installed("openvino"):
        checks.append(("openvino", run_smoke_graph_in_openvino()))
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
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not is_installed(module)]
        mend = f"; missing {', '.join(missing)}: {install_line(extra)}" if missing else ""
        yield extra, _versions(modules) + mend


def gpu_path_lines() -> Iterator[tuple[str, str]]:
    """(part, finding) about what it takes to run engines on a GPU here."""
    from zoomrt.runtime.gpu.cuda_device import CudaDevice, require_driver
    from zoomrt.runtime.quiet import import_onnxruntime

    try:
        require_driver("no bundle for a GPU runs here")
        device = CudaDevice()
        driver = f"{device.driver_version // 1000}.{device.driver_version % 1000 // 10}"
        yield "device", f"{device.name}, SM{device.sm}, a driver for CUDA {driver}"
    except ZoomrtError as problem:
        yield "device", str(problem)
    modules = ("cuda.core", "cuda.bindings", "tensorrt_rtx", "tensorrt")
    missing = [_distribution(module) for module in modules if not is_installed(module)]
    yield "packages", _versions(modules) + (f"; missing {', '.join(missing)}" if missing else "")
    there = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
    yield "onnxruntime", "with CUDA" if there else "without CUDA: that is the package onnxruntime-gpu, in its place"


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


def run_smoke_graph() -> str:
    """Run SMOKE_GRAPH in ONNX Runtime. Raises RuntimeFault on wrong numbers."""
    from zoomrt.runtime.sessions.onnxruntime import open_graph, session_options

    started = time.perf_counter()
    session = open_graph(SMOKE_GRAPH, session_options())
    _check_smoke("ONNX Runtime", "onnxruntime", lambda numbers: session.run(None, {"x": numbers})[0])
    return f"right numbers from a {len(SMOKE_GRAPH)}-byte graph in {(time.perf_counter() - started) * 1e3:.0f} ms"


def run_smoke_graph_in_openvino() -> str:
    """The same in OpenVINO, in FP32; also says what this processor does fast. Raises RuntimeFault on wrong numbers."""
    from zoomrt.runtime.quiet import import_openvino
    from zoomrt.runtime.sessions.openvino import cpu_capabilities

    started = time.perf_counter()
    core = import_openvino().Core()
    model = core.compile_model(core.read_model(SMOKE_GRAPH, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    _check_smoke("OpenVINO", "openvino", lambda numbers: model(numbers)[0])
    milliseconds = (time.perf_counter() - started) * 1e3
    fast = ", ".join(name for name in ("FP32", "BF16", "INT8") if name in cpu_capabilities())
    return f"right numbers from the same graph in {milliseconds:.0f} ms; this processor has {fast}"


def _check_smoke(engine: str, package: str, run: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Random numbers through SMOKE_GRAPH, compared with what it must give."""
    import numpy as np

    numbers = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    worst = float(np.abs(run(numbers) - numbers[:, ::-1]).max())
    if not worst <= 1e-6:
        raise RuntimeFault(
            f"{engine} computes wrong numbers on this machine",
            seen=f"a difference of {worst:.2g} in a 1x1 convolution",
            needed="at most 1e-6",
            remedy=f"Run: {sys.executable} -m pip install --force-reinstall {package}",
        )


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
    return {"PIL": "pillow", "skimage": "scikit-image"}.get(module, module.replace("_", "-").replace(".", "-"))


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
