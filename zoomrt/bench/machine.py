"""The machine, the packages and the code behind a figure; and this process's memory while it is being made.

Clocks, governor and temperature are given where the system tells them: a virtual machine mostly does not. Of GPUs, what
NVML says through `pynvml` (package nvidia-ml-py), if it is installed and there is a driver.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import zoomrt
from zoomrt.bench.record import Memory
from zoomrt.runtime.resources import core_count

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_SAMPLE_S = 0.05


def cpu_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Plain JSON; null where the system does not tell."""
    affinity = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    return {
        "cpu": cpu_name(),
        "cores": core_count(),
        "affinity": affinity,
        "governor": _GOVERNOR.read_text().strip() if _GOVERNOR.exists() else None,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        **conditions(),
    }


def conditions() -> dict[str, Any]:
    """What changes while a benchmark runs: clock, temperature, load, and what `gpus` says."""
    clocks = psutil.cpu_freq()
    temperatures: dict[str, Any] = getattr(psutil, "sensors_temperatures", dict)()
    readings = [one.current for sensors in temperatures.values() for one in sensors]
    return {
        "clock_mhz": round(clocks.current) if clocks else None,
        "hottest_c": max(readings, default=None),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpus": gpus(),
    }


def gpus() -> list[dict[str, Any]]:
    """Name, driver, memory, clocks, temperature and power of each NVIDIA GPU; none without NVML, null for what a GPU
    does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, no permission: all mean that there is nothing to read
        return []
    try:
        return [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # the driver is there and its GPU is not
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)
    fields: dict[str, Callable[[], Any]] = {
        "name": lambda: nvml.nvmlDeviceGetName(gpu),
        "driver": lambda: nvml.nvmlSystemGetDriverVersion(),
        "memory_gb": lambda: round(nvml.nvmlDeviceGetMemoryInfo(gpu).total / 1e9, 1),
        "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "power_w": lambda: round(nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3, 1),
    }
    found = dict.fromkeys(fields)
    for name, read in fields.items():
        with contextlib.suppress(nvml.NVMLError):  # "Not Supported": passively cooled, virtual or integrated GPUs
            found[name] = read()
    return found


def versions(*packages: str) -> dict[str, str]:
    """Python, zoomrt and these distributions."""
    found = {"python": platform.python_version()}
    for package in ("zoomrt", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def code_state(folder: Path | None = None) -> str:
    """`git describe` of the tree that holds zoomrt (or of `folder`), with -dirty where it was changed."""
    place = folder or Path(zoomrt.__file__).parent
    line = ["git", "-C", str(place), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "no git tree"
    return done.stdout.strip()


class MemoryWatch:
    """Samples resident memory in a thread, twenty times a second, from `with` to its end."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._at: list[float] = []
        self._bytes: list[int] = []
        self._marks: list[tuple[float, str]] = []
        self._done = threading.Event()
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._work, name="zoomrt memory", daemon=True)

    def mark(self, label: str) -> None:
        """Something begins now."""
        self._marks.append((round(time.perf_counter() - self._started, 2), label))

    def now_mb(self) -> float:
        return float(self._process.memory_info().rss / 1e6)

    def result(self, most: int = 600) -> Memory:
        """Every n-th sample so that no more than `most` are left; the peak is that of all."""
        at, taken = list(self._at), list(self._bytes)
        step = max(1, -(-len(taken) // most))
        highest = [max(taken[i : i + step]) for i in range(0, len(taken), step)]
        return Memory(
            at_s=tuple(round(second, 2) for second in at[::step]),
            mb=tuple(round(value / 1e6, 1) for value in highest),
            marks=tuple(self._marks),
            peak_mb=round(max(taken, default=0) / 1e6, 1),
        )

    def _work(self) -> None:
        while not self._done.is_set():
            self._at.append(time.perf_counter() - self._started)
            self._bytes.append(self._process.memory_info().rss)
            self._done.wait(_SAMPLE_S)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
