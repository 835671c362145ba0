"""Engines that run in ONNX Runtime on the CPU: the embedded default and the parity reference.

One InferenceSession per batch size, each bound once to input and output buffers that live as long as the session.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Bundle
from zoomrt.errors import BundleError
from zoomrt.files import scratch_folder
from zoomrt.runtime.backends import Backend, NodeTime
from zoomrt.runtime.quiet import import_onnxruntime
from zoomrt.runtime.session import Session
from zoomrt.runtime.sessions.common.multi_step import MultiStepSession
from zoomrt.runtime.sessions.common.onnxruntime_graph import ERRORS, OnnxRuntimeGraph, open_graph, session_options
from zoomrt.runtime.sessions.common.smoke_graph import smoke_run


class _Engine(NamedTuple):
    """One graph of static shape with its buffers."""

    session: Any
    binding: Any
    input: NDArray[Any]
    output: NDArray[Any]


class OnnxRuntimeSession(Session):
    """The graphs of a bundle, loaded.

    threads : threads inside one operator; None means `core_count()`. Operators run one after another.

    Raises EngineMismatch when this ONNX Runtime is too old for the graphs, BundleError when they are damaged or are
    not what the manifest says, MissingDependency without ONNX Runtime, OutOfMemory.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle.manifest.tile)
        options = session_options(threads)
        self._engines = {n: self._load(options, bundle, n) for n in self.batches}

    def _load(self, options: Any, bundle: Bundle, batch: int) -> _Engine:
        path = bundle.graph(str(batch))
        try:
            session = open_graph(path, options)
        except Exception as cause:  # ONNX Runtime's exceptions have no common base below Exception
            built_with = bundle.manifest.versions.get("onnxruntime")
            raise ERRORS.of_load(path, cause, import_onnxruntime().__version__, built_with) from cause
        dtype, shapes = np.dtype(self.tile.dtype), self.tile.shapes(batch)
        nodes = (session.get_inputs(), session.get_outputs())
        for side, declared, shape in zip(("input", "output"), nodes, shapes, strict=True):
            found = ", ".join(f"{node.type} {tuple(node.shape)}" for node in declared)
            expected = f"tensor({'float' if dtype == np.float32 else 'float16'}) {shape}"
            if found != expected:
                what = f"the {side} of graph {str(path)!r} does not match the manifest"
                raise BundleError(what, seen=found, needed=expected, remedy="Build the bundle again with trt-build.")
        arrays = [np.empty(shape, dtype) for shape in shapes]
        binding = session.io_binding()
        for bind, (node,), array in zip((binding.bind_input, binding.bind_output), nodes, arrays, strict=True):
            bind(node.name, "cpu", 0, dtype.type, array.shape, array.ctypes.data)
        return _Engine(session, binding, *arrays)

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        engine = self._engines[len(batch)]
        np.copyto(engine.input, batch, casting="same_kind")
        try:
            engine.session.run_with_iobinding(engine.binding)
        except Exception as cause:
            raise ERRORS.of_run(cause) from cause
        return engine.output

    def _release(self) -> None:
        self._engines = {}


def _open(bundle: Bundle, threads: int | None) -> Session:
    manifest = bundle.manifest
    if manifest.sampling is None:
        return OnnxRuntimeSession(bundle, threads)
    graphs = {part: OnnxRuntimeGraph(bundle.graph(part), threads, keep=part == "step") for part in manifest.graphs}
    return MultiStepSession(manifest.tile, manifest.sampling, graphs)


def _check() -> str:
    def load(graph: bytes) -> Callable[[NDArray[np.float32]], Any]:
        session = open_graph(graph, session_options())
        return lambda numbers: session.run(None, {"x": numbers})[0]

    return smoke_run(BACKEND, load)


def _profile(bundle: Bundle, batch: NDArray[Any], threads: int, runs: int) -> list[NodeTime]:
    """One for each node that ran."""
    with scratch_folder() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = open_graph(bundle.graph("1"), options)
        feed = {session.get_inputs()[0].name: batch}
        for _ in range(runs + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[str, list[float]] = {}
    facts: dict[str, tuple[str, str]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name, arguments = event["name"].removesuffix("_kernel_time"), event["args"]
            taken.setdefault(name, []).append(event["dur"] / 1e3)
            types = [kind for one in arguments.get("output_type_shape", []) for kind in one]
            facts[name] = (arguments["op_name"], types[0] if types else "")
    return [NodeTime(name, facts[name][0], statistics.median(ms[1:]), facts[name][1]) for name, ms in taken.items()]


BACKEND = Backend(
    name="onnxruntime",
    title="ONNX Runtime",
    device="cpu",
    module="onnxruntime",
    package="onnxruntime",
    open=_open,
    kinds=("fp32", "fp16", "int8"),
    widens=("fp16", "int8"),
    several_graphs=True,
    check=_check,
    profile=_profile,
)
