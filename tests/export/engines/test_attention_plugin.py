"""Which attentions of a graph go to the plugin, what the graph for full TensorRT looks like, and the build around it.

Full TensorRT needs a GPU, so a stand-in that only looks at what it is given takes its place.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine_graphs import stand_in
from onnx import TensorProto, helper, numpy_helper

from zoomrt.errors import BuildError, PluginError, UsageError
from zoomrt.export.build import build
from zoomrt.export.engines.attention_plugin import attention_form, plugged
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.request import BuildRequest

FOUR = {"q": [1, 1, 64, 512], "k": [1, 1, 64, 512], "v": [1, 1, 64, 512]}
THREE = {"q": [2, 64, 512], "k": [2, 48, 512], "v": [2, 48, 512]}
ONE_HEAD = {"q_num_heads": 1, "kv_num_heads": 1}


def graph(
    path: Path,
    shapes: dict[str, list[int]],
    kind: int = TensorProto.FLOAT16,
    extra: tuple[str, ...] = (),
    **attributes: object,
) -> Path:
    """One attention `wide`, between a Mul with a weight in a file of its own and a Relu."""
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    weight = numpy_helper.from_array(np.full(shapes["q"][-1:], 2, helper.tensor_dtype_to_np_dtype(kind)), "w")
    nodes = [
        helper.make_node("Attention", [*"qkv", *extra], ["a"], name="wide", **attributes),
        helper.make_node("Mul", ["a", "w"], ["z"], name="after"),
    ]
    output = helper.make_tensor_value_info("z", kind, None)
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [output], [weight]),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


@pytest.mark.parametrize(
    ("shapes", "attributes", "wanted"),
    [
        (FOUR, {}, (1, 1, 64, 64, 512, False, 512**-0.5)),
        (THREE, ONE_HEAD, (2, 1, 64, 48, 512, True, 512**-0.5)),
        (FOUR, {"scale": 0.25}, (1, 1, 64, 64, 512, False, 0.25)),
    ],
)
def test_a_wide_attention_becomes_a_plugin_node(
    shapes: dict[str, list[int]], attributes: dict[str, object], wanted: tuple[object, ...], tmp_path: Path
) -> None:
    plain = graph(tmp_path / "g.onnx", shapes, **attributes)
    before = plain.read_bytes()
    with plugged(plain, "tensorrt") as (path, calls):
        (call,) = calls.values()
        model = onnx.load(path)  # with its weights, so they are found from there
    assert list(calls) == ["wide"]
    found = (call.batch, call.heads, call.query_tokens, call.key_tokens, call.size, call.folded, call.scale)
    assert found == wanted
    node = model.graph.node[0]
    assert (node.op_type, node.domain, list(node.input), list(node.output)) == ("attention", "zoomrt", [*"qkv"], ["a"])
    assert {one.name: helper.get_attribute_value(one) for one in node.attribute} == {
        "kernel": call.name.encode(),
        "plugin_namespace": b"zoomrt",
        "plugin_version": b"1",
        "aot": 1,
    }
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [2] * 512
    assert plain.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["g.onnx", "g.onnx.data"]


@pytest.mark.parametrize(
    ("shapes", "changes", "said"),
    [
        ({**FOUR, "k": [1, 1, 48, 512]}, {}, r"query .* key \(1, 1, 48, 512\)"),
        ({**FOUR, "m": [64, 64]}, {"extra": ("m",)}, "a mask"),
        (FOUR, {"is_causal": 1}, "is_causal"),
        (FOUR, {"kind": TensorProto.FLOAT}, "data of type float"),
        ({"q": [1, 2, 64, 512], "k": [1, 1, 64, 512], "v": [1, 1, 64, 512]}, {}, "as many heads"),
        ({name: [1, 4, 64, 64] for name in "qkv"}, {}, "heads above 256"),
    ],
)
def test_what_the_plugin_does_not_do_is_refused(
    shapes: dict[str, list[int]], changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    plain = graph(tmp_path / "g.onnx", shapes, **changes)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=f"{said}.*--attention-plugin"), plugged(plain, "tensorrt"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["g.onnx", "g.onnx.data"]


def test_the_choice_is_the_tables() -> None:
    assert attention_form("tensorrt", 256, plugin=True) == "fused"
    assert attention_form("tensorrt", 512, plugin=True) == "plugin"
    assert attention_form("tensorrt", 512, plugin=False) == "plain"
    assert attention_form("tensorrt_rtx", 512, plugin=True) == "plain"


@pytest.mark.parametrize(
    "changes",
    [{"target": "sm89"}, {"target": "cpu"}, {"target": "rtx", "backend": "tensorrt"}, {"precision": "fp32"}],
)
def test_asking_for_it_where_it_cannot_be_is_refused(changes: dict[str, str], tmp_path: Path) -> None:
    fields = {
        "target": "sm89",
        "precision": "fp16",
        **({"backend": "tensorrt"} if changes == {"precision": "fp32"} else {}),
    }
    with pytest.raises(UsageError, match="attention cannot be a plugin"):
        build(BuildRequest(attention_plugin=True, **{**fields, **changes}), tmp_path / "b")  # type: ignore[arg-type]


STAND_IN = """
import json, os
import onnx
__version__ = "11.4.0"
class Names:
    def __init__(self, *names):
        for index, name in enumerate(names): setattr(self, name, index)
NetworkDefinitionCreationFlag = Names("EXPLICIT_BATCH", "STRONGLY_TYPED")
BuilderFlag, ProfilingVerbosity, LayerType = Names("TF32"), Names("DETAILED"), Names("ATTENTION_INPUT")
class ILogger: pass
class IProgressMonitor: pass
class Network: num_layers = 0
class Config:
    def clear_flag(self, flag): pass
class OnnxParser:
    def __init__(self, network, logger): self.network = network
    def parse_from_file(self, path):
        self.network.nodes = [[n.domain, n.op_type] for n in onnx.load(path).graph.node]
        return True
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): return Network()
    def create_builder_config(self): return Config()
    def build_serialized_network(self, network, config):
        from tensorrt import plugin
        return json.dumps({"nodes": network.nodes, "plugins": plugin.seen}).encode()
"""
PLUGIN_MODULE = """
seen = []
class TensorDesc: pass
class KernelLaunchParams:
    def __init__(self, grid_x=1, grid_y=1, grid_z=1, block_x=1, block_y=1, block_z=1, shared_mem=0): pass
class SymIntExprs:
    def __init__(self, length): pass
def register(plugin_id, lazy_register=False): return lambda function: seen.append(["register", plugin_id])
"""
AOT = "def aot_impl(plugin_id): return lambda function: seen.append(['aot_impl', plugin_id])\n"


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, module: str) -> None:
    """A stand-in for TensorRT with this text as `tensorrt.plugin`."""
    path = stand_in(folder, "tensorrt", STAND_IN)
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt.py").rename(folder / "tensorrt" / "__init__.py")
    (folder / "tensorrt" / "plugin.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(path)


def built(tmp_path: Path, **options: object) -> object:
    plain = graph(tmp_path / "g.onnx", FOUR)
    return build_engine(
        plain, tmp_path / "e", backend="tensorrt", compute_capabilities=("SM89",), precision="fp16", **options  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_engine_is_built_with_the_plugin_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    use(monkeypatch, tmp_path / "fake", PLUGIN_MODULE + AOT)
    report = built(tmp_path, attention_plugin=True)
    seen = json.loads((tmp_path / "e").read_bytes())
    assert seen["nodes"] == [["zoomrt", "attention"], ["", "Mul"]]
    assert seen["plugins"] == [["register", "zoomrt::attention"], ["aot_impl", "zoomrt::attention"]]
    assert report.attentions_by_plugin == ("wide",)
    assert any("wide" in warning and "not run on a GPU" in warning for warning in report.warnings)
    assert sorted(os.listdir(tmp_path)) == ["e", "fake", "g.onnx", "g.onnx.data"]


def test_plain_operators_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "fake", PLUGIN_MODULE + AOT)
    report = built(tmp_path)
    seen = json.loads((tmp_path / "e").read_bytes())
    assert seen == {"nodes": [["", "Attention"], ["", "Mul"]], "plugins": []}
    assert report.attentions_by_plugin == ()


def test_a_tensorrt_without_such_plugins_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    use(monkeypatch, tmp_path / "fake", PLUGIN_MODULE)
    with pytest.raises(PluginError, match=r"aot_impl.*TensorRT 10\.9 or newer.*--attention-plugin"):
        built(tmp_path, attention_plugin=True)
    assert sorted(os.listdir(tmp_path)) == ["fake", "g.onnx", "g.onnx.data"]
