"""A precision of another package: proved at its own bar, run, timed and shown; no file of zoomrt has its name."""

from __future__ import annotations

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
from zoomrt.export.targets import TARGETS, check_precision


@pytest.fixture(scope="module")
def bundle(toys: Path, tiny_edge_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    path = tmp_path_factory.mktemp("toy16") / "b"
    words = ["--weights", str(tiny_edge_weights), "--tile", "32", "--precision", "toy16", "--no-cache", "-q"]
    assert run(build.cli, [*words, "-o", str(path)]) == 0
    return path


def test_built_at_its_own_bar_and_run(bundle: Path, rng: np.random.Generator) -> None:
    manifest = open_bundle(bundle).manifest
    assert (manifest.precision, manifest.backend, manifest.tile.dtype) == ("toy16", "toy", "float16")
    assert manifest.numerics is not None
    proofs = [*manifest.parity["1"].results, *manifest.numerics.results]
    assert {proof.needed_psnr_db for proof in proofs} == {38.0}
    with zoomrt.load(bundle) as upscaler:
        assert upscaler.upscale(rng.integers(0, 256, (40, 50, 3), np.uint8)).shape == (160, 200, 3)


def test_shown(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    assert run(doctor.cli, [str(bundle)]) == 0
    assert "edge toy16 took 32 x 32" in capfd.readouterr().out
    monkeypatch.setattr("zoomrt.bench.roofline._SIDE", 64)
    monkeypatch.setattr("zoomrt.bench.roofline._COPY_BYTES", 1 << 20)
    words = ["--repeats", "3", "--seconds", "0", "--threads", "1", "-q", "--json", str(tmp_path / "r.json")]
    assert run(bench.cli, [str(bundle), *words]) == 0
    (row,) = read_record(tmp_path / "r.json").rows
    assert row.detail.startswith("toy, toy16")


@pytest.mark.usefixtures("toys")
def test_who_does_it() -> None:
    toy16 = PRECISIONS.named("toy16")
    assert TARGETS["cpu"].precisions == ("fp32", "fp16", "bf16", "int8", "toy16")
    assert cpu_engines(toy16) == (CpuEngine("toy"),)
    with pytest.raises(UsageError, match="openvino does not run toy16 on a CPU"):
        cpu_engines(toy16, "openvino")
    with pytest.raises(UsageError, match="does not build toy16 for target sm89"):
        check_precision(toy16, TARGETS["sm89"])


def test_a_variant_is_built_wherever_its_kind_is() -> None:
    strict = replace(PRECISIONS.named("fp16"), name="fp16-strict", minimum_psnr_db=60.0)
    with PRECISIONS.added(strict):
        for target in TARGETS.values():
            check_precision(PRECISIONS.named("fp16-strict"), target)
        assert cpu_engines(strict) == (CpuEngine("onnxruntime"),)
        with pytest.raises(UsageError, match=r"unknown precision.*fp16-strict"):
            PRECISIONS.named("fp16-strickt")
    assert "fp16-strict" not in PRECISIONS.names()
