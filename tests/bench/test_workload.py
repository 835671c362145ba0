"""What is timed is what runs: the same batches in a watched frame, the same warm-up for all, peers that clean up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from zoomrt.bench.peers import PEERS, Job
from zoomrt.bench.timing import warm_up
from zoomrt.bench.workload import RunSession, Workload, frame_stages
from zoomrt.bundle import Bundle, Manifest, TileFacts, unfinished
from zoomrt.runtime.upscaler import Upscaler

torch = pytest.importorskip("torch")

TILE = TileFacts(
    scale=2, height=16, width=16, batches=(1, 4), overlap=4, context=1, value_range=(0.0, 1.0), dtype="float32",
)  # fmt: skip
MANIFEST = Manifest(family="nearest", target="cpu", backend="openvino", precision="fp32", tile=TILE, graphs={})


def test_a_watched_frame_takes_the_batches_that_a_frame_takes(rng: np.random.Generator) -> None:
    sizes: list[int] = []

    def enlarge(batch: NDArray[Any]) -> NDArray[Any]:
        sizes.append(len(batch))
        return np.asarray(batch.repeat(2, axis=2).repeat(2, axis=3), np.float32)

    work = Workload.of("frame", TILE, None)
    frame = rng.integers(0, 256, (40, 64, 3), np.uint8)
    work = Workload("frame", work.name, frame, work.corner, work.batch)
    with Upscaler(MANIFEST, RunSession(TILE, enlarge, TILE.batches)) as upscaler:
        upscaler.upscale(frame)
        wanted, sizes[:] = list(sizes), []
        frame_stages(upscaler, work, 1)
    assert 4 in wanted
    assert sizes == wanted


def test_warming_up_calls_as_often_as_it_says() -> None:
    calls: list[int] = []
    assert warm_up(lambda: calls.append(1)) >= 0
    assert len(calls) == 2


def _conv(rng: np.random.Generator, path: Path) -> Bundle:
    """A bundle of one convolution, which OpenVINO can load."""
    import onnx

    helper = onnx.helper
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 16, 16])
        for name in ("image", "upscaled_image")
    ]
    weights = onnx.numpy_helper.from_array(rng.random((3, 3, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["upscaled_image"])], "one", ends[:1], ends[1:], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, str(path / "graph.onnx"))
    return unfinished(path, msgspec.structs.replace(MANIFEST, graphs={"1": "graph.onnx"}))


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-fast"])
def test_openvino_stands_below_the_ceiling_of_its_products(
    tmp_path: Path, precision: str, rng: np.random.Generator
) -> None:
    pytest.importorskip("openvino")
    bundle = _conv(rng, tmp_path)
    bundle.manifest = msgspec.structs.replace(bundle.manifest, precision=precision)
    with PEERS["openvino"](Job(bundle, 1)) as opened:
        assert (opened.arithmetic == "int8") == precision.startswith("int8")
        assert ("int8" in opened.detail) == precision.startswith("int8")


def test_what_was_compiled_is_let_go_when_the_peer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    from zoomrt.bench.peers import torch_network

    let_go: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(torch.compiler, "reset", lambda: let_go.append(1))
    monkeypatch.setattr(torch_network, "network_of", lambda *_: torch.nn.Identity())

    with pytest.raises(RuntimeError, match="no compiler"), PEERS["compile"](Job(_conv(rng, tmp_path), 1)):
        raise RuntimeError("no compiler")
    assert let_go == [1]
