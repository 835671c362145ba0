"""Builds with 8-bit layers of a tiny `edge`: what is in the bundle, the gate, what is kept for the next build."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import zoomrt
from zoomrt.bundle import open_bundle
from zoomrt.bundle.records import CalibrationRecord, EngineReport, Quality, Ranking, TileSet
from zoomrt.calibration import options as calibration_options
from zoomrt.calibration import ranges
from zoomrt.calibration.data import Tiles
from zoomrt.calibration.options import Calibration
from zoomrt.calibration.placement import Placement
from zoomrt.errors import InputError, PrecisionError, UsageError
from zoomrt.export import cache
from zoomrt.export.build import build
from zoomrt.export.forms import eight_bit, quantisation
from zoomrt.export.forms.quantisation import Quantised, cost_against_fp16, prove_fp16_storage
from zoomrt.export.request import BuildRequest
from zoomrt.export.verify.sample_tiles import photograph_tile
from zoomrt.files import cache_path
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY
from zoomrt.models.half import keep_fp32, to_half
from zoomrt.runtime.sessions.onnxruntime import OnnxRuntimeSession

EASY = Calibration(tiles=3, min_psnr_db=15.0)
"""A gate that even random weights pass with everything quantised."""


def request(weights: Path, choice: Calibration | None = EASY, **changes: object) -> BuildRequest:
    given = {"weights": weights, "tile": 32, "overlap": 8, "precision": "int8", "calibration": choice, **changes}
    return BuildRequest(**given)  # type: ignore[arg-type]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """For values from -1 to 1."""
    return float(10 * np.log10(4 / np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


def int8_weights(graph: Path) -> int:
    kinds = [init.data_type for init in onnx.load(graph).graph.initializer if len(init.dims) > 1]
    return kinds.count(onnx.TensorProto.INT8)


def test_cpu_bundle(tmp_path: Path, tiny_edge_weights: Path) -> None:
    result = build(request(tiny_edge_weights, batches=(1, 2), backend="onnxruntime"), tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    manifest, facts = bundle.manifest, bundle.manifest.calibration
    assert manifest == result.manifest
    assert (manifest.precision, manifest.tile.dtype) == ("int8", "float32")
    assert manifest.graphs == {"1": "int8-b1.onnx", "2": "int8-b2.onnx"}
    assert {"calibration", "held_out", "parity"} == set(manifest.seeds)
    assert (facts.tiles.count, facts.held_out.count) == (3, 2)
    assert facts.tiles.sha256 != facts.held_out.sha256
    assert list(facts.tiles.pictures) == ["photograph.png"]
    assert (facts.format, facts.method, facts.min_psnr_db) == ("int8", "mse", 15.0)
    assert 0.5 < facts.share < 1
    assert facts.psnr_db.worst >= 15
    layers = {name for name, module in network(tiny_edge_weights).named_modules() if hasattr(module, "weight")}
    assert {*facts.quantised, *facts.kept} <= layers
    assert "conv_in" in facts.kept
    assert facts.seams_balanced == 2
    assert facts.ranking.side == 32
    assert sum(one.share for one in facts.ranking.blocks.values()) == pytest.approx(facts.share, abs=2e-3)
    assert all(facts.kept.values())
    assert int8_weights(bundle.file("int8-b2.onnx")) == len(facts.quantised)
    assert any("computes these 8-bit layers in FP32" in warning for warning in manifest.warnings)
    assert any("one photograph" in warning for warning in manifest.warnings)
    assert manifest.numerics is None
    # what the runtime makes of it, against FP32, on a tile that no build saw
    lr = np.flip(photograph_tile(32, 32, (-1.0, 1.0)), 2).copy()
    with torch.no_grad():
        wanted = network(tiny_edge_weights)(torch.from_numpy(lr)).numpy()
    with OnnxRuntimeSession(bundle, threads=1) as session:
        found = psnr(session.run(lr), wanted)
    assert 15 <= found < 100  # and it is not the FP32 network
    with zoomrt.load(tmp_path / "b") as upscaler:
        assert upscaler.upscale(np.zeros((40, 50, 3), np.uint8)).shape == (160, 200, 3)


def network(weights: Path) -> nn.Module:
    return FAMILY.network(load_checkpoint(weights))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_gpu_bundle_without_a_gpu(tmp_path: Path, tiny_edge_weights: Path, precision: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    manifest = build(request(tiny_edge_weights, precision=precision, target="sm89"), tmp_path / "b").manifest
    assert manifest.tile.dtype == "float16"
    report, facts = manifest.engine_report["1"], manifest.calibration
    assert report.eight_bit_layers == len(facts.quantised) > 10
    assert any(precision in kinds for kinds in report.kernels_by_dtype)
    assert facts.method == {"int8": "mse", "fp8": "max"}[precision]
    compared = facts.against_fp16["1"]
    assert compared.kernels[precision] == report.kernels
    assert compared.static_bytes[precision] == report.static_bytes
    assert compared.engine_bytes["fp16"] > 0
    rose = any(cost[precision] >= cost["fp16"] for cost in (compared.kernels, compared.static_bytes))
    assert any("may not pay" in warning for warning in manifest.warnings) == rose
    graphs = {f"{precision}-b1.engine", f"{precision}-b1.onnx"}  # the FP16 engine is gone
    kernels = {kernel.file for kernel in manifest.kernels.values()}
    assert set(manifest.files) - kernels == {*graphs, "calibration.md", "calibration.png"}
    emulated = [r for r in manifest.numerics.results if r.runner == "fp16 storage emulation"]
    assert [r.probe for r in emulated] == ["held-out tile 0", "held-out tile 1"]
    assert facts.psnr_db.worst == min(r.psnr_db for r in emulated)


def test_a_gate_that_cannot_be_met(tmp_path: Path, tiny_edge_weights: Path) -> None:
    with pytest.raises(PrecisionError, match=r"no part of the network.*dB with .* alone.*150\.0 dB") as caught:
        build(request(tiny_edge_weights, Calibration(tiles=1, min_psnr_db=149.0)), tmp_path / "b")
    assert "--min-psnr" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_gate_between_quantises_a_part_of_it(tmp_path: Path, tiny_edge_weights: Path) -> None:
    whole = build(request(tiny_edge_weights), tmp_path / "a").manifest.calibration
    gate = round(whole.psnr_db.worst + 1.0, 2)
    choice = dataclasses.replace(EASY, min_psnr_db=gate)
    facts = build(request(tiny_edge_weights, choice), tmp_path / "b").manifest.calibration
    assert 0 < facts.share < whole.share
    assert facts.psnr_db.worst >= gate + 1.0
    left_out = set(whole.quantised) - set(facts.quantised)
    assert left_out
    assert all("dB alone, too much together" in facts.kept[name] for name in left_out)
    # the whole and each block alone, at least
    assert len(facts.measured) > sum(one.block is not None for one in facts.measured) > 2


def test_all_of_it_has_no_gate(tmp_path: Path, tiny_edge_weights: Path) -> None:
    choice = Calibration(tiles=1, min_psnr_db=149.0)
    manifest = build(request(tiny_edge_weights, choice, precision="int8-all"), tmp_path / "b").manifest
    facts = manifest.calibration
    assert (manifest.precision, facts.share) == ("int8-all", pytest.approx(1.0, abs=1e-3))
    assert {"conv_in", "conv_out"} <= facts.quantised.keys()
    assert all("folded" in why for why in facts.kept.values())
    assert manifest.calibration.min_psnr_db is None
    worst = manifest.calibration.psnr_db.worst
    assert any(f"no quality gate: {worst:.1f} dB" in warning for warning in manifest.warnings)


def test_what_was_measured_is_found_again(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the calibration, the next build does not run a tile through it; a third is a copy. Under other code
    of the network nothing is found."""

    def stop_at(stage: str) -> Callable[[str, float], None]:
        def advance(said: str, fraction: float) -> None:
            stages.append((said, fraction))
            if said == stage:
                raise KeyboardInterrupt

        return advance

    stages: list[tuple[str, float]] = []
    with pytest.raises(KeyboardInterrupt):
        build(request(tiny_edge_weights), tmp_path / "b", on_progress=stop_at("quality"))
    assert [fraction for said, fraction in stages if said == "calibrate"] == [1 / 3, 2 / 3, 1.0]
    stages.clear()
    with monkeypatch.context() as changed:
        changed.setattr(eight_bit, "outside_code", lambda _: {"its": "digest"})
        with pytest.raises(KeyboardInterrupt):
            build(request(tiny_edge_weights), tmp_path / "b", on_progress=stop_at("quality"))
    assert "calibrate" in {said for said, _ in stages}
    stages.clear()
    build(request(tiny_edge_weights), tmp_path / "b", on_progress=stop_at("nothing"))
    assert "calibrate" not in {said for said, _ in stages}
    assert build(request(tiny_edge_weights), tmp_path / "c").cached
    assert any(cache_path("calibration").iterdir())
    assert cache.clear() > 0
    assert not cache_path("calibration").exists()


def test_pictures_of_ones_own(tmp_path: Path, tiny_edge_weights: Path, rng: np.random.Generator) -> None:
    """They replace the photograph, are named with their hashes, and decide the key; bad ones are skipped and told."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    choice = dataclasses.replace(EASY, pictures=folder, method="max")
    manifest = build(request(tiny_edge_weights, choice), tmp_path / "b").manifest
    assert set(manifest.calibration.tiles.pictures) == {"a.png", "b.png"}
    assert "a single value" in manifest.calibration.tiles.skipped["black.png"]
    assert manifest.calibration.method == "max"
    assert any("1 calibration pictures were skipped (black.png" in warning for warning in manifest.warnings)
    assert not any("one photograph" in warning for warning in manifest.warnings)
    before = choice.fingerprint
    assert before == dataclasses.replace(choice).fingerprint
    (folder / "black.png").unlink()
    assert choice.fingerprint != before
    for changes in ({"tiles": 4}, {"min_psnr_db": 16.0}, {"method": "mse"}, {"high_resolution": True}):
        assert dataclasses.replace(choice, **changes).fingerprint != choice.fingerprint
    (folder / "b.png").unlink()
    alone = build(request(tiny_edge_weights, choice), tmp_path / "d").manifest
    assert any("a single picture" in warning for warning in alone.warnings)
    nowhere = request(tiny_edge_weights, dataclasses.replace(EASY, pictures=tmp_path / "none"))
    with pytest.raises(InputError, match="nothing there"):
        build(nowhere, tmp_path / "c")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp32"}, r"fp32 needs no calibration"),
        ({"precision": "fp8"}, r"does not build fp8 for target cpu"),
        ({"precision": "fp8", "target": "sm86"}, r"cannot run fp8"),
        ({"target": "sm75"}, r"INT8 convolutions there in FP16"),
        ({"bisect": True}, r"8-bit layers cannot be bisected"),
        ({"calibration": Calibration(method="msee")}, r"Did you mean mse"),
        ({"calibration": Calibration(tiles=0)}, r"--tiles.*got 0"),
        ({"calibration": Calibration(min_psnr_db=float("nan"))}, r"--min-psnr.*nan"),
        ({"calibration": Calibration(search_minutes=-1)}, r"--search-minutes.*-1"),
        ({"calibration": Calibration(high_resolution=True)}, r"--calibration-hr without --calibration"),
    ],
)
def test_requests_that_cannot_be_met(tmp_path: Path, tiny_edge_weights: Path, changes: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build(request(tiny_edge_weights, **changes), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_options_name_the_methods_there_are() -> None:
    assert set(calibration_options.METHODS) == set(ranges.METHODS)


class Loud(nn.Module):
    """The identity by a detour through -120000 for black: fine in FP32, infinite in FP16."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = (x * self.gain * 60000 - 60000) / 60000 + 1
        return result


def record(floor: float | None, worst: float) -> CalibrationRecord:
    """Of a network that keeps so much on its worst tile; the rest says nothing."""
    none = TileSet(count=0, sha256="", pictures={}, skipped={})
    return CalibrationRecord(
        format="int8",
        method="max",
        tiles=none,
        held_out=none,
        share=1.0,
        min_psnr_db=floor,
        seams_balanced=0,
        quantised={},
        kept={},
        measured=(),
        ranking=Ranking(8, {}),
        psnr_db=Quality(worst + 5, worst),
    )


def tiles_of(random: np.random.Generator, low: int) -> Tiles:
    return Tiles(random.integers(low, 256, (2, 8, 8, 3), dtype=np.uint8), (-1.0, 1.0))


def test_fp16_around_the_layers_is_proved_on_the_held_out_tiles(rng: np.random.Generator) -> None:
    module = Loud()
    tiles = tiles_of(rng, low=200)  # bright: nothing overflows
    wanted = [module(tile).detach() for tile in tiles]
    to_half(module)

    def quantised(floor: float | None) -> Quantised:
        return Quantised(tiles, wanted, record(floor, 100.0))

    results, quality = prove_fp16_storage(module, quantised(20.0), {})
    assert quality.worst == min(result.psnr_db for result in results) < 100
    with pytest.raises(PrecisionError, match="too far from FP32 under FP16 storage"):
        prove_fp16_storage(module, quantised(quality.worst + 0.1), {})
    black = {"black": np.full((1, 3, 8, 8), -1.0, np.float32)}
    for floor in (20.0, None):
        with pytest.raises(PrecisionError, match="not finite on the black tile"):
            prove_fp16_storage(module, quantised(floor), black)


def test_reference_for_a_batch(rng: np.random.Generator) -> None:
    """Held-out tiles in turn; a graph may be 3 dB worse than the network, but never under the gate."""
    tiles = tiles_of(rng, 0)
    wanted = [tile * 2 for tile in tiles]
    judged = Quantised(tiles, wanted, record(40.0, 50.0))
    found = judged.reference(3, judged.record.psnr_db, half=False)
    first, second = (tile.numpy()[0] for tile in tiles)
    assert np.array_equal(found.lr, np.stack([first, second, first]))
    assert np.array_equal(found.sr, 2 * found.lr)
    assert found.needed_psnr_db == 47
    halves = judged.reference(1, judged.record.psnr_db, half=True).lr
    assert np.array_equal(halves, halves.astype(np.float16))
    for floor, worst, needed in ((40.0, 41.0, 40), (None, 5.0, 2)):
        near = Quantised(tiles, wanted, record(floor, worst))
        assert near.reference(1, near.record.psnr_db, half=False).needed_psnr_db == needed


def test_nothing_is_quantised_inside_what_stays_fp32() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1))
    keep_fp32(module[1])
    keep_fp32(module[2])
    names = ("0", "1.0", "2")
    found = quantisation._without_fp32(module, Placement("tensorrt_rtx", names, {}, dict.fromkeys(names, 1)))
    assert found.quantised == ("0",)
    assert set(found.kept) == {"1.0", "2"}
    assert all("FP32" in why for why in found.kept.values())


def report(precision: str, kernels: int, static_bytes: int, **kinds: int) -> EngineReport:
    return SimpleNamespace(  # type: ignore[return-value]
        precision=precision, kernels=kernels, static_bytes=static_bytes, engine_bytes=1, kernels_by_kind=kinds
    )


@pytest.mark.parametrize(
    ("kernels", "static_bytes", "rose"),
    [(9, 9, None), (10, 9, "kernels did"), (9, 11, "bytes per run did"), (12, 10, "kernels and bytes per run did")],
)
def test_an_engine_that_is_not_cheaper_says_so(kernels: int, static_bytes: int, rose: str | None) -> None:
    fp16 = report("fp16", 10, 10, gemm=4, generated=6)
    figures, warning = cost_against_fp16(report("int8", kernels, static_bytes, gemm=3, generated=kernels - 3), fp16)
    assert figures.kernels == {"fp16": 10, "int8": kernels}
    if rose is None:
        assert warning is None
    else:
        assert warning is not None
        assert rose in warning
        assert f"kernels 10 -> {kernels} (-1 gemm" in warning
