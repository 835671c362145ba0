"""Graphs that run in OpenVINO on the CPU: FP32, BF16 where the processor has it, and 8-bit layers in 8-bit kernels.

One compiled model per batch size, each bound once to input and output buffers that live as long as the session. The
graph is FP32 in all cases; `Manifest.arithmetic` says what OpenVINO computes in where no layer is in 8 bits.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Bundle
from zoomrt.errors import BundleError, EngineMismatch
from zoomrt.runtime.backends import Arithmetic, Backend, NodeTime
from zoomrt.runtime.quiet import import_openvino
from zoomrt.runtime.resources import core_count
from zoomrt.runtime.session import Session
from zoomrt.runtime.sessions.common.runner_errors import RunnerErrors
from zoomrt.runtime.sessions.common.smoke_graph import smoke_run

_HINTS = {"fp32": "f32", "bf16": "bf16"}
"""`Manifest.arithmetic` -> OpenVINO's INFERENCE_PRECISION_HINT. Left to itself it takes BF16 where it can."""

_ERRORS = RunnerErrors(
    "OpenVINO", "openvino", ("no conversion rule", "not supported", "unsupported", "wasn't fully converted")
)


class _Engine(NamedTuple):
    """One graph of static shape with its buffers."""

    request: Any
    input: NDArray[Any]
    output: NDArray[Any]


def cpu_capabilities() -> frozenset[str]:
    """What OpenVINO says that this processor computes fast: FP32, and perhaps BF16, FP16, INT8.

    Raises MissingDependency without OpenVINO.
    """
    return frozenset(import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _options(arithmetic: str, threads: int | None) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[arithmetic],
        "INFERENCE_NUM_THREADS": threads if threads is not None else core_count(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # a thread tied to a core waits for whoever else is on it
    }


class OpenVinoSession(Session):
    """The graphs of a bundle, loaded.

    threads : threads inside one operator; None means `core_count()`. Operators run one after another.

    Raises EngineMismatch where this OpenVINO lacks an operator of the graphs or the processor lacks BF16 (OpenVINO
    would compute in FP32 without a word), BundleError when they are damaged or are not what the manifest says,
    MissingDependency without OpenVINO, OutOfMemory.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle.manifest.tile)
        openvino = import_openvino()
        arithmetic = bundle.manifest.arithmetic
        if arithmetic == "bf16" and "BF16" not in cpu_capabilities():
            seen = f"a CPU with {', '.join(sorted(cpu_capabilities()))}"
            remedy = "Build it with --precision fp32, or run it on such a processor."
            raise EngineMismatch(
                f"cannot run bundle {str(bundle.path)!r} here",
                seen=seen,
                needed="a CPU with BF16 (AMX or AVX-512 BF16)",
                remedy=remedy,
            )
        options = _options(arithmetic, threads)
        self._engines = {n: self._load(openvino, options, bundle, n) for n in self.batches}

    def _load(self, openvino: Any, options: dict[str, Any], bundle: Bundle, batch: int) -> _Engine:
        path = bundle.graph(str(batch))
        try:
            model = openvino.Core().compile_model(str(path), "CPU", options)
        except Exception as cause:  # OpenVINO raises RuntimeError for everything
            built_with = bundle.manifest.versions.get("openvino")
            raise _ERRORS.of_load(path, cause, openvino.__version__, built_with) from cause
        shapes = self.tile.shapes(batch)
        for side, declared, shape in zip(("input", "output"), (model.inputs, model.outputs), shapes, strict=True):
            found = ", ".join(f"{node.element_type.to_string()} {node.partial_shape}" for node in declared)
            expected = f"{'f32' if self.tile.dtype == 'float32' else 'f16'} [{','.join(map(str, shape))}]"
            if found != expected:
                what = f"the {side} of graph {str(path)!r} does not match the manifest"
                raise BundleError(what, seen=found, needed=expected, remedy=_REBUILD)
        arrays = [np.empty(shape, self.tile.dtype) for shape in shapes]
        request = model.create_infer_request()
        request.set_input_tensor(openvino.Tensor(arrays[0], shared_memory=True))
        request.set_output_tensor(openvino.Tensor(arrays[1], shared_memory=True))
        return _Engine(request, *arrays)

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        engine = self._engines[len(batch)]
        np.copyto(engine.input, batch, casting="same_kind")
        try:
            engine.request.infer(share_outputs=True)
        except Exception as cause:
            raise _ERRORS.of_run(cause) from cause
        return engine.output

    def _release(self) -> None:
        self._engines = {}


_REBUILD = "Build the bundle again with trt-build."


def _arithmetics() -> tuple[Arithmetic, ...]:
    return ("fp32", "bf16") if "BF16" in cpu_capabilities() else ("fp32",)


def _check() -> str:
    """In FP32; also says what this processor does fast."""

    def load(graph: bytes) -> Callable[[NDArray[np.float32]], Any]:
        core = import_openvino().Core()
        model = core.compile_model(core.read_model(graph, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda numbers: model(numbers)[0]

    fast = ", ".join(name for name in ("FP32", "BF16", "INT8") if name in cpu_capabilities())
    return f"{smoke_run(BACKEND, load)}; this processor has {fast}"


_OPERATORS = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "Gemm",
    "ScaledDotProductAttention": "Attention",
    "ScaledDotProductAttentionWithKVCache": "Attention",
    "MVN": "InstanceNormalization",
    "Eltwise": "Mul",
    "Swish": "Sigmoid",
}
"""OpenVINO's node types -> the ONNX operator of their group. A Subgraph is a chain of pointwise operations."""


def _profile(bundle: Bundle, batch: NDArray[Any], threads: int, runs: int) -> list[NodeTime]:
    """One for each node that ran."""
    openvino = import_openvino()
    options = {**_options(bundle.manifest.arithmetic, threads), "PERF_COUNT": True}
    model = openvino.Core().compile_model(str(bundle.graph("1")), "CPU", options)
    made_of = {
        one.get_friendly_name(): tuple(str(one.get_rt_info()["originalLayersNames"].astype(str)).split(","))
        for one in model.get_runtime_model().get_ops()
    }
    request = model.create_infer_request()
    request.set_input_tensor(openvino.Tensor(np.ascontiguousarray(batch)))
    request.infer()
    taken: dict[str, list[float]] = {}
    facts: dict[str, tuple[str, str]] = {}
    for _ in range(runs):
        request.infer()
        for one in request.profiling_info:
            taken.setdefault(one.node_name, []).append(one.real_time.total_seconds() * 1e3)
            facts[one.node_name] = (one.node_type, one.exec_type.rpartition("_")[2].lower())
    return [
        NodeTime(
            name,
            "" if facts[name][0] == "Subgraph" else _OPERATORS.get(facts[name][0], facts[name][0]),
            statistics.median(ms),
            facts[name][1],
            made_of.get(name, ()),
            otherwise="Mul",
        )
        for name, ms in taken.items()
        if any(ms)
    ]


BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    device="cpu",
    module="openvino",
    package="openvino",
    extra="openvino",
    open=OpenVinoSession,
    kinds=("fp32", "bf16", "int8"),  # FP16 it computes in FP32, as ONNX Runtime does, so one is enough
    arithmetics=_arithmetics,
    check=_check,
    profile=_profile,
)
