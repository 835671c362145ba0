"""Builds for the CPU: every engine is proved, the fastest that passes runs the bundle, and nothing is silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoomrt
from zoomrt.bundle import open_bundle
from zoomrt.calibration.options import Calibration
from zoomrt.errors import ExportError, MissingDependency, PrecisionError, RuntimeFault, UsageError
from zoomrt.export.build import build
from zoomrt.export.engines import cpu as module
from zoomrt.export.engines.cpu import CpuEngine, Graphs, Trials, cpu_engines
from zoomrt.export.engines.speed import Timing
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildRequest
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY
from zoomrt.runtime import backends
from zoomrt.runtime.backends import BACKENDS
from zoomrt.runtime.sessions import openvino as openvino_session
from zoomrt.runtime.sessions.openvino import OpenVinoSession
from zoomrt.runtime.upscaler import engine_of

EASY = Calibration(tiles=3, min_psnr_db=15.0)
ORT, OPENVINO, BF16 = CpuEngine("onnxruntime"), CpuEngine("openvino"), CpuEngine("openvino", "bf16")


@pytest.fixture
def openvino() -> None:
    pytest.importorskip("openvino")


@pytest.fixture
def with_bf16() -> None:
    pytest.importorskip("openvino")
    if "BF16" not in openvino_session.cpu_capabilities():
        pytest.skip("this processor has no BF16")


def request(weights: Path, **changes: object) -> BuildRequest:
    return BuildRequest(**{"weights": weights, "tile": 32, "overlap": 8, **changes})  # type: ignore[arg-type]


def pretend(monkeypatch: pytest.MonkeyPatch, milliseconds: Mapping[str, float]) -> list[str]:
    """Replace the stopwatch by these figures; returns the engines that were to be timed. They are loaded and run."""
    asked: list[str] = []

    def stopwatch(engines: Mapping[str, Any], batch: np.ndarray) -> dict[str, Timing]:
        asked.extend(engines)
        for load in engines.values():
            with load() as session:
                assert np.isfinite(session.run(batch)).all()
        return {name: Timing(milliseconds[name], milliseconds[name], 1) for name in engines}

    monkeypatch.setattr(module, "time_in_turns", stopwatch)
    return asked


@pytest.mark.usefixtures("openvino")
@pytest.mark.parametrize("faster", ["onnxruntime", "openvino"])
def test_the_fastest_runs_the_bundle(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch, faster: str, rng: np.random.Generator
) -> None:
    times = {"onnxruntime": 5.0, "openvino": 5.0, faster: 4.0}
    asked = pretend(monkeypatch, times)
    manifest = build(request(tiny_edge_weights, batches=(1, 2)), tmp_path / "b").manifest
    assert asked == ["onnxruntime", "openvino"]
    assert manifest == open_bundle(tmp_path / "b").manifest
    assert (manifest.backend, manifest.arithmetic, manifest.precision) == (faster, "fp32", "fp32")
    assert manifest.speed.chosen == faster
    assert {name: row.median_ms for name, row in manifest.speed.engines.items()} == times
    assert (manifest.speed.batch, manifest.speed.ratio_to_fp32) == (2, None)
    for batch in ("1", "2"):
        results = {r.runner: r.psnr_db for r in manifest.parity[batch].results}
        assert results.keys() == times.keys()
        assert min(results.values()) >= 80
    assert "openvino" in manifest.versions
    # what runs it gives the network's own numbers
    frame = rng.uniform(0, 1, (32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        lr = torch.from_numpy(frame.transpose(2, 0, 1)[None] * 2 - 1)
        wanted = FAMILY.network(load_checkpoint(tiny_edge_weights))(lr).numpy()
    with zoomrt.load(tmp_path / "b") as upscaler:
        got = engine_of(upscaler).session.run(lr.numpy())  # type: ignore[union-attr, call-arg]
        assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.usefixtures("openvino")
def test_a_forced_runner_is_not_timed_against_another(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend(monkeypatch, {})
    for backend in ("openvino", "onnxruntime"):
        manifest = build(request(tiny_edge_weights, backend=backend), tmp_path / backend).manifest
        assert (manifest.backend, manifest.speed, asked) == (backend, None, [])
        assert [r.runner for r in manifest.parity["1"].results] == [backend]


@pytest.mark.usefixtures("openvino")
def test_an_engine_with_wrong_numbers_is_left_out_and_named(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(OpenVinoSession):
        def _execute(self, batch: np.ndarray) -> np.ndarray:
            return super()._execute(batch) * np.float32(1.01)

    pretend(monkeypatch, {})
    with BACKENDS.added(replace(BACKENDS.named("openvino"), open=Wrong)):
        manifest = build(request(tiny_edge_weights), tmp_path / "b", use_cache=False).manifest
        assert manifest.backend == "onnxruntime"
        assert [w for w in manifest.warnings if "openvino was not taken: the graph does not match torch FP32" in w]
        with pytest.raises(ExportError, match=r"does not match torch FP32.*\(openvino\)"):
            build(request(tiny_edge_weights, backend="openvino"), tmp_path / "c", use_cache=False)
    assert not (tmp_path / "c").exists()


@pytest.mark.usefixtures("with_bf16")
def test_bf16(tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, {"openvino bf16": 3.0, "onnxruntime fp32": 4.0, "openvino fp32": 5.0})
    manifest = build(request(tiny_edge_weights, precision="bf16"), tmp_path / "b").manifest
    assert asked == ["openvino bf16", "onnxruntime fp32", "openvino fp32"]
    assert (manifest.backend, manifest.arithmetic, manifest.tile.dtype) == ("openvino", "bf16", "float32")
    assert manifest.speed.ratio_to_fp32 == 0.75
    (result,) = manifest.parity["1"].results
    assert (result.runner, result.needed_psnr_db) == ("openvino bf16", 40.0)
    assert 40 <= result.psnr_db <= 90  # more would not be BF16
    assert not [w for w in manifest.warnings if "no faster" in w]


@pytest.mark.usefixtures("with_bf16")
def test_bf16_of_real_weights_is_far_above_its_minimum(tmp_path: Path) -> None:
    """The evidence for 40 dB: `edge` as it ships, on photograph and fresh noise."""
    manifest = build(BuildRequest(precision="bf16", tile=64), tmp_path / "b").manifest
    assert manifest.parity["1"].results[0].psnr_db >= 60


@pytest.mark.usefixtures("with_bf16")
def test_int8_with_either_rest(tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"onnxruntime": 9.0, "openvino": 5.0, "openvino bf16": 4.0, "onnxruntime fp32": 8.0, "openvino fp32": 10.0}
    asked = pretend(monkeypatch, times)
    wanted = request(tiny_edge_weights, precision="int8", calibration=EASY, require_faster=True)
    manifest = build(wanted, tmp_path / "b").manifest
    assert asked == list(times)
    assert (manifest.backend, manifest.arithmetic, manifest.precision) == ("openvino", "bf16", "int8")
    assert manifest.speed.ratio_to_fp32 == 0.5  # to the faster of both in FP32
    assert not [w for w in manifest.warnings if "FP32 on a CPU" in w]
    # the FP32 graph was for the comparison only
    assert set(manifest.files) == {"int8-b1.onnx", "calibration.md", "calibration.png"}
    with zoomrt.load(tmp_path / "b") as upscaler:
        upscaler.upscale(np.zeros((40, 40, 3), np.uint8))


@pytest.mark.usefixtures("openvino")
def test_fewer_bits_that_are_slower_are_warned_of_or_refused(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, {"onnxruntime": 9.0, "onnxruntime fp32": 8.0})
    asked = {"precision": "int8", "calibration": EASY, "backend": "onnxruntime"}
    manifest = build(request(tiny_edge_weights, **asked), tmp_path / "b").manifest
    said = "int8 was measured no faster than FP32 here: 9.0 ms in onnxruntime, 8.0 ms for FP32 in onnxruntime"
    assert [warning for warning in manifest.warnings if warning.startswith(said)]
    with pytest.raises(PrecisionError, match=r"int8 is not faster than FP32.*9\.0 ms.*--require-faster"):
        build(request(tiny_edge_weights, **asked, require_faster=True), tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16", "backend": "openvino"}, "openvino does not run fp16 on a CPU"),
        ({"precision": "bf16", "backend": "onnxruntime"}, "onnxruntime does not run bf16 on a CPU"),
        ({"precision": "bf16", "target": "sm89"}, "does not build bf16 for target sm89"),
        ({"target": "sm89", "precision": "fp16", "backend": "openvino"}, "cannot be built with that backend"),
        ({"require_faster": True}, "--require-faster says nothing about fp32"),
        ({"precision": "fp16", "require_faster": True}, "--require-faster says nothing about fp16"),
        ({"precision": "int8", "target": "sm89", "require_faster": True}, "cannot be answered for this target"),
    ],
)
def test_what_cannot_be_is_refused_before_work_starts(
    tmp_path: Path, tiny_edge_weights: Path, changes: dict[str, Any], said: str
) -> None:
    stages: list[str] = []
    with pytest.raises(UsageError, match=said):
        build(request(tiny_edge_weights, **changes), tmp_path / "b", on_progress=lambda stage, _: stages.append(stage))
    assert stages == []


def test_a_processor_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda _: True)
    monkeypatch.setattr(openvino_session, "cpu_capabilities", lambda: frozenset({"FP32", "INT8"}))
    with pytest.raises(
        UsageError, match=r"cannot compute in BF16: got OpenVINO computes in fp32 here, need AMX or AVX-512"
    ):
        cpu_engines(PRECISIONS.named("bf16"))
    assert cpu_engines(PRECISIONS.named("int8")) == (ORT, OPENVINO)
    monkeypatch.setattr(openvino_session, "cpu_capabilities", lambda: frozenset({"FP32", "INT8", "BF16"}))
    assert cpu_engines(PRECISIONS.named("bf16")) == (BF16,)
    assert cpu_engines(PRECISIONS.named("int8-all")) == (ORT, OPENVINO, BF16)
    assert cpu_engines(PRECISIONS.named("int8"), "openvino") == (OPENVINO, BF16)
    assert cpu_engines(PRECISIONS.named("fp32")) == (ORT, OPENVINO)
    assert cpu_engines(PRECISIONS.named("fp16")) == (ORT,)


def test_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "is_installed", lambda name: name != "openvino")
    assert cpu_engines(PRECISIONS.named("fp32")) == cpu_engines(PRECISIONS.named("int8")) == (ORT,)
    for precision, backend in (("bf16", None), ("fp32", "openvino")):
        with pytest.raises(MissingDependency, match=r"pip install 'zoomrt\[openvino\]'"):
            cpu_engines(PRECISIONS.named(precision), backend)


def test_trials_go_on_after_a_failure_and_end_with_the_first_if_all_fail() -> None:
    failures = {
        ORT: ExportError("a", seen=1, needed=2, remedy="b"),
        BF16: RuntimeFault("c", seen=1, needed=2, remedy=""),
    }

    def check(engine: CpuEngine) -> str:
        if engine in failures:
            raise failures[engine]
        return engine.name

    trials = Trials.of([ORT, OPENVINO, BF16], check)
    assert trials.passed == {OPENVINO: "openvino"}
    assert trials.refused == {"onnxruntime": failures[ORT], "openvino bf16": failures[BF16]}
    with pytest.raises(ExportError) as caught:
        Trials.of([ORT, BF16], check)
    assert caught.value is failures[ORT]


def test_the_graphs_of_a_bundle_in_the_making_are_what_ships(
    tmp_path: Path, tiny_edge_weights: Path, rng: np.random.Generator
) -> None:
    """`Graphs.load` gives the session that a load of the finished bundle gives."""
    manifest = build(request(tiny_edge_weights, backend="onnxruntime"), tmp_path / "b").manifest
    graphs = Graphs(tmp_path / "b", {1: manifest.graphs["1"]}, "fp32", manifest.tile)
    lr = rng.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    with graphs.load(ORT, 1) as one, zoomrt.load(tmp_path / "b") as upscaler:
        assert type(one) is type(engine_of(upscaler).session)
        assert np.array_equal(one.run(lr), engine_of(upscaler).session.run(lr))  # type: ignore[call-arg, arg-type]
