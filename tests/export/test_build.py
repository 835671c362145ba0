"""Builds from end to end with a tiny `edge`: the bundle, the cache, and requests that cannot be met."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from zoomrt.bundle import open_bundle
from zoomrt.errors import CheckpointError, ExportError, UsageError, ZoomrtError
from zoomrt.export import cache
from zoomrt.export.build import build
from zoomrt.export.forms import one_graph
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildRequest
from zoomrt.files import CacheWarning, cache_path
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY


def request(weights: Path, **changes: object) -> BuildRequest:
    return BuildRequest(**{"weights": weights, "tile": 32, "overlap": 8, **changes})  # type: ignore[arg-type]


def test_cpu_bundle(tmp_path: Path, tiny_edge_weights: Path, rng: np.random.Generator) -> None:
    stages: list[str] = []
    result = build(
        request(tiny_edge_weights, batches=(1, 2)), tmp_path / "b", on_progress=lambda s, _: stages.append(s.split()[0])
    )
    manifest = open_bundle(tmp_path / "b").manifest
    assert result.manifest == manifest
    assert (result.cached, manifest.family, manifest.target, manifest.precision) == (False, "edge", "cpu", "fp32")
    assert manifest.graphs == {"1": "fp32-b1.onnx", "2": "fp32-b2.onnx"}
    assert manifest.engines == {}
    assert manifest.seeds == {"parity": 1963381606}  # CRC-32 of "edge", whatever the code
    assert (manifest.tile.height, manifest.tile.overlap, manifest.tile.context) == (32, 8, 3)
    assert manifest.weights.source == tiny_edge_weights.name
    assert manifest.weights.sha256 == load_checkpoint(tiny_edge_weights).sha256
    assert manifest.versions["torch"] == torch.__version__.split("+")[0] or "+" in manifest.versions["torch"]
    assert set(stages) - {"speed"} == {"start", "weights", "memory", "reference", "export", "parity", "write"}
    assert all(r.psnr_db >= 80 for part in manifest.parity.values() for r in part.results)
    # what is in the bundle is the network: an independent run of the file against torch
    lr = rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "b" / "fp32-b2.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = FAMILY.network(load_checkpoint(tiny_edge_weights))(torch.from_numpy(lr)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": lr})[0], wanted, atol=1e-4)


def test_second_identical_build_comes_from_the_cache(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(request(tiny_edge_weights), tmp_path / "a")
    monkeypatch.setattr(one_graph, "export_graph", None)  # a second export would fail
    second = build(request(tiny_edge_weights), tmp_path / "b")
    assert (first.cached, second.cached) == (False, True)
    for name in [*first.manifest.files, "manifest.json"]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_cached_build_needs_no_torch(tmp_path: Path, tiny_edge_weights: Path) -> None:
    build(request(tiny_edge_weights), tmp_path / "a")
    code = f"""
import sys
from pathlib import Path
sys.modules.update(torch=None, onnx=None, safetensors=None)  # importing any of them fails
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
request = BuildRequest(weights=Path({str(tiny_edge_weights)!r}), tile=32, overlap=8)
print(build(request, Path({str(tmp_path / "b")!r})).cached)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "True", run.stderr


def test_damaged_cache_entry_is_rebuilt(tmp_path: Path, tiny_edge_weights: Path) -> None:
    first = build(request(tiny_edge_weights), tmp_path / "a")
    kept = cache_path("bundles") / first.manifest.key / first.manifest.graphs["1"]
    kept.write_bytes(kept.read_bytes()[:-1])
    assert not build(request(tiny_edge_weights), tmp_path / "b").cached
    open_bundle(cache_path("bundles") / first.manifest.key)


def test_unwritable_cache_is_no_error_but_said(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning, match="without a cache"):
        result = build(request(tiny_edge_weights), tmp_path / "b")
    assert open_bundle(tmp_path / "b").manifest == result.manifest


def test_cache_clear(tmp_path: Path, tiny_edge_weights: Path) -> None:
    build(request(tiny_edge_weights), tmp_path / "a")
    assert cache.clear() > 100_000
    assert cache.clear() == 0
    assert not build(request(tiny_edge_weights), tmp_path / "a").cached


def test_fp16_on_a_cpu_warns(tmp_path: Path, tiny_edge_weights: Path) -> None:
    manifest = build(request(tiny_edge_weights, precision="fp16"), tmp_path / "b").manifest
    assert manifest.tile.dtype == "float16"
    assert any("FP32 on a CPU" in warning for warning in manifest.warnings)
    runners = {r.runner for r in manifest.parity["1"].results}
    assert runners == {"onnxruntime"}
    assert {r.runner for r in manifest.numerics.results} == {"fp16 storage emulation"}


def test_gpu_bundle_without_a_gpu(tmp_path: Path, tiny_edge_weights: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    manifest = build(request(tiny_edge_weights, precision="fp16", target="sm89"), tmp_path / "b").manifest
    assert manifest.backend == "tensorrt_rtx"
    assert manifest.engines == {"1": "fp16-b1.engine"}
    assert "fp16-b1.engine" in manifest.files
    assert any("not run" in warning for warning in manifest.warnings)
    assert "tensorrt_rtx" in manifest.versions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "sm98"}, r"sm98.*Did you mean"),
        ({"target": "CPU"}, r"Did you mean cpu"),
        ({"precision": "fp-16"}, r"Did you mean fp16"),
        ({"precision": "fp8", "target": "sm86"}, r"hardware.*fp8.*SM86.*89"),
        ({"model": "osedif"}, r"unknown model"),
        ({"tile": 33}, r"33 LR pixels.*multiple of 4.*--tile 32 or --tile 36"),
        ({"overlap": 17}, r"overlap.*17"),
        ({"overlap": 0}, r"overlap.*0 LR"),
        ({"overlap": -1}, r"overlap.*-1"),
        ({"batches": ()}, r"batch"),
        ({"batches": (2, 4)}, r"batch.*2,4"),
        ({"batches": (1, 0)}, r"batch"),
        ({"backend": "tensorrt"}, r"backend"),
    ],
)
def test_requests_that_cannot_be_met(tmp_path: Path, tiny_edge_weights: Path, changes: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build(request(tiny_edge_weights, **changes), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_wrong_weights_leave_nothing(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    for model in (None, "edge"):
        with pytest.raises(CheckpointError):
            build(BuildRequest(weights=tmp_path / "w.pth", model=model), tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_failing_parity_leaves_nothing(tmp_path: Path, tiny_edge_weights: Path) -> None:
    strict = replace(PRECISIONS.named("fp32"), minimum_psnr_db=1000.0)
    with PRECISIONS.added(strict), pytest.raises(ZoomrtError, match="1000 dB"):
        build(request(tiny_edge_weights), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    assert not cache_path("bundles").exists()


def test_bisect_names_the_node_at_fault(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("polygraphy")

    def export_with_a_fault(network: torch.nn.Module, path: Path, **options: object) -> None:
        export_graph(network, path, **options)
        model = onnx.load(path)
        node = next(node for node in model.graph.node if node.name == "node_conv2d_2")
        weight = next(one for one in model.graph.initializer if one.name == node.input[1])
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
        onnx.save(model, path)

    monkeypatch.setattr(one_graph, "export_graph", export_with_a_fault)
    with pytest.raises(ExportError, match="does not match torch FP32") as caught:
        build(request(tiny_edge_weights), tmp_path / "b", use_cache=False)
    assert "--bisect" in caught.value.remedy
    with pytest.raises(ExportError, match=r"does not match torch FP32.*Conv node_conv2d_2") as caught:
        build(request(tiny_edge_weights, bisect=True), tmp_path / "b", use_cache=False)
    assert list(tmp_path.iterdir()) == []
