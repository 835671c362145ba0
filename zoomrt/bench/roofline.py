"""The wall: what this machine does at best, and which part of it stands in the way of a result.

Ceilings are measured once per machine and thread count and kept in the cache folder: large matrix products in the
runners that are installed, a large copy, and a chain of nodes that do next to nothing. Each gives a floor for a result:
the least time that its arithmetic, its bytes, its nodes or its copies take alone. The largest floor is what bounds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import timeit
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from zoomrt.bench.machine import cpu_name, versions
from zoomrt.bench.record import Ceilings, Cost, Roofline
from zoomrt.errors import MissingDependency
from zoomrt.files import cache_path, read_cached, write_cached
from zoomrt.runtime.quiet import import_openvino
from zoomrt.runtime.sessions.common.onnxruntime_graph import open_graph, session_options

_SIDE = 2048
_COPY_BYTES = 128 << 20
_CHAIN = 256
_ROUNDS = 9
_HOW = (
    f"best of {_ROUNDS}: products of {_SIDE} x {_SIDE} matrices in ONNX Runtime and OpenVINO, copies of "
    f"{_COPY_BYTES >> 20} MiB (bytes read and written), a chain of {_CHAIN} nodes of 16 numbers"
)


def ceilings(threads: int, *, again: bool = False) -> Ceilings:
    """From the cache folder, or measured now, which takes a few seconds.

    again : measure now in any case and keep the better of each: what was measured on a busy machine is too low.
    """
    words = f"{cpu_name()} {versions('onnxruntime', 'openvino')} {_HOW}"
    name = hashlib.sha256(words.encode()).hexdigest()[:16]
    kept = cache_path("ceilings", f"{name}-{threads}.json")
    known: Ceilings | None = None
    with contextlib.suppress(ValueError):  # nothing there, or damaged: measured again
        known = msgspec.json.decode(read_cached(kept) or b"", type=Ceilings)
    if known is not None and not again:
        return known
    found = measure_ceilings(threads)
    if known is not None:
        found = _better(known, found)
    write_cached(kept, msgspec.json.encode(found))
    return found


def measure_ceilings(threads: int) -> Ceilings:
    """tflops has fp32, and bf16 and int8 where OpenVINO is installed and the processor has them."""
    random = np.random.default_rng(0)
    left = random.standard_normal((_SIDE, _SIDE), np.float32)
    product = _product(random.standard_normal((_SIDE, _SIDE), np.float32))
    best = {"fp32": _best(_onnxruntime(product, threads, left))}
    for arithmetic, run in _openvino(product, threads, left).items():
        best[arithmetic] = min(best.get(arithmetic, math.inf), _best(run))
    return Ceilings(
        machine=cpu_name(),
        threads=threads,
        tflops={name: round(2 * _SIDE**3 / seconds / 1e12, 4) for name, seconds in best.items()},
        gb_per_s=round(2 * _COPY_BYTES / _best(_copy(threads)) / 1e9, 2),
        us_per_node=round(_best(_onnxruntime(_chain(), threads, left[:1, :16])) / _CHAIN * 1e6, 3),
        how=_HOW,
    )


def roofline_of(cost: Cost, tiles: int, seconds: float, arithmetic: str, wall: Ceilings, copied_s: float) -> Roofline:
    """cost : of one tile. seconds : the median for `tiles` of them. arithmetic : a key of `Ceilings.tflops`.
    copied_s : known to be spent outside the engine."""
    work, moved, top = 2e9 * cost.gmac * tiles, 1e6 * cost.mb * tiles, wall.tflops.get(arithmetic)
    floors: dict[Literal["compute", "memory", "launch", "copy"], float] = {
        "compute": work / (top or max(wall.tflops.values())) / 1e12,
        "memory": moved / wall.gb_per_s / 1e9,
        "launch": cost.nodes * tiles * wall.us_per_node / 1e6,
        "copy": copied_s,
    }
    return Roofline(
        tflops=work / seconds / 1e12,
        gb_per_s=moved / seconds / 1e9,
        compute_share=work / seconds / 1e12 / top if top else None,
        bandwidth_share=moved / seconds / 1e9 / wall.gb_per_s,
        bound=max(floors, key=lambda name: floors[name]),
        floors_ms={name: floor * 1e3 for name, floor in floors.items()},
    )


def _better(one: Ceilings, other: Ceilings) -> Ceilings:
    return msgspec.structs.replace(
        one,
        tflops={name: max(peak, other.tflops.get(name, 0.0)) for name, peak in one.tflops.items()},
        gb_per_s=max(one.gb_per_s, other.gb_per_s),
        us_per_node=min(one.us_per_node, other.us_per_node),
    )


def _best(run: Callable[[], object]) -> float:
    return min(timeit.repeat(run, number=1, repeat=1 + _ROUNDS)[1:])


def _product(right: NDArray[np.float32], *, int8: bool = False) -> bytes:
    """A matrix product with a constant, as networks have it; in 8 bits by QuantizeLinear and DequantizeLinear."""
    constants = [numpy_helper.from_array(right, "right")]
    nodes = [helper.make_node("MatMul", ["left", "right"], ["out"])]
    if int8:
        codes = np.clip(np.rint(right * 32), -127, 127).astype(np.int8)
        constants = [
            numpy_helper.from_array(codes, "codes"),
            numpy_helper.from_array(np.array(1 / 32, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["left", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["a"]),
            helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["b"]),
            helper.make_node("MatMul", ["a", "b"], ["out"]),
        ]
    return _model(nodes, (_SIDE, _SIDE), constants, "left")


def _chain() -> bytes:
    nodes = [helper.make_node("Sin", [f"v{i}"], [f"v{i + 1}" if i + 1 < _CHAIN else "out"]) for i in range(_CHAIN)]
    return _model(nodes, (1, 16), [], "v0")


def _model(nodes: list[onnx.NodeProto], shape: tuple[int, ...], constants: list[onnx.TensorProto], name: str) -> bytes:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in (name, "out")]
    graph = helper.make_graph(nodes, "ceiling", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def _onnxruntime(graph: bytes, threads: int, given: NDArray[np.float32]) -> Callable[[], object]:
    session = open_graph(graph, session_options(threads))
    feed = {session.get_inputs()[0].name: np.ascontiguousarray(given)}
    return lambda: session.run(None, feed)


def _openvino(product: bytes, threads: int, left: NDArray[np.float32]) -> dict[str, Callable[[], object]]:
    """Arithmetic -> one product; empty without OpenVINO."""
    try:
        openvino = import_openvino()
    except MissingDependency:
        return {}
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    kinds = {"fp32": ("FP32", "f32", product), "bf16": ("BF16", "bf16", product)}
    right = numpy_helper.to_array(onnx.load_from_string(product).graph.initializer[0])
    kinds["int8"] = ("INT8", "f32", _product(right, int8=True))

    def runner(hint: str, graph: bytes) -> Callable[[], object]:
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        model = core.compile_model(core.read_model(graph, b""), "CPU", {**options, "NUM_STREAMS": 1})
        request = model.create_infer_request()
        request.set_input_tensor(openvino.Tensor(left))
        return lambda: request.infer(share_outputs=True)

    return {name: runner(hint, graph) for name, (needs, hint, graph) in kinds.items() if needs in able}


def _copy(threads: int) -> Callable[[], object]:
    """All threads copy a part each; NumPy lets go of the interpreter while it copies."""
    source = np.ones(_COPY_BYTES // 4, np.float32)
    parts = list(zip(np.array_split(source, threads), np.array_split(np.empty_like(source), threads), strict=True))
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        for done in [pool.submit(np.copyto, target, part) for part, target in parts]:
            done.result()

    return run
