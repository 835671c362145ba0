"""A fault planted in one node of a graph is found in exactly that node; a healthy graph has none."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from engine_graphs import TinyNetwork
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

pytest.importorskip("polygraphy")

import onnxruntime
from polygraphy.comparator import RunResults
from polygraphy.json import load_json

from zoomrt.errors import ExportError, MissingDependency, UsageError
from zoomrt.export.graph.group_norm import GroupNormForm
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.verify import bisect
from zoomrt.export.verify.bisect import first_divergence


@dataclass
class Exported:
    """A network, its graph as a file, and a tile."""

    network: nn.Module
    graph: Path
    lr: NDArray[np.float32]

    def diverges(self, faulty: onnx.ModelProto, **options: object) -> bisect.Divergence | None:
        onnx.save(faulty, self.graph.with_name("faulty.onnx"))
        settings = {"precision": "fp32", **options}
        return first_divergence(self.network, self.graph.with_name("faulty.onnx"), self.lr, **settings)  # type: ignore[arg-type]

    def model(self) -> onnx.ModelProto:
        return onnx.load(self.graph)


def exported(network: nn.Module, folder: Path, **options: object) -> Exported:
    lr = torch.empty(1, 3, 16, 16).uniform_(-1, 1).numpy()
    settings = {"half": False, "opset": 23, **options}
    export_graph(network, folder / "g.onnx", shape=lr.shape, **settings)  # type: ignore[arg-type]
    return Exported(network, folder / "g.onnx", lr)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(TinyNetwork().eval(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def small_osediff(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pytest.importorskip("diffusers")
    from published_files import SMALL, osediff_layout, random_state, unet_shapes, vae_shapes, write_base

    from zoomrt.models.checkpoint import load_checkpoint
    from zoomrt.models.families.osediff import FAMILY

    folder = tmp_path_factory.mktemp("osediff")
    base = write_base(
        folder / "base", SMALL, unet=random_state(unet_shapes(SMALL)), vae=random_state(vae_shapes(SMALL))
    )
    torch.save(osediff_layout(SMALL).content(), folder / "osediff.pkl")
    torch.save(torch.randn(1, 77, SMALL.text_width), folder / "prompt.pt")
    options = {"base": base, "prompt_embedding": folder / "prompt.pt"}
    return exported(FAMILY.network(load_checkpoint(folder / "osediff.pkl"), options), folder)


def pick(model: onnx.ModelProto, *operators: str) -> onnx.NodeProto:
    """One node of these kinds, another in every run."""
    return random.choice([node for node in model.graph.node if node.op_type in operators])


def shift_weight(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Give one element of a node's weight another value; the weight becomes the node's own."""
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    values = numpy_helper.to_array(weight).copy()
    values.flat[random.randrange(values.size)] += values.std() + 0.1
    model.graph.initializer.append(numpy_helper.from_array(values, f"{weight.name}.faulty"))
    node.input[1] = f"{weight.name}.faulty"


def set_epsilon(node: onnx.NodeProto, value: float) -> None:
    for attribute in [one for one in node.attribute if one.name == "epsilon"]:
        node.attribute.remove(attribute)
    node.attribute.append(onnx.helper.make_attribute("epsilon", value))


def named(node: onnx.NodeProto) -> tuple[str, ...]:
    return (f"{node.op_type} {node.name}",)


def values_of(model: onnx.ModelProto, name: str, lr: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime has for a value of the whole graph."""
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"image": lr})[0]


@pytest.mark.parametrize(
    ("precision", "group_norm", "opset"),
    [
        ("fp32", "node", 23),
        ("fp32", "instance", 18),
        ("fp32", "moments", 23),
        ("fp16", "node", 18),
        ("fp16", "instance", 23),
    ],
)
def test_a_healthy_graph_has_none(tmp_path: Path, precision: str, group_norm: GroupNormForm, opset: int) -> None:
    options = {"half": precision == "fp16", "opset": opset, "group_norm": group_norm}
    whole = exported(TinyNetwork().eval(), tmp_path, **options)
    assert whole.diverges(whole.model(), precision=precision, group_norm=group_norm) is None


def test_both_values_and_the_inputs_are_the_true_ones(tiny: Exported) -> None:
    """Against hooks in torch and ONNX Runtime on the whole graphs: the first conv has nothing before it."""
    model = tiny.model()
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    shift_weight(model, node)
    found = tiny.diverges(model)
    assert found is not None
    with torch.no_grad():
        wanted = tiny.network.conv_in(torch.from_numpy(tiny.lr)).numpy()
    got = values_of(model, node.output[0], tiny.lr)
    assert (found.operators, found.value, found.inputs) == (named(node), node.output[0], ("image",))
    assert (found.operation, found.module) == ("aten.conv2d.default", "conv_in")
    # the same arithmetic in another order
    assert found.torch == pytest.approx(wanted[found.index], abs=1e-5)
    assert found.onnxruntime == pytest.approx(got[found.index], abs=1e-5)
    assert found.absolute == pytest.approx(np.abs(wanted - got).max(), abs=1e-5)
    assert found.relative == pytest.approx(found.absolute / abs(found.torch))
    noise, signal = np.mean((got - wanted.astype(np.float64)) ** 2), np.mean(wanted.astype(np.float64) ** 2)
    assert found.snr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    assert found.snr_db < found.needed_snr_db
    for part in (node.name, "Conv", "module conv_in", f"{found.torch:.6g}", f"{found.onnxruntime:.6g}", "inputs image"):
        assert part in str(found)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_fault_in_the_middle_is_named_and_what_follows_is_not(tmp_path: Path, precision: str) -> None:
    whole = exported(TinyNetwork().eval(), tmp_path, half=precision == "fp16")
    model = whole.model()
    faults = {
        "Conv": lambda node: shift_weight(model, node),
        "GroupNormalization": lambda node: set_epsilon(node, 0.1),
        "Attention": lambda node: node.attribute.append(onnx.helper.make_attribute("scale", 0.05)),
    }
    node = pick(model, *faults)
    faults[node.op_type](node)
    found = whole.diverges(model, precision=precision)
    assert found is not None
    assert found.operators == named(node)


def test_a_swapped_operator_is_named(tiny: Exported) -> None:
    model = tiny.model()
    node = next(node for node in model.graph.node if node.name == "node_add")
    node.op_type = "Sub"
    found = tiny.diverges(model)
    assert found is not None
    assert (found.operators, found.inputs) == (("Sub node_add",), tuple(node.input))


def test_nodes_that_are_one_operation_in_torch_are_named_together(tiny: Exported) -> None:
    """torch has no value between the Sigmoid and the Mul of a SiLU."""
    model = tiny.model()
    node = pick(model, "Sigmoid")
    node.op_type = "Tanh"
    found = tiny.diverges(model)
    assert found is not None
    assert found.operators[0] == f"Tanh {node.name}"
    assert [text.split()[0] for text in found.operators] == ["Tanh", "Mul"]
    assert found.operation == "aten.silu.default"


def test_values_that_are_not_finite_are_the_worst(tiny: Exported) -> None:
    model = tiny.model()
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == node.input[1]]
    values = numpy_helper.to_array(weight).copy()
    channel = random.randrange(len(values))
    values[channel] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    found = tiny.diverges(model)
    assert found is not None
    assert found.operators == named(node)
    assert found.index[1] == channel
    assert np.isnan(found.onnxruntime)


def test_small_osediff(small_osediff: Exported, tmp_path: Path) -> None:
    """A random conv, normalisation or addition among a few hundred nodes; and none without a fault."""
    model = small_osediff.model()
    node = pick(model, "Conv", "GroupNormalization", "Add")
    if node.op_type == "Conv":
        shift_weight(model, node)
    elif node.op_type == "GroupNormalization":
        set_epsilon(node, 1.0)
    else:
        node.op_type = "Sub"
    found = small_osediff.diverges(model, reproducer=tmp_path / "smallest")
    assert found is not None
    assert named(node)[0] in found.operators
    if node.op_type in ("Conv", "GroupNormalization"):
        assert found.operators == named(node)
    assert found.module
    assert small_osediff.diverges(small_osediff.model()) is None


def test_the_reproducer_fails_alone(tiny: Exported, tmp_path: Path) -> None:
    model = tiny.model()
    node = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    shift_weight(model, node)
    found = tiny.diverges(model, reproducer=tmp_path / "smallest")
    assert found is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["smallest"]
    alone = onnx.load(tmp_path / "smallest" / "model.onnx")
    assert [one.name for one in alone.graph.node] == [node.name]
    (feed,) = load_json(str(tmp_path / "smallest" / "inputs.json"))
    wanted = RunResults.load(str(tmp_path / "smallest" / "torch.json"))["torch"][0][found.value]
    session = onnxruntime.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, dict(feed))
    assert wanted[found.index] == pytest.approx(found.torch)
    assert got[found.index] == pytest.approx(found.onnxruntime, abs=1e-5)
    with pytest.raises(UsageError, match="smallest exists"):
        tiny.diverges(model, reproducer=tmp_path / "smallest")


def test_the_network_is_left_alone(tiny: Exported) -> None:
    before = {key: value.clone() for key, value in tiny.network.state_dict().items()}
    first_divergence(tiny.network, tiny.graph, tiny.lr, precision="fp32", group_norm="moments")
    assert {key: value.dtype for key, value in tiny.network.state_dict().items()} == {
        key: value.dtype for key, value in before.items()
    }
    assert all(torch.equal(value, before[key]) for key, value in tiny.network.state_dict().items())


def test_a_graph_of_something_else(tiny: Exported, tmp_path: Path) -> None:
    other = exported(nn.Upsample(scale_factor=2.0), tmp_path)
    with pytest.raises(ExportError, match="without torch's output"):
        first_divergence(tiny.network, other.graph, tiny.lr, precision="fp32")


def test_without_polygraphy(tiny: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "polygraphy", None)
    with pytest.raises(MissingDependency, match=r"zoomrt\[debug\]"):
        first_divergence(tiny.network, tiny.graph, tiny.lr, precision="fp32")
