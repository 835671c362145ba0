"""A backend of another package: built with, run, timed and checked, and no file of zoomrt knows its name."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import zoomrt
from zoomrt.bench.record import read_record
from zoomrt.bundle import open_bundle
from zoomrt.cli import bench, build, doctor
from zoomrt.cli._common import run
from zoomrt.errors import UsageError
from zoomrt.export.engines.cpu import CpuEngine, cpu_engines
from zoomrt.export.precisions import PRECISIONS
from zoomrt.runtime.backends import BACKENDS
from zoomrt.runtime.upscaler import engine_of

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture(scope="module")
def bundle(toys: Path, tiny_edge_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    path = tmp_path_factory.mktemp("toy") / "b"
    words = ["--weights", str(tiny_edge_weights), "--tile", "32", "--backend", "toy", "--no-cache", "-q"]
    assert run(build.cli, [*words, "-o", str(path)]) == 0
    return path


def test_built_and_run(bundle: Path, rng: np.random.Generator) -> None:
    manifest = open_bundle(bundle).manifest
    assert (manifest.target, manifest.backend, manifest.versions["toy-engine"]) == ("cpu", "toy", "1.0")
    assert {result.runner for result in manifest.parity["1"].results} == {"toy"}
    frame = rng.integers(0, 256, (40, 50, 3), np.uint8)
    with zoomrt.load(bundle) as toy, zoomrt.load(bundle, backend="onnxruntime") as other:
        assert type(engine_of(toy).session).__name__ == "ToySession"
        assert np.abs(toy.upscale(frame).astype(int) - other.upscale(frame)).max() <= 1


def test_timed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoomrt.bench.roofline._SIDE", 64)
    monkeypatch.setattr("zoomrt.bench.roofline._COPY_BYTES", 1 << 20)
    words = ["--repeats", "3", "--seconds", "0", "--threads", "1", "-q", "--json", str(tmp_path / "r.json")]
    assert run(bench.cli, [str(bundle), *words]) == 0
    record = read_record(tmp_path / "r.json")
    (row,) = record.rows
    assert row.latency is not None
    assert row.detail.startswith("toy, fp32")
    assert record.layers is None
    assert [note for note in record.notes if "cannot profile by layer: got Toy Engine" in note]


def test_checked(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(doctor.cli, [str(bundle)]) == 0
    out = capfd.readouterr().out
    assert "\n  toy          toy-engine 1.0" in out
    assert "\n  toy          the toy plays" in out
    assert "cpu, by toy" in out
    assert "edge fp32 took 32 x 32" in out


def test_candidate_of_every_build_for_the_cpu() -> None:
    assert CpuEngine("toy") in cpu_engines(PRECISIONS.named("fp32"))
    assert cpu_engines(PRECISIONS.named("fp32"), "toy") == (CpuEngine("toy"),)
    with pytest.raises(UsageError, match=r"toy does not run int8.*a precision of fp32, toy16"):
        cpu_engines(PRECISIONS.named("int8"), "toy")


def test_not_installed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with BACKENDS.added(replace(BACKENDS.named("toy"), module="no_such_toy")):
        assert run(build.cli, ["--backend", "toy", "-o", str(tmp_path / "b")]) == 14
        assert "pip install 'toy-engine'" in capfd.readouterr().err
        assert run(doctor.cli, []) == 0
        out = capfd.readouterr().out
        assert f"missing no_such_toy: {sys.executable} -m pip install 'toy-engine'" in out
        assert "the toy plays" not in out


def test_help_lists_it(toys: Path) -> None:
    path = os.pathsep.join([str(toys), *sys.path])
    words = [sys.executable, "-m", "zoomrt.cli.build", "--help"]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    text = " ".join(done.stdout.split())
    assert "onnxruntime, onnxruntime_cuda, openvino, tensorrt, tensorrt_rtx, toy" in text
    assert "fp8, toy16" in text
