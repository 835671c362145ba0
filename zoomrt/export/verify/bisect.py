"""Which node of the graph does not do what torch does? For a build whose parity failed.

The exporter names ONNX values after torch's own operations. Each value that both sides have is computed by ONNX Runtime
from torch's values of its nearest named ancestors, so that rounding never adds up and every verdict stands alone: a
node is at fault if agreeing inputs give a disagreeing output. That needs no order and no search. Halving the graph
would: a fault can fade again, and nodes after it in order need not depend on it.

Torch runs once, one operation at a time; only values that are still needed are held, so full-size models fit.
Polygraphy runs, compares and saves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray
from onnx_ir import convenience, external_data
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from zoomrt.errors import ExportError, MissingDependency, StorageError, UsageError
from zoomrt.export.graph.group_norm import group_norms_as
from zoomrt.export.graph.to_onnx import quiet
from zoomrt.files import atomic_folder, exists
from zoomrt.models.half import is_half, to_half
from zoomrt.runtime.backends import GroupNormForm
from zoomrt.runtime.sessions.common.onnxruntime_graph import open_graph, session_options

MINIMUM_SNR_DB = {"fp32": 100.0, "fp16": 45.0}
"""Power of torch's value over power of the difference, of one operation alone. FP32 differs by summation order: 126 dB
or better was seen on small networks. FP16 rounds what goes in and comes out by up to 2^-11 (66 dB each), and a softmax
multiplies that by the size of its logits: 64 dB or better was seen."""


@dataclass(frozen=True)
class Divergence:
    """The first value, in the graph's order, that ONNX Runtime computes differently from the same inputs.

    operators : ("Sigmoid node_Sigmoid_1", ...) of the nodes that make this value from `inputs`; mostly one. Where one
        torch operation became several nodes, torch has no value in between and any of them may be at fault.
    value : its name in the graph. operation : torch's operation, such as `aten.conv2d.default`.
    module : the torch module's path; empty for the outermost.
    index : the worst element; `torch` and `onnxruntime` are the two values there, `absolute` and `relative` (to
        torch's) their difference.
    snr_db, needed_snr_db : of the whole value.
    inputs : names of the values it was computed from, torch's own on both sides.
    """

    operators: tuple[str, ...]
    value: str
    operation: str
    module: str
    index: tuple[int, ...]
    torch: float
    onnxruntime: float
    absolute: float
    relative: float
    snr_db: float
    needed_snr_db: float
    inputs: tuple[str, ...]

    def __str__(self) -> str:
        where = f"{self.operation} in module {self.module}" if self.module else self.operation
        return (
            f"{' + '.join(self.operators)} ({where}): element {list(self.index)} of {self.value!r} is "
            f"{self.torch:.6g} in torch and {self.onnxruntime:.6g} in ONNX Runtime, off by {self.absolute:.3g} "
            f"({self.relative:.3g} relative), SNR {self.snr_db:.1f} dB of {self.needed_snr_db:.0f}, "
            f"from equal inputs {', '.join(self.inputs)}"
        )


@dataclass(frozen=True)
class _Step:
    """One value of the graph that torch has too, and the nearest such values it is computed from."""

    value: onnx_ir.Value
    inputs: tuple[onnx_ir.Value, ...]
    source: fx.Node


def first_divergence(
    network: nn.Module,
    graph: Path,
    lr: NDArray[np.float32],
    *,
    precision: str,
    group_norm: GroupNormForm = "node",
    reproducer: Path | None = None,
) -> Divergence | None:
    """The first node of `graph` that does not do what `network` does, or None if each does on its own.

    network : one tensor in, one out, as it was given to export_graph; left as it is.
    graph : what was written of it for `precision`, "fp32" or "fp16", with this `group_norm`. Torch computes in FP32
        for both, with the weights as they are in the graph.
    lr : (N, 3, h, w) float32, the tile on which parity failed.
    reproducer : a folder to make, with the nodes at fault alone as `model.onnx` and Polygraphy's `inputs.json` and
        `torch.json`: the smallest model that fails.

    Raises MissingDependency without Polygraphy, UsageError if `reproducer` exists, ExportError if the graph shares no
    value with the network.
    """
    _require_polygraphy()
    if reproducer is not None and exists(reproducer, StorageError):
        raise UsageError(
            "cannot write the reproducer", seen=f"{reproducer} exists", needed="a new folder", remedy="Move it away."
        )
    model = onnx_ir.load(graph)
    module = _operations(network, lr, model.opset_imports[""], precision == "fp16", group_norm)
    steps = _steps(model.graph, module.graph)
    for step, values in _with_torch_values(steps, module, str(model.graph.inputs[0].name), lr):
        divergence = _compare(model, step, values, MINIMUM_SNR_DB[precision], reproducer)
        if divergence is not None:
            return divergence
    return None


def _require_polygraphy() -> None:
    try:
        import polygraphy  # noqa: F401
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "cannot look for the first node that differs",
            seen=f"no module {cause.name}",
            needed="polygraphy",
            remedy="Run: pip install 'zoomrt[debug]'",
        ) from cause


def _operations(
    network: nn.Module, lr: NDArray[np.float32], opset: int, half: bool, group_norm: GroupNormForm
) -> fx.GraphModule:
    """The network as the exporter saw it: the operations after which it names ONNX values."""
    if half and not is_half(network):
        network = copy.deepcopy(network)
        to_half(network)
    tile = torch.from_numpy(lr).to(torch.float16 if half else torch.float32)
    with quiet(), torch.no_grad(), group_norms_as(group_norm, network):
        exported = torch.onnx.export(
            network.eval(), (tile,), dynamo=True, opset_version=opset, optimize=False, verbose=False
        )
    assert exported is not None
    assert exported.exported_program is not None
    module = exported.exported_program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    return module


class _InFp32(fx.Interpreter):
    """Computes every operation in FP32, whatever type the program was written in."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_function(target, tree_map(_widened, args), tree_map(_widened, kwargs))


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float16:
        return value.float()
    return torch.float32 if value is torch.float16 else value


def _steps(graph: onnx_ir.Graph, operations: fx.Graph) -> list[_Step]:
    """What can be compared, in the graph's order."""
    output, tile = graph.outputs[0].name, graph.inputs[0].name
    (result,) = operations.output_node().all_input_nodes
    sources = {node.name: node for node in operations.nodes if node.op == "call_function" and node is not result}
    sources[str(output)] = result
    shared = {
        value.name: (value, sources[value.name])
        for node in graph
        for value in node.outputs
        if value.name in sources and _same_kind(value, sources[value.name])
    }
    if output not in shared:
        raise ExportError(
            "cannot compare the graph with the network",
            seen=f"a graph without torch's output {list(result.meta['val'].shape)}",
            needed="the graph that was exported from this network",
            remedy="Build it again.",
        )
    known = {tile, *shared}
    return [_Step(value, _nearest(value, known), source) for value, source in shared.values()]


def _same_kind(value: onnx_ir.Value, source: fx.Node) -> bool:
    torch_value = source.meta.get("val")
    return (
        isinstance(torch_value, Tensor)
        and torch_value.is_floating_point()
        and value.dtype in (onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16)
        and value.shape is not None
        and list(value.shape) == list(torch_value.shape)
    )


def _nearest(value: onnx_ir.Value, known: set[str | None]) -> tuple[onnx_ir.Value, ...]:
    """The known values from which `value` is computed without passing another known one."""
    found: dict[str | None, onnx_ir.Value] = {}
    seen, waiting = set(), [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for source in node.inputs:
            if source is None or source.is_initializer():
                continue
            if source.name in known:
                found[source.name] = source
            else:
                waiting.append(source.producer())
    return tuple(found.values())


def _with_torch_values(
    steps: list[_Step], module: fx.GraphModule, tile: str, lr: NDArray[np.float32]
) -> Iterator[tuple[_Step, dict[str, NDArray[np.float32]]]]:
    """Each step with torch's values of it and its inputs; a value is let go after its last step."""
    last = {value.name: index for index, step in enumerate(steps) for value in (*step.inputs, step.value)}
    names = {step.source.name: step.value.name for step in steps}
    held: dict[Any, NDArray[np.float32]] = {tile: lr}
    run = _values_in_order(module, lr)
    for index, step in enumerate(steps):
        wanted = {value.name for value in (*step.inputs, step.value)}
        while not wanted <= held.keys():
            source, value = next(run)
            if source in names:
                held[names[source]] = value.detach().float().contiguous().numpy()
        yield step, {name: held[name] for name in wanted if name is not None}
        for name in [name for name in wanted if last[name] == index]:
            del held[name]


def _values_in_order(module: fx.GraphModule, lr: NDArray[np.float32]) -> Iterator[tuple[str, Any]]:
    """(name, value) of each operation as it is computed."""
    interpreter = _InFp32(module)
    interpreter.args_iter = iter([torch.from_numpy(lr)])
    for node in module.graph.nodes:
        with torch.no_grad():
            interpreter.env[node] = interpreter.run_node(node)
        yield node.name, interpreter.env[node]
        for spent in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[spent]


def _compare(
    model: onnx_ir.Model,
    step: _Step,
    values: dict[str, NDArray[np.float32]],
    needed_snr_db: float,
    reproducer: Path | None,
) -> Divergence | None:
    """Run the step's nodes alone on torch's values and hold the result against torch's."""
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator, IterationResult, RunResults, SnrCompareFunc
    from polygraphy.logger import G_LOGGER

    name = step.value.name
    assert name is not None
    alone = onnx_ir.Model(convenience.extract(model.graph, step.inputs, [step.value]), ir_version=model.ir_version)
    external_data.load_to_model(alone)
    content = onnx_ir.to_proto(alone).SerializeToString()
    feed = {str(value.name): _as_fed(values[str(value.name)], value) for value in step.inputs}
    with G_LOGGER.verbosity():
        session = open_graph(content, session_options())
        (ran,) = Comparator.run([OnnxrtRunner(session, name="onnxruntime")], data_loader=[feed])["onnxruntime"]
        wanted = IterationResult({name: values[name]}, runner_name="torch")
        # not Comparator.compare_accuracy: it also sorts every value for statistics that it would log
        verdict = SnrCompareFunc(needed_snr_db)(wanted, ran)[name]
        if verdict:
            return None
        if reproducer is not None:
            _write_reproducer(reproducer, content, feed, RunResults([("torch", [wanted])]))
    return _describe(step, list(alone.graph), values[name], ran[name].astype(np.float32), verdict.snr, needed_snr_db)


def _as_fed(value: NDArray[np.float32], to: onnx_ir.Value) -> NDArray[Any]:
    assert to.dtype is not None
    with np.errstate(over="ignore"):  # an overflow of FP16 shows where it is computed
        return value.astype(to.dtype.numpy())


def _describe(
    step: _Step,
    nodes: list[onnx_ir.Node],
    wanted: NDArray[np.float32],
    ran: NDArray[np.float32],
    snr_db: float,
    needed_snr_db: float,
) -> Divergence:
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(ran.astype(np.float64) - wanted)
    worst = np.unravel_index(np.argmax(np.where(np.isfinite(difference), difference, np.inf)), difference.shape)
    absolute, ours = float(difference[worst]), float(wanted[worst])
    stack = list(step.source.meta.get("nn_module_stack", {}).values())
    return Divergence(
        operators=tuple(f"{node.op_type} {node.name}" for node in nodes),
        value=str(step.value.name),
        operation=str(step.source.target),
        module=stack[-1][0] if stack else "",
        index=tuple(int(i) for i in worst),
        torch=ours,
        onnxruntime=float(ran[worst]),
        absolute=absolute,
        relative=absolute / abs(ours) if ours else float("inf"),
        snr_db=snr_db,
        needed_snr_db=needed_snr_db,
        inputs=tuple(str(value.name) for value in step.inputs),
    )


def _write_reproducer(folder: Path, content: bytes, feed: dict[str, NDArray[Any]], wanted: Any) -> None:
    from polygraphy.json import save_json

    with atomic_folder(folder) as scratch:
        (scratch / "model.onnx").write_bytes(content)
        save_json([feed], str(scratch / "inputs.json"))
        wanted.save(str(scratch / "torch.json"))
