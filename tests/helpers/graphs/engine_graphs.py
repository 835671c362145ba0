"""Graphs and stand-in compilers for the engine tests. Not a test file."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from seeds import rng_for
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.calibration.fake_quant import FORMATS, fake_quantised

SIZE, CHANNELS, HEADS = 16, 64, 2
TOKENS = SIZE * SIZE


class TinyNetwork(nn.Module):
    """Convolution, GroupNorm, SiLU and a self-attention over all pixels: what the real networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.norm = nn.GroupNorm(8, CHANNELS)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))
        self.conv_out = nn.Conv2d(CHANNELS, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.norm(self.conv_in(x)))
        tokens = h.flatten(2).transpose(1, 2)

        def split(t: Tensor) -> Tensor:
            return t.reshape(1, TOKENS, HEADS, CHANNELS // HEADS).transpose(1, 2)

        out = F.scaled_dot_product_attention(split(self.q(tokens)), split(self.k(tokens)), split(self.v(tokens)))
        out = out.transpose(1, 2).reshape(1, TOKENS, CHANNELS).transpose(1, 2).reshape(h.shape)
        result: Tensor = self.conv_out(h + out)
        return result


class FloatInput(nn.Module):
    """An FP16 network behind an FP32 input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TinyNetwork().half()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x.half()).float()
        return result


class QuantisedNetwork(nn.Module):
    """TinyNetwork with every layer in 8 bits, each scale that of a standard normal input."""

    def __init__(self, form: str, per_channel: bool) -> None:
        super().__init__()
        self.inner = TinyNetwork()
        for name, layer in list(self.inner.named_children()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                setattr(self.inner, name, fake_quantised(layer, 4.0, FORMATS[form], per_channel=per_channel))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


@functools.cache
def _exported(network: Callable[[], nn.Module], opset: int, half_input: bool) -> bytes:
    with torch.random.fork_rng(devices=[]):  # whichever test is the first to want it
        torch.manual_seed(int(rng_for("engine_graphs").integers(2**32)))
        module = network().eval()
    if half_input:
        module = module.half()
    x = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float16 if half_input else torch.float32)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (x,),
                dynamo=True,
                opset_version=opset,
                input_names=["image"],
                output_names=["upscaled_image"],
                verbose=False,
            )
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    return program.model_proto.SerializeToString()


def tiny_graph(path: Path, *, half: bool = True, opset: int = 23) -> Path:
    """Random weights, fresh in every test run; the same within one."""
    path.write_bytes(_exported(TinyNetwork, opset, half))
    return path


def quantised_graph(path: Path, form: str, *, half: bool = True, per_channel: bool = False) -> Path:
    """`form` : int8 or fp8. Fresh random weights at every call."""
    path.write_bytes(_exported(functools.partial(QuantisedNetwork, form, per_channel), 23, half))
    return path


def float_input_graph(path: Path) -> Path:
    path.write_bytes(_exported(FloatInput, 23, False))
    return path


def small_graph(path: Path, nodes: list[onnx.NodeProto], shapes: dict[str, list[int | str]], output: str) -> Path:
    """FP16 graph of a few nodes: `shapes` of the inputs, one output whose shape is inferred."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT16, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    return path


def attention_graph(path: Path, head_size: int) -> Path:
    """One attention whose query, key and value are graph inputs; TensorRT has no kernel for head sizes above 256."""
    shapes: dict[str, list[int | str]] = {name: [1, 2, 64, head_size] for name in "qkv"}
    return small_graph(path, [helper.make_node("Attention", ["q", "k", "v"], ["z"], name="attend")], shapes, "z")


def normalisation_graph(path: Path, *, float_io: bool = False) -> Path:
    """A normalisation so wide that TensorRT writes its FP32 statistics, and data, to memory in between."""
    shapes: dict[str, list[int | str]] = {"x": [1, 8, 98304], "scale": [8], "bias": [8]}
    nodes = [helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], name="norm")]
    if not float_io:
        return small_graph(path, [*nodes, helper.make_node("Sigmoid", ["y"], ["z"], name="after")], shapes, "z")
    nodes[0].input[0] = "x16"
    nodes.insert(0, helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16, name="cast_in"))
    model = onnx.load(small_graph(path, nodes, shapes, "y"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, path)
    return path


def stand_in(folder: Path, module: str, code: str) -> str:
    """A folder for PYTHONPATH in which `import <module>` runs `code` instead of the real compiler."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    return str(folder)
