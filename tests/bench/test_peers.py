"""Peers run the same network: their pixels agree with torch; what they cannot run is a line with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zoomrt.bench import roofline
from zoomrt.bench.graph_cost import cost_of
from zoomrt.bench.record import Record, Row
from zoomrt.bench.report.table import render
from zoomrt.bench.run import BenchRequest, run_bench
from zoomrt.bench.timing import Rule
from zoomrt.bundle import open_bundle
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest

ROOT = Path(__file__).parent.parent.parent
QUICK = Rule(repeats=1, seconds=0.0)
ALIKE_DB = 80.0  # FP32 in another order of summation; `parity.MINIMUM_PSNR_DB`
ALIKE_BF16_DB = 30.0  # what OpenVINO chooses by itself, on random weights


@pytest.fixture(autouse=True)
def _small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_COPY_BYTES", 1 << 20)


def rows_of(record: Record) -> dict[str, Row]:
    return {row.name: row for row in record.rows}


def test_peers_of_a_one_step_model(tiny_edge_weights: Path, tmp_path: Path) -> None:
    build(BuildRequest(weights=tiny_edge_weights, tile=32, backend="onnxruntime"), tmp_path / "b", use_cache=False)
    peers = ("torch", "onnxruntime", "openvino")
    record = run_bench(BenchRequest(tmp_path / "b", peers, rule=QUICK, threads=1, weights=tiny_edge_weights))
    rows = rows_of(record)
    assert record.reference == "torch FP32"
    assert rows["torch"].psnr_db is not None
    for name in ("zoomrt", "torch", "onnxruntime"):
        assert rows[name].psnr_db >= ALIKE_DB  # type: ignore[operator]
    assert rows["openvino"].psnr_db is None or rows["openvino"].psnr_db >= ALIKE_BF16_DB
    assert all(row.gmac == pytest.approx(record.cost.gmac) for row in record.rows)  # type: ignore[union-attr]
    assert all(row.ratio is not None and row.ratio.n == 1 for row in record.rows[1:])
    # the package's own weights are not those of the bundle
    (engine, torch) = run_bench(BenchRequest(tmp_path / "b", ("torch",), rule=QUICK, threads=1)).rows
    assert "those that the bundle was built from" in str(torch.failed)
    assert engine.psnr_db is not None
    assert engine.psnr_db >= ALIKE_DB  # to the graph as it is written


def test_the_reference_of_fp16_is_torch_in_fp32(tiny_edge_weights: Path, tmp_path: Path) -> None:
    request = BuildRequest(weights=tiny_edge_weights, tile=32, precision="fp16", backend="onnxruntime")
    build(request, tmp_path / "b", use_cache=False)
    known = run_bench(BenchRequest(tmp_path / "b", rule=QUICK, threads=1, weights=tiny_edge_weights))
    assert known.reference == "torch FP32"
    assert 40.0 < known.rows[0].psnr_db < 120.0  # type: ignore[operator]
    unknown = run_bench(BenchRequest(tmp_path / "b", rule=QUICK, threads=1))
    assert (unknown.reference, unknown.rows[0].psnr_db) == ("none", None)
    assert any(note.startswith("no reference") for note in unknown.notes)


def test_peers_of_a_model_of_several_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("benchmarks", None)
    from benchmarks._random_files import skipdiff_file

    weights = skipdiff_file(tmp_path, true_size=False, accept=True)
    build(BuildRequest(model="skipdiff", weights=weights, tile=16), tmp_path / "b", use_cache=False)
    peers = ("torch", "onnxruntime", "openvino")
    record = run_bench(BenchRequest(tmp_path / "b", peers, rule=QUICK, threads=1, weights=weights))
    rows = rows_of(record)
    for name in ("zoomrt", "torch", "onnxruntime"):
        assert rows[name].psnr_db >= 60.0, rows[name].failed  # type: ignore[operator]
    assert rows["openvino"].latency is not None, rows["openvino"].failed
    bundle = open_bundle(tmp_path / "b")
    step = cost_of({bundle.file(bundle.manifest.graphs["step"]): 1}).gmac
    assert record.cost is not None
    assert record.cost.gmac >= bundle.manifest.steps * step
    assert set(record.parts) == set(bundle.manifest.graphs)
    assert record.parts["step"].gmac == pytest.approx(step)
    assert f"one call of step: {step:.2f} GMAC" in render(record)
    assert any("several graphs" in note for note in record.notes)


def test_every_family_has_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("benchmarks", None)
    from benchmarks.families import FILES
    from zoomrt.models.families import FAMILIES

    assert set(FILES) == set(FAMILIES.names())
