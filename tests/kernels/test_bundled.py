"""What trt-build puts into a bundle for a GPU target, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("triton", reason="the extra 'kernels' is not installed")
pytest.importorskip("torch", reason="the extra 'export' is not installed")

import toy_kernels

from zoomrt.bundle import TileFacts
from zoomrt.bundle.kernel_file import coverage
from zoomrt.cli._build_summary import summary
from zoomrt.cli.doctor import bundle_lines
from zoomrt.export.build import build
from zoomrt.export.engines import kernel_files as subject
from zoomrt.export.engines.kernel_files import without_kernels, write_kernels
from zoomrt.export.request import BuildRequest
from zoomrt.export.targets import TARGETS
from zoomrt.kernels.configuration import Configuration

TILE = TileFacts(
    scale=4,
    height=64,
    width=64,
    batches=(1,),
    overlap=16,
    context=4,
    value_range=(-1.0, 1.0),
    dtype="float16",
)
ENGINES = [target for target in TARGETS.values() if target.compute_capabilities]


def toy(kernel: str, name: str) -> Configuration:
    signature = {"x": "*fp16", "y": "*fp16", "out": "*fp16", "count": "i32"}
    return Configuration(
        kernel, name, toy_kernels.add, signature, {"BLOCK": 256}, ("cdiv(count, BLOCK)", "1", "1"), aligned=("x",)
    )


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "tile_gather": (
            "gather_rgb_fp16",
            "gather_rgb_fp32",
            "gather_bgr_fp16",
            "gather_nv12_fp16",
            "gather_nv12_fp32",
        ),
        "tile_blend": ("blend_fp16", "blend_fp32_faults"),
        "attention": ("attention",),
    }
    toys = [toy(kernel, name) for kernel, some in names.items() for name in some]
    monkeypatch.setattr(subject, "all_configurations", lambda: toys)


def quiet(_stage: str, _fraction: float) -> None:
    """No progress."""


def test_every_gpu_of_a_target_is_covered_by_what_the_runtime_launches(tmp_path: Path) -> None:
    for target in ENGINES:
        (tmp_path / target.name).mkdir()
        kernels = write_kernels(target, TILE, tmp_path / target.name, quiet)
        sms = sorted(int(name[2:]) for name in target.compute_capabilities)
        assert coverage(kernels) == {"blend_fp16": sms, "gather_nv12_fp16": sms, "gather_rgb_fp16": sms}
        written = {f"kernels/{path.name}" for path in (tmp_path / target.name / "kernels").iterdir()}
        assert {kernel.file for kernel in kernels.values()} == written
        assert without_kernels(target, kernels) == []
    assert write_kernels(TARGETS["cpu"], TILE, tmp_path, quiet) == {}
    assert without_kernels(TARGETS["cpu"], {}) == []


def test_type_of_tiles_decides_what_comes_along(tmp_path: Path) -> None:
    kernels = write_kernels(TARGETS["sm89"], msgspec.structs.replace(TILE, dtype="float32"), tmp_path, quiet)
    assert set(coverage(kernels)) == {"gather_rgb_fp32", "gather_nv12_fp32", "blend_fp32_faults"}


def test_a_manifest_tells_how_to_launch(tmp_path: Path) -> None:
    (gather, *_) = write_kernels(TARGETS["sm89"], TILE, tmp_path, quiet).values()
    assert gather.kernel == "tile_gather"
    assert gather.entry == "add"
    assert gather.arguments == (("x", "*fp16"), ("y", "*fp16"), ("out", "*fp16"), ("count", "i32"))
    assert (gather.aligned, gather.constants, gather.warps) == (("x",), {"BLOCK": 256}, 4)
    assert gather.grid == ("cdiv(count, BLOCK)", "1", "1")
    assert 0 < gather.registers < 64


def test_without_triton_the_bundle_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_triton_is_here", lambda: False)
    assert write_kernels(TARGETS["sm89"], TILE, tmp_path, quiet) == {}
    (warning,) = without_kernels(TARGETS["sm89"], {})
    assert "tile_gather and tile_blend" in warning
    assert "zoomrt[kernels]" in warning
    assert "on the CPU" in warning


def test_kernels_are_the_same_byte_for_byte_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name in ("a", "b"):
        monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / f"cache-{name}"))
        kernels = write_kernels(TARGETS["sm120"], TILE, tmp_path / name, quiet)
        found.append((kernels, [(tmp_path / name / kernel.file).read_bytes() for kernel in kernels.values()]))
    assert found[0] == found[1]


def test_a_build_for_a_gpu_carries_its_kernels(tmp_path: Path, tiny_edge_weights: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    request = BuildRequest(weights=tiny_edge_weights, precision="fp16", target="sm89", tile=32)
    result = build(request, tmp_path / "b", use_cache=False)
    manifest = result.manifest
    assert coverage(manifest.kernels) == {"blend_fp16": [89], "gather_nv12_fp16": [89], "gather_rgb_fp16": [89]}
    assert {"kernels/gather_rgb_fp16.sm89.cubin", "kernels/blend_fp16.sm89.cubin"} <= manifest.files.keys()
    assert manifest.versions["triton"] != "not installed"
    assert any("gather_rgb_fp16 for SM89" in line for line in summary(result))
    assert ("kernel", "gather_rgb_fp16 for SM89") in list(bundle_lines(tmp_path / "b"))
