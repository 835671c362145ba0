"""Bundles for ONNX Runtime on CUDA, without a GPU: what is in them, and what is refused.

That every operator has a kernel on CUDA is held against ONNX Runtime's own list: its absence would show on a GPU only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from zoomrt.bundle import open_bundle
from zoomrt.cli._common import run
from zoomrt.cli.upscale import cli as upscale
from zoomrt.errors import UsageError
from zoomrt.export.build import build
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.request import BuildRequest, resolve
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

CUDA_KERNELS = {
    "Add": (14, None),
    "Cast": (13, 18),
    "Clip": (13, None),
    "Concat": (13, None),
    "Conv": (11, 21),
    "DepthToSpace": (13, None),
    "Div": (14, None),
    "Erf": (13, None),
    "Expand": (13, None),
    "Gather": (13, None),
    "InstanceNormalization": (6, None),
    "LayerNormalization": (17, None),
    "MatMul": (13, None),
    "Mul": (14, None),
    "Pad": (18, None),
    "Reshape": (14, 18),
    "Resize": (18, 18),
    "Sigmoid": (13, None),
    "Softmax": (13, None),
    "Split": (18, None),
    "Sub": (14, None),
    "Transpose": (13, 20),
}
"""Operator -> versions of its FP32 and FP16 kernel on CUDA (onnxruntime docs/OperatorKernels.md, commit 001d12d). None
is an open end, which takes the first of these versions only (issue 13781)."""


def without_a_kernel(graph: Path) -> set[str]:
    """Operators that would not run on CUDA."""
    model = onnx.load(str(graph), load_external_data=False)
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    lacking = set()
    for name in {node.op_type for node in model.graph.node}:
        version = onnx.defs.get_schema(name, opset).since_version
        first, last = CUDA_KERNELS.get(name, (-1, -1))
        if not (version == first or (last is not None and first < version <= last)):
            lacking.add(f"{name}-{version}")
    return lacking


def request(weights: Path, **changes: object) -> BuildRequest:
    given = {"weights": weights, "tile": 32, "overlap": 8, "target": "cuda", "precision": "fp16", **changes}
    return BuildRequest(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_bundle_is_graphs_and_kernels(tmp_path: Path, tiny_edge_weights: Path, precision: str) -> None:
    build(request(tiny_edge_weights, precision=precision, batches=(1, 2)), tmp_path / "b")
    manifest = open_bundle(tmp_path / "b").manifest
    assert (manifest.target, manifest.backend) == ("cuda", "onnxruntime_cuda")
    assert manifest.graphs == {"1": f"{precision}-b1.onnx", "2": f"{precision}-b2.onnx"}
    assert (manifest.engines, manifest.engine_report, manifest.speed) == ({}, {}, None)
    assert [stage.name for stage in manifest.memory.stages][-1] == "parity"
    assert any("were not run on a GPU" in warning for warning in manifest.warnings)
    assert all("on CPU" in line for line in manifest.ran if line.startswith("graph"))
    assert all(one.runner == "onnxruntime" for part in manifest.parity.values() for one in part.results)
    assert {"onnxruntime", "triton"} < manifest.versions.keys()
    assert "onnxruntime_cuda" not in manifest.versions
    assert {int(key.rpartition("sm")[2]) for key in manifest.kernels} == {75, 80, 86, 89, 90, 120, 121}
    for name in manifest.graphs.values():
        assert without_a_kernel(tmp_path / "b" / name) == set()


def test_a_diffusion_model_has_its_kernels_too(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from published_files import SMALL, osediff_layout, random_state, unet_shapes, vae_shapes, write_base

    torch.save(osediff_layout(SMALL).content(), tmp_path / "w")
    torch.save(torch.randn(1, 77, SMALL.text_width), tmp_path / "prompt.pt")
    states = {"unet": random_state(unet_shapes(SMALL)), "vae": random_state(vae_shapes(SMALL))}
    base = write_base(tmp_path / "base", SMALL, **states)
    options = {"base": base, "prompt_embedding": tmp_path / "prompt.pt"}
    build(request(tmp_path / "w", options=options), tmp_path / "b", use_cache=False)
    assert without_a_kernel(tmp_path / "b" / "fp16-b1.onnx") == set()


def test_a_newer_opset_would_lack_kernels(tmp_path: Path, tiny_edge_weights: Path) -> None:
    """The reason for opset 18, and that the check above can fail."""
    network = FAMILY.network(load_checkpoint(tiny_edge_weights))
    export_graph(network, tmp_path / "g.onnx", shape=(1, 3, 32, 32), half=False, opset=23, group_norm="instance")
    assert {"InstanceNormalization-22", "Attention-23"} <= without_a_kernel(tmp_path / "g.onnx")


def test_without_a_gpu_it_ends_in_one_line(
    tmp_path: Path, tiny_edge_weights: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    build(request(tiny_edge_weights), tmp_path / "b")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p.png")
    assert run(upscale, [str(tmp_path / "b"), str(tmp_path / "p.png"), "-o", str(tmp_path / "o.png")]) == 10
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "no NVIDIA driver" in err
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "int8"}, "does not build int8 for target cuda"),
        ({"backend": "tensorrt"}, "target cuda cannot be built with that backend.*need onnxruntime_cuda"),
        ({"attention_plugin": True}, "attention cannot be a plugin"),
        ({"require_faster": True}, "--require-faster cannot be answered"),
    ],
)
def test_what_it_cannot_be(tmp_path: Path, tiny_edge_weights: Path, changes: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build(request(tiny_edge_weights, **changes), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_models_of_several_steps_are_refused(tiny_edge_weights: Path) -> None:
    with pytest.raises(UsageError, match=r"takes several steps.*takes no more.*--target cpu"):
        resolve(request(tiny_edge_weights, model="jit-sr"))
