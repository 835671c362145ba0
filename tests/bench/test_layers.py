"""Profiles joined to the graph, TensorRT's rows, the wall, quality, and engines that are not what they should be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zoomrt.bench import layers, quality, roofline
from zoomrt.bench.engine_facts import check_engines
from zoomrt.bench.record import Ceilings, Cost
from zoomrt.bundle import Bundle, Manifest, TileFacts, unfinished
from zoomrt.errors import EngineMismatch, InputError
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork
from zoomrt.runtime.tiles.psnr import psnr_db

SIDE = 32

RUNS = 9
"""Shares are of medians: one run that another process disturbs does not move them."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "fp32-b1.onnx"
    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1))).eval()
    export_graph(network, path, shape=(1, 3, SIDE, SIDE), half=False, opset=23, group_norm="moments")
    return path


def bundle_with(graph: Path, **fields: object) -> Bundle:
    tile = TileFacts(
        scale=4,
        height=SIDE,
        width=SIDE,
        batches=(1,),
        overlap=8,
        context=2,
        value_range=(-1.0, 1.0),
        dtype="float32",
    )
    facts: dict[str, object] = {"backend": "onnxruntime", "precision": "fp32", "graphs": {"1": graph.name}, **fields}
    return unfinished(graph.parent, Manifest(family="edge", target="cpu", tile=tile, **facts))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_profiles_are_joined_and_grouped(graph: Path, backend: str, rng: np.random.Generator) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    batch = rng.uniform(-1, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
    found = layers.layers_of(bundle_with(graph, backend=backend), batch, 1, RUNS)
    assert found.fp32_share == pytest.approx(1.0, abs=0.05)
    assert found.groups_ms["convolution"] > 0
    assert found.groups_ms["attention"] > 0
    assert len(found.top) == 10  # docs/benchmark.md: the ten dearest
    assert [one.ms for one in found.top] == sorted((one.ms for one in found.top), reverse=True)
    assert found.matched_share > 0.6
    assert any(one.node and one.gmac > 0 for one in found.top)


def test_bf16_is_not_called_fp32(graph: Path) -> None:
    pytest.importorskip("openvino")
    from zoomrt.runtime.sessions.openvino import cpu_capabilities

    if "BF16" not in cpu_capabilities():
        pytest.skip("this processor has no BF16")
    batch = np.zeros((1, 3, SIDE, SIDE), np.float32)
    found = layers.layers_of(bundle_with(graph, backend="openvino", arithmetic="bf16"), batch, 1, RUNS)
    assert found.fp32_share is not None
    assert found.fp32_share < 0.5


def test_rows_of_tensorrt(graph: Path) -> None:
    """As trtexec --exportProfile writes them: a count first, then layers of one node or of several."""
    nodes = {node.operator: node for node in layers.node_costs(graph)}
    conv, attention = nodes["Conv"], nodes["Attention"]
    rows = [
        {"count": 100},
        {"name": f"{conv.name} + PWN(sigmoid_1)", "timeMs": 30.0, "averageMs": 0.3, "percentage": 75.0},
        {"name": f"__myl_fc[{attention.name}]", "averageMs": 0.1},
        {"name": "Reformatting CopyNode", "averageMs": 0.1},
    ]
    found = layers.layers_from_rows(rows, graph)
    assert found.groups_ms["convolution"] == pytest.approx(0.3)
    assert found.groups_ms["attention"] == pytest.approx(0.1)
    assert found.groups_ms["other"] == pytest.approx(0.1)
    assert found.matched_share == pytest.approx(0.8)
    assert found.fp32_share is None
    assert found.top[0].node == conv.name
    with pytest.raises(InputError, match="no layer profile"):
        layers.layers_from_rows([{"count": 3}], graph)


WALL = Ceilings(machine="m", threads=2, tflops={"fp32": 0.1, "bf16": 0.2}, gb_per_s=20.0, us_per_node=1.0, how="")


@pytest.mark.parametrize(
    ("gmac", "mb", "nodes", "copied_s", "bound"),
    [(10.0, 10.0, 10, 0.0, "compute"), (0.1, 900.0, 10, 0.0, "memory"), (1e-3, 0.1, 900, 0.0, "launch"),
     (0.1, 1.0, 10, 0.5, "copy")],
)  # fmt: skip
def test_the_largest_floor_is_the_bound(gmac: float, mb: float, nodes: int, copied_s: float, bound: str) -> None:
    cost = Cost(gmac=gmac, mb=mb, nodes=nodes, groups={})
    found = roofline.roofline_of(cost, 2, 0.5, "fp32", WALL, copied_s)
    assert found.bound == bound
    assert found.tflops == pytest.approx(2 * gmac * 2 / 0.5 / 1e3)
    assert found.compute_share == pytest.approx(found.tflops / 0.1)
    assert found.gb_per_s == pytest.approx(2 * mb / 0.5 / 1e3)
    assert found.floors_ms["launch"] == pytest.approx(2 * nodes * 1e-3)
    assert roofline.roofline_of(cost, 2, 0.5, "int8", WALL, copied_s).compute_share is None


def test_ceilings_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = [WALL, msgspec.structs.replace(WALL, tflops={"fp32": 0.3}, gb_per_s=10.0, us_per_node=0.5)]
    monkeypatch.setattr(roofline, "measure_ceilings", lambda _: measured.pop(0))
    assert roofline.ceilings(2) == WALL
    assert roofline.ceilings(2) == WALL
    better = roofline.ceilings(2, again=True)
    assert (better.tflops, better.gb_per_s, better.us_per_node) == ({"fp32": 0.3, "bf16": 0.2}, 20.0, 0.5)
    assert roofline.ceilings(2) == better


def test_ceilings_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, so that it is quick: figures above nothing and below any machine there is."""
    monkeypatch.setattr(roofline, "_SIDE", 128)
    monkeypatch.setattr(roofline, "_COPY_BYTES", 1 << 20)
    found = roofline.measure_ceilings(1)
    assert 1e-4 < found.tflops["fp32"] < 1e3
    assert 1e-2 < found.gb_per_s < 1e5
    assert 1e-3 < found.us_per_node < 1e3


def test_quality_is_scikit_images(rng: np.random.Generator) -> None:
    pairs = [tuple(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(2)) for _ in range(3)]
    found = quality.compare_pictures("a", "b", pairs)  # type: ignore[arg-type]
    psnr = np.mean([peak_signal_noise_ratio(b, a) for a, b in pairs])
    assert found.psnr_db == pytest.approx(psnr, abs=1e-3)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = np.mean([structural_similarity(b, a, channel_axis=2, **options) for a, b in pairs])
    assert found.ssim == pytest.approx(ssim, abs=1e-5)
    float_pairs = [array.astype(np.float32) / 255 for array in pairs[0]]
    want = peak_signal_noise_ratio(float_pairs[0], float_pairs[1], data_range=1)
    assert psnr_db(*float_pairs, 1.0) == pytest.approx(want, abs=1e-3)
    assert psnr_db(float_pairs[0], float_pairs[0], 1.0) == 200


def test_pairs_have_partners_and_fit(tmp_path: Path) -> None:
    low, high = tmp_path / "lr", tmp_path / "hr"
    for folder in (low, high):
        folder.mkdir()
    with pytest.raises(InputError, match="no pictures"):
        quality.pairs_in(low, high, 4)
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(low / "a.png")
    with pytest.raises(InputError, match="no partner for a"):
        quality.pairs_in(low, high, 4)
    Image.fromarray(np.zeros((20, 25, 3), np.uint8)).save(high / "a.png")
    with pytest.raises(InputError, match="got 25 x 20, need 24 x 20"):
        quality.pairs_in(low, high, 4)
    with pytest.raises(InputError, match="no folder"):
        quality.pairs_in(low, tmp_path / "none", 4)


def test_an_engine_that_is_not_what_the_manifest_says_is_refused(graph: Path) -> None:
    (graph.parent / "engine").write_bytes(b"no plan")
    with pytest.raises(EngineMismatch, match="not what the manifest says"):
        check_engines(bundle_with(graph, backend="tensorrt_rtx", engines={"1": "engine"}))
    check_engines(bundle_with(graph, backend="tensorrt", engines={"1": "engine"}))
