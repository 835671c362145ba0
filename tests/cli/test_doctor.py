"""trt-doctor: says what is here and what is missing, and its smoke run would notice an engine that miscomputes."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_helpers import TILE, tree

from zoomrt.cli import doctor
from zoomrt.cli._common import run
from zoomrt.runtime.backends import BACKENDS
from zoomrt.runtime.sessions.common.smoke_graph import SMOKE_GRAPH


def test_a_sound_install_is_exit_0_with_every_finding(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(doctor.cli, []) == 0
    out, err = capfd.readouterr()
    assert err == ""
    for name in ("python", "cores", "memory", "disk", "cache", "gpu", "core", "export", "rtx", "onnxruntime"):
        assert f"\n  {name} " in out
    assert "right numbers" in out
    assert run(doctor.cli, ["--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_a_bundle_is_verified_and_run(nearest_bundle: Path, capfd) -> None:
    assert run(doctor.cli, [str(nearest_bundle)]) == 0
    assert f"took {TILE} x {TILE} to {4 * TILE} x {4 * TILE}" in capfd.readouterr().out


def test_what_the_gpu_path_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoomrt.errors import EngineMismatch

    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    lines = dict(doctor.gpu_path_lines())
    assert "no NVIDIA driver" in lines["device"]
    assert "onnxruntime" in lines
    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.require_driver", lambda _what: None)

    class Device:
        name, sm, driver_version = "Fake GPU", 89, 13020

    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.CudaDevice", Device)
    assert dict(doctor.gpu_path_lines())["device"] == "Fake GPU, SM89, a driver for CUDA 13.2"

    class Refused:
        def __init__(self) -> None:
            raise EngineMismatch("cannot use GPU 0", seen="an old driver", needed="a newer one", remedy="Update it.")

    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.CudaDevice", Refused)
    assert "got an old driver" in dict(doctor.gpu_path_lines())["device"]


def test_the_batch_that_was_chosen_is_told() -> None:
    from zoomrt.runtime.session import SessionStats

    assert doctor._batch_line(SessionStats(1)) == ""
    stats = SessionStats(2, {1: 4.0, 2: 6.04}, ["no room for 4"])
    assert doctor._batch_line(stats) == "; batches of 2, measured: 1 in 4.0 ms, 2 in 6.0 ms; no room for 4"


def test_a_damaged_bundle_is_its_error(nearest_bundle: Path, tmp_path: Path, capfd) -> None:
    for file in nearest_bundle.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data if file.suffix == ".json" else data[:-1] + bytes([data[-1] ^ 1]))
    before = tree(tmp_path)
    assert run(doctor.cli, [str(tmp_path)]) == 9
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "sha256" in err
    assert tree(tmp_path) == before


def test_a_missing_extra_comes_with_its_command(capfd) -> None:
    with BACKENDS.added(replace(BACKENDS.named("tensorrt_rtx"), module="no_rtx_here")):
        assert run(doctor.cli, []) == 0
    line = f"missing no_rtx_here: {sys.executable} -m pip install 'zoomrt[rtx]'"
    assert line in capfd.readouterr().out


def test_a_missing_core_package_is_an_error(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr(doctor, "CORE", (*doctor.CORE, "no_such_core"))
    assert run(doctor.cli, []) == 14
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "no_such_core" in err
    assert "pip install" in err


def test_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    import onnxruntime

    class Wrong:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, _names: object, feeds: dict[str, Any]) -> list[Any]:
            return [feeds["x"][:, ::-1] * np.float32(1.001)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    assert run(doctor.cli, []) == 12
    assert "wrong numbers" in capfd.readouterr().err


def test_the_smoke_graph_is_the_one_described() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(SMOKE_GRAPH)
    onnx.checker.check_model(model)
    assert len(SMOKE_GRAPH) == 146
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert model.opset_import[0].version == 18


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (SimpleNamespace(stdout="NVIDIA L4, 8.9, 580.65, 23034 MiB\n"), "NVIDIA L4, 8.9, 580.65, 23034 MiB"),
        (OSError("broken"), "nvidia-smi failed"),
        (SimpleNamespace(stdout=""), "lists none"),
    ],
)
def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch, outcome: object, text: str) -> None:
    def answer(*_: object, **__: object) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", answer)
    assert text in doctor.gpu()


def test_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    assert "no NVIDIA driver" in doctor.gpu()
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: "libcuda.so.1")
    assert "libcuda" in doctor.gpu()
