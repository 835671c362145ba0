"""ONNX Runtime sessions: the right values for both types and all batches, and every way in which loading can fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from runtime_helpers import convolution_model, facts, manifest, write_bundle
from session_graphs import enlarge, torch_reference

from zoomrt.bundle import open_bundle, writing_bundle
from zoomrt.errors import BundleError, EngineMismatch, MissingDependency, OutOfMemory, RuntimeFault
from zoomrt.runtime.resources import core_count
from zoomrt.runtime.sessions.onnxruntime import OnnxRuntimeSession

SHAPES = ((1, 3, 32, 32), (1, 3, 128, 128))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3)])
def test_values_are_those_of_torch_for_every_batch_size(
    tmp_path: Path, rng: np.random.Generator, dtype: str, tolerance: float
) -> None:
    tile = facts(batches=(1, 3), dtype=dtype)
    model = convolution_model(11, 1, 32, 32, dtype=dtype)
    with OnnxRuntimeSession(open_bundle(write_bundle(tmp_path / "b", tile, 11)), threads=1) as session:
        for n in (3, 1, 3):
            batch = rng.uniform(-1, 1, (n, 3, 32, 32)).astype(np.float32)
            result = session.run(batch)
            assert result.dtype == dtype
            expected = torch_reference(model, batch.astype(dtype))
            assert np.abs(result - expected).max() <= tolerance


def test_buffers_live_as_long_as_the_session(tmp_path: Path) -> None:
    session = OnnxRuntimeSession(open_bundle(write_bundle(tmp_path / "b", facts(), 1)), threads=1)
    batch = np.zeros((1, 3, 32, 32), np.float32)
    assert session.run(batch) is session.run(batch)
    session.close()


def test_external_data_is_found_beside_the_graph(tmp_path: Path, rng: np.random.Generator) -> None:
    model = convolution_model(5, 1, 32, 32)
    reference = onnx.ModelProto.FromString(model.SerializeToString())
    with writing_bundle(tmp_path / "b") as (scratch, manifests):
        onnx.save(
            model, scratch / "graph_1.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100
        )
        manifests.append(manifest(facts()))
    batch = rng.uniform(-1, 1, SHAPES[0]).astype(np.float32)
    with OnnxRuntimeSession(open_bundle(tmp_path / "b"), threads=1) as session:
        assert np.abs(session.run(batch) - torch_reference(reference, batch)).max() <= 1e-5


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (enlarge(opset=99), "opset"),
        (enlarge(ir_version=99), "(?i)ir version"),
        (enlarge(nodes=[helper.make_node("FutureOp", ["x"], ["y"])]), "FutureOp"),
        (enlarge(nodes=[helper.make_node("Own", ["x"], ["y"], domain="own")], domains=("own",)), "own:Own"),
    ],
)
def test_a_graph_that_needs_another_onnxruntime_is_a_mismatch(tmp_path: Path, graph: bytes, words: str) -> None:
    path = write_bundle(tmp_path / "b", facts(), {1: graph}, versions={"onnxruntime": "9.9.9"})
    with pytest.raises(EngineMismatch, match=words) as caught:
        OnnxRuntimeSession(open_bundle(path), threads=1)
    assert onnxruntime.__version__ in caught.value.seen
    assert "onnxruntime 9.9.9" in caught.value.needed
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("graph", [b"", b"not a graph", enlarge()[:100], enlarge()[:-40], b"\0" * 1000])
def test_a_corrupt_graph_is_a_bundle_error_and_no_mismatch(tmp_path: Path, graph: bytes) -> None:
    path = write_bundle(tmp_path / "b", facts(), {1: graph})
    with pytest.raises(BundleError, match=r"graph_1.onnx' is damaged") as caught:
        OnnxRuntimeSession(open_bundle(path), threads=1)
    assert type(caught.value) is BundleError


@pytest.mark.parametrize(
    ("tile", "graph", "side"),
    [
        (facts(height=16, overlap=8, context=2), enlarge(), "input"),
        (facts(dtype="float16"), enlarge(), "input"),
        (facts(scale=2), enlarge(), "output"),
        (facts(), enlarge(shapes=(("n", 3, 32, 32), SHAPES[1])), "input"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says(tmp_path: Path, tile: Any, graph: bytes, side: str) -> None:
    path = write_bundle(tmp_path / "b", tile, {1: graph})
    with pytest.raises(BundleError, match=f"the {side} of graph .* does not match the manifest"):
        OnnxRuntimeSession(open_bundle(path), threads=1)


def test_a_run_that_fails_is_a_fault_with_the_engines_own_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # the index comes from the input, so ONNX Runtime notices only while running that it lies outside
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["i"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["x", "i"], ["g"], axis=0),
        helper.make_node("Unsqueeze", ["g", "zero"], ["u"]),
        helper.make_node("Concat", ["u"] * 16, ["c"], axis=1),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=4),
    ]
    graph = enlarge(nodes=nodes, initial=[numpy_helper.from_array(np.array([0], np.int64), "zero")])
    with OnnxRuntimeSession(open_bundle(write_bundle(tmp_path / "b", facts(), {1: graph})), threads=1) as session:
        session.run(np.zeros(SHAPES[0], np.float32))
        with pytest.raises(RuntimeFault, match=r"ONNX Runtime failed on a tile: got .*out.of.*bounds"):
            session.run(np.full(SHAPES[0], 7, np.float32))
        session.run(np.zeros(SHAPES[0], np.float32))
    assert capfd.readouterr().err == "", "what goes wrong is an exception, not a line on stderr"


def test_memory_that_runs_out_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for 99 bytes")

    opened = open_bundle(write_bundle(tmp_path / "b", facts(), {1: enlarge()}))
    monkeypatch.setattr(onnxruntime, "InferenceSession", Full)
    with pytest.raises(OutOfMemory, match="99 bytes"):
        OnnxRuntimeSession(opened, threads=1)


def test_without_onnxruntime_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(write_bundle(tmp_path / "b", facts(), {1: enlarge()}))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match="pip install"):
        OnnxRuntimeSession(opened, threads=1)


def test_threads_reach_the_engine_and_default_to_the_cores(tmp_path: Path) -> None:
    opened = open_bundle(write_bundle(tmp_path / "b", facts(), {1: enlarge()}))
    for threads, expected in ((None, core_count()), (1, 1), (2, 2)):
        session = OnnxRuntimeSession(opened, threads)
        options = session._engines[1].session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (expected, 1)
        session.close()
    assert core_count() >= 1
