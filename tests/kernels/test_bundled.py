"""What trt-build puts into a bundle for a GPU target, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the extra 'kernels' is not installed")
pytest.importorskip("torch", reason="the extra 'export' is not installed")

import toy_kernels

from zoomrt.cli.build import summary
from zoomrt.cli.doctor import bundle_lines
from zoomrt.export import kernel_files as subject
from zoomrt.export.kernel_files import without_kernels, write_kernels
from zoomrt.export.pipeline import BuildRequest, build
from zoomrt.export.targets import TARGETS
from zoomrt.kernel_file import coverage
from zoomrt.kernels.configuration import Configuration

ENGINES = [target for target in TARGETS.values() if target.compute_capabilities]


def toy(kernel: str, name: str) -> Configuration:
    signature = {"x": "*fp16", "y": "*fp16", "out": "*fp16", "count": "i32"}
    return Configuration(
        kernel, name, toy_kernels.add, signature, {"BLOCK": 256}, ("cdiv(count, BLOCK)", "1", "1"), aligned=("x",)
    )


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    toys = [toy("tile_gather", "gather"), toy("tile_blend", "blend"), toy("vq_nearest", "vq")]
    monkeypatch.setattr(subject, "all_configurations", lambda: toys)


def quiet(_stage: str, _fraction: float) -> None:
    """No progress."""


def test_every_gpu_of_a_target_is_covered_by_what_the_runtime_launches(tmp_path: Path) -> None:
    for target in ENGINES:
        (tmp_path / target.name).mkdir()
        kernels = write_kernels(target, "float16", tmp_path / target.name, quiet)
        sms = sorted(int(name[2:]) for name in target.compute_capabilities)
        assert coverage(kernels) == {"blend": sms, "gather": sms}
        written = {f"kernels/{path.name}" for path in (tmp_path / target.name / "kernels").iterdir()}
        assert {kernel.file for kernel in kernels.values()} == written
        assert without_kernels(target, kernels) == []
    assert write_kernels(TARGETS["cpu"], "float32", tmp_path, quiet) == {}
    assert without_kernels(TARGETS["cpu"], {}) == []


def test_a_manifest_tells_how_to_launch(tmp_path: Path) -> None:
    (gather, *_) = write_kernels(TARGETS["sm89"], "float16", tmp_path, quiet).values()
    assert gather.kernel == "tile_gather"
    assert gather.entry == "add"
    assert gather.arguments == (("x", "*fp16"), ("y", "*fp16"), ("out", "*fp16"), ("count", "i32"))
    assert (gather.aligned, gather.constants, gather.warps) == (("x",), {"BLOCK": 256}, 4)
    assert gather.grid == ("cdiv(count, BLOCK)", "1", "1")
    assert 0 < gather.registers < 64


def test_without_triton_the_bundle_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_triton_is_here", lambda: False)
    assert write_kernels(TARGETS["sm89"], "float16", tmp_path, quiet) == {}
    (warning,) = without_kernels(TARGETS["sm89"], {})
    assert "tile_gather and tile_blend" in warning
    assert "zoomrt[kernels]" in warning
    assert "on the CPU" in warning


def test_kernels_are_the_same_byte_for_byte_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("a", "b"):
        monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / f"cache-{name}"))
        kernels = write_kernels(TARGETS["sm120"], "float16", tmp_path / name, quiet)
        found.append((kernels, [(tmp_path / name / kernel.file).read_bytes() for kernel in kernels.values()]))
    assert found[0] == found[1]


def test_a_build_for_a_gpu_carries_its_kernels(tmp_path: Path, tiny_edge_weights: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    request = BuildRequest(weights=tiny_edge_weights, precision="fp16", target="sm89", tile=32)
    result = build(request, tmp_path / "b", use_cache=False)
    manifest = result.manifest
    assert coverage(manifest.kernels) == {"blend": [89], "gather": [89]}
    assert {"kernels/gather.sm89.cubin", "kernels/blend.sm89.cubin"} <= manifest.files.keys()
    assert manifest.versions["triton"] != "not installed"
    assert any("gather for SM89" in line for line in summary(result))
    assert ("kernel", "gather for SM89") in list(bundle_lines(tmp_path / "b"))
