"""What the machine says about itself: a GPU that does not tell something costs no figure and no run."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from zoomrt.bench.machine import gpus


class NVMLError(Exception):
    pass


class Nvml:
    """As `pynvml`, with a count of what is open."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *failing: str) -> None:
        self.failing, self.open, self.watts = failing, 0, random.randrange(500) + 0.5

    def __getattribute__(self, name: str) -> Any:
        if name != "failing" and name in self.failing:
            return self._refuse
        return super().__getattribute__(name)

    def _refuse(self, *_: object) -> None:
        raise NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, _: int) -> str:
        return "GPU"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "595"

    def nvmlDeviceGetMemoryInfo(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(total=24e9)

    def nvmlDeviceGetClockInfo(self, _: int, kind: int) -> int:
        return 1000 * kind

    def nvmlDeviceGetTemperature(self, *_: int) -> int:
        return 40

    def nvmlDeviceGetPowerUsage(self, _: int) -> float:
        return self.watts * 1e3


ALL = {"name": "GPU", "driver": "595", "memory_gb": 24.0, "sm_mhz": 1000, "memory_mhz": 2000, "temperature_c": 40}


@pytest.mark.parametrize(
    ("failing", "lost"),
    [
        ((), ()),
        (("nvmlDeviceGetPowerUsage",), ("power_w",)),
        (("nvmlDeviceGetClockInfo", "nvmlDeviceGetTemperature"), ("sm_mhz", "memory_mhz", "temperature_c")),
    ],
)
def test_what_a_gpu_does_not_tell_is_null(
    failing: tuple[str, ...], lost: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = Nvml(*failing)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    told = {**ALL, "power_w": nvml.watts}
    assert gpus() == [{name: None if name in lost else value for name, value in told.items()}]
    assert nvml.open == 0


@pytest.mark.parametrize("failing", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_without_its_gpu_is_no_gpu(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml(failing)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpus() == []
    assert nvml.open == 0
