"""OpenVINO sessions: the values of torch and of ONNX Runtime, real BF16 and INT8, and every way loading can fail."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from runtime_helpers import convolution_model, facts, manifest, model_of, write_bundle
from session_graphs import enlarge, torch_reference

from zoomrt.bundle import open_bundle, writing_bundle
from zoomrt.errors import BundleError, EngineMismatch, MissingDependency, OutOfMemory, RuntimeFault, UsageError
from zoomrt.runtime.resources import core_count
from zoomrt.runtime.sessions import openvino as openvino_session
from zoomrt.runtime.sessions.onnxruntime import OnnxRuntimeSession
from zoomrt.runtime.sessions.openvino import OpenVinoSession, cpu_capabilities
from zoomrt.runtime.upscaler import engine_of, load

openvino = pytest.importorskip("openvino")

needs_bf16 = pytest.mark.skipif("BF16" not in cpu_capabilities(), reason="this processor has no BF16")


def bundle_of(path: Path, tile: Any, model: Any, **changes: Any) -> Path:
    return write_bundle(path, tile, model, **{"backend": "openvino", **changes})


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3)])
def test_values_are_those_of_torch_for_every_batch_size(
    tmp_path: Path, rng: np.random.Generator, dtype: str, tolerance: float
) -> None:
    tile = facts(batches=(1, 3), dtype=dtype)
    model = convolution_model(11, 1, 32, 32, dtype=dtype)
    with OpenVinoSession(open_bundle(bundle_of(tmp_path / "b", tile, 11)), threads=1) as session:
        for n in (3, 1, 3):
            batch = rng.uniform(-1, 1, (n, 3, 32, 32)).astype(np.float32)
            result = session.run(batch)
            assert result.dtype == dtype
            assert np.abs(result - torch_reference(model, batch.astype(dtype))).max() <= tolerance


def test_fp32_is_what_onnxruntime_computes(tmp_path: Path, rng: np.random.Generator) -> None:
    seed = int(rng.integers(1 << 30))
    opened = open_bundle(bundle_of(tmp_path / "b", facts(), seed))
    batch = rng.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    with OpenVinoSession(opened, threads=2) as one, OnnxRuntimeSession(opened, threads=2) as other:
        wanted = other.run(batch)
        assert np.abs(one.run(batch) - wanted).max() <= 1e-4 * np.abs(wanted).max()


@needs_bf16
def test_bf16_rounds_as_bf16_does_and_fp32_does_not(tmp_path: Path, rng: np.random.Generator) -> None:
    seed = int(rng.integers(1 << 30))
    batch = rng.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    wanted = torch_reference(convolution_model(seed, 1, 32, 32), batch)
    worst = {}
    for arithmetic in ("fp32", "bf16"):
        path = bundle_of(tmp_path / arithmetic, facts(), seed, arithmetic=arithmetic)
        with OpenVinoSession(open_bundle(path), threads=1) as session:
            worst[arithmetic] = np.abs(session.run(batch) - wanted).max() / np.abs(wanted).max()
    assert worst["fp32"] <= 1e-5
    assert 2**-12 <= worst["bf16"] <= 2**-5  # BF16 has 8 significant bits: 2**-9 for each rounding


def int8_model(rng: np.random.Generator) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray, float, np.ndarray]:
    """A convolution between codes that enlarges, and its parts: codes, bias, input scale, weight scales by channel."""
    codes = rng.integers(-127, 128, (48, 3, 3, 3)).astype(np.int8)
    scales = rng.uniform(0.5, 1.5, 48).astype(np.float32) * np.float32(0.001)
    bias = rng.normal(0, 0.1, 48).astype(np.float32)
    scale = np.float32(1 / 127)
    initial = {"s": scale, "z": np.int8(0), "w": codes, "ws": scales, "wz": np.zeros(48, np.int8), "b": bias}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], axis=0),
        helper.make_node("Conv", ["d", "dw", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=4),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in initial.items()]
    return (
        model_of(nodes, (1, 3, 32, 32), (1, 3, 128, 128), opset=21, initial=tensors),
        codes,
        bias,
        float(scale),
        scales,
    )


def slow_int8(batch: np.ndarray, codes: np.ndarray, bias: np.ndarray, scale: float, scales: np.ndarray) -> np.ndarray:
    """The same in integers, one filter tap after the other, then DepthToSpace by its definition."""
    q = np.clip(np.rint(batch / np.float32(scale)), -128, 127).astype(np.int64)[0]
    padded = np.pad(q, [(0, 0), (1, 1), (1, 1)])
    total = np.zeros((48, 32, 32), np.int64)
    for dy in range(3):
        for dx in range(3):
            total += np.einsum(
                "oc,chw->ohw", codes[:, :, dy, dx].astype(np.int64), padded[:, dy : dy + 32, dx : dx + 32]
            )
    values = total * (scales.astype(np.float64) * scale)[:, None, None] + bias.astype(np.float64)[:, None, None]
    return values.reshape(4, 4, 3, 32, 32).transpose(2, 3, 0, 4, 1).reshape(1, 3, 128, 128)


def test_int8_layers_compute_with_the_codes_of_the_graph(tmp_path: Path, rng: np.random.Generator) -> None:
    model, *parts = int8_model(rng)
    path = bundle_of(tmp_path / "b", facts(), {1: model.SerializeToString()}, precision="int8")
    batch = rng.uniform(-1.2, 1.2, (1, 3, 32, 32)).astype(np.float32)  # the ends saturate
    with OpenVinoSession(open_bundle(path), threads=1) as session:
        got = session.run(batch).astype(np.float64)
    wanted = slow_int8(batch, *parts)
    one_code = np.abs(parts[0]).max() * parts[2] * parts[3].max()  # a tie may be rounded to the other neighbour
    assert np.abs(got - wanted).max() <= one_code
    assert np.mean(np.abs(got - wanted) > 1e-5) <= 0.01


def test_buffers_live_as_long_as_the_session(tmp_path: Path, rng: np.random.Generator) -> None:
    session = OpenVinoSession(open_bundle(bundle_of(tmp_path / "b", facts(), 1)), threads=1)
    one, other = (rng.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32) for _ in range(2))
    first = session.run(one)
    kept = first.copy()
    assert session.run(other) is first
    assert not np.array_equal(first, kept)
    assert np.array_equal(session.run(one), kept)
    session.close()
    session.close()
    with pytest.raises(RuntimeFault, match="a closed session"):
        session.run(one)


def test_external_data_is_found_beside_the_graph(tmp_path: Path, rng: np.random.Generator) -> None:
    model = convolution_model(5, 1, 32, 32)
    reference = onnx.ModelProto.FromString(model.SerializeToString())
    with writing_bundle(tmp_path / "b") as (scratch, manifests):
        onnx.save(
            model, scratch / "graph_1.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100
        )
        manifests.append(manifest(facts(), backend="openvino"))
    batch = rng.uniform(-1, 1, (1, 3, 32, 32)).astype(np.float32)
    with OpenVinoSession(open_bundle(tmp_path / "b"), threads=1) as session:
        assert np.abs(session.run(batch) - torch_reference(reference, batch)).max() <= 1e-5


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (enlarge(nodes=[helper.make_node("FutureOp", ["x"], ["y"])]), "FutureOp"),
        (enlarge(nodes=[helper.make_node("Own", ["x"], ["y"], domain="own")], domains=("own",)), "own.Own"),
    ],
)
def test_an_operator_that_openvino_lacks_is_a_mismatch(tmp_path: Path, graph: bytes, words: str) -> None:
    path = bundle_of(tmp_path / "b", facts(), {1: graph}, versions={"openvino": "9.9.9"})
    with pytest.raises(EngineMismatch, match=words) as caught:
        OpenVinoSession(open_bundle(path), threads=1)
    assert openvino.__version__ in caught.value.seen
    assert "openvino 9.9.9" in caught.value.needed
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("graph", [b"", b"not a graph", enlarge()[:100], enlarge()[:-40], b"\0" * 1000])
def test_a_corrupt_graph_is_a_bundle_error_and_no_mismatch(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(BundleError, match=r"graph_1.onnx' is damaged") as caught:
        OpenVinoSession(open_bundle(bundle_of(tmp_path / "b", facts(), {1: graph})), threads=1)
    assert type(caught.value) is BundleError


@pytest.mark.parametrize(
    ("tile", "graph", "side"),
    [
        (facts(height=16, overlap=8, context=2), enlarge(), "input"),
        (facts(dtype="float16"), enlarge(), "input"),
        (facts(scale=2), enlarge(), "output"),
        (facts(), enlarge(shapes=(("n", 3, 32, 32), (1, 3, 128, 128))), "input"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_says(tmp_path: Path, tile: Any, graph: bytes, side: str) -> None:
    with pytest.raises(BundleError, match=f"the {side} of graph .* does not match the manifest"):
        OpenVinoSession(open_bundle(bundle_of(tmp_path / "b", tile, {1: graph})), threads=1)


class _Failing:
    """An infer request that fails with these words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def infer(self, **_: Any) -> None:
        raise RuntimeError(self.words)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("Exception from src/x.cpp:1:\nsomething broke", RuntimeFault), ("std::bad_alloc", OutOfMemory)],
)
def test_a_run_that_fails_has_the_engines_own_words(tmp_path: Path, words: str, kind: type[Exception]) -> None:
    with OpenVinoSession(open_bundle(bundle_of(tmp_path / "b", facts(), 1)), threads=1) as session:
        session._engines[1] = session._engines[1]._replace(request=_Failing(words))
        with pytest.raises(kind, match=words.split("\n")[-1]) as caught:
            session.run(np.zeros((1, 3, 32, 32), np.float32))
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_while_loading_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_bundle(bundle_of(tmp_path / "b", facts(), 1))

    class Full:
        def compile_model(self, *_: Any) -> None:
            raise RuntimeError("Failed to allocate 99 bytes")

    monkeypatch.setattr(openvino, "Core", Full)
    with pytest.raises(OutOfMemory, match="99 bytes"):
        OpenVinoSession(opened, threads=1)


def test_without_openvino_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle_of(tmp_path / "b", facts(), 1)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependency, match=r"pip install 'zoomrt\[openvino\]'"):
        load(path)


def test_bf16_is_refused_where_it_would_be_fp32_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle_of(tmp_path / "b", facts(), 1, precision="bf16", arithmetic="bf16")
    monkeypatch.setattr(openvino_session, "cpu_capabilities", lambda: frozenset({"FP32", "INT8"}))
    with pytest.raises(EngineMismatch, match=r"FP32, INT8, need a CPU with BF16"):
        load(path)


def test_threads_reach_the_engine_and_default_to_the_cores(tmp_path: Path) -> None:
    opened = open_bundle(bundle_of(tmp_path / "b", facts(), 1))
    for threads, expected in ((None, core_count()), (1, 1)):
        with OpenVinoSession(opened, threads) as session:
            model = session._engines[1].request.get_compiled_model()
            assert model.get_property("INFERENCE_NUM_THREADS") == expected
            assert model.get_property("NUM_STREAMS") == 1
            assert model.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


@pytest.mark.parametrize(("built", "other"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_an_fp32_bundle_runs_in_the_other_runner_when_asked(
    tmp_path: Path, rng: np.random.Generator, built: str, other: str
) -> None:
    path = write_bundle(tmp_path / "b", facts(), int(rng.integers(1 << 30)), backend=built)
    frame = rng.uniform(0, 1, (40, 50, 3)).astype(np.float32)
    with load(path) as own, load(path, backend=other) as another:
        assert (own.manifest.backend, another.manifest.backend) == (built, other)
        assert type(engine_of(own).session) is not type(engine_of(another).session)
        wanted = own.upscale(frame)
        assert np.abs(another.upscale(frame) - wanted).max() <= 1e-4


@pytest.mark.parametrize(
    ("changes", "backend", "said"),
    [
        ({"precision": "int8"}, "openvino", ["int8 for onnxruntime", "an fp32 bundle"]),
        ({"precision": "bf16", "arithmetic": "bf16", "backend": "openvino"}, "onnxruntime", ["bf16 for openvino"]),
        ({"precision": "fp32", "backend": "tensorrt_rtx"}, "openvino", ["fp32 for tensorrt_rtx"]),
        ({}, "openvnio", ["unknown backend", "Did you mean openvino"]),
    ],
)
def test_other_bundles_do_not(tmp_path: Path, changes: dict[str, Any], backend: str, said: Sequence[str]) -> None:
    path = write_bundle(tmp_path / "b", facts(), 1, **changes)
    with pytest.raises(UsageError) as caught:
        load(path, backend=backend)
    assert all(words in str(caught.value) for words in said)
