"""Fake-quantised layers against scalar arithmetic in float64, and against ONNX Runtime through an export."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.calibration.fake_quant import FORMATS, FP8, INT8, Format, fake_quantised
from zoomrt.errors import PrecisionError
from zoomrt.export.graph.to_onnx import export_graph

ENDS = {"int8": (-128.0, 127.0), "fp8": (-448.0, 448.0)}
"""Lowest and largest code: of eight bits in two's complement, and of E4M3 (arXiv 2209.05433, table 1)."""
BOTH = pytest.mark.parametrize("form", [INT8, FP8], ids=lambda form: form.name)


def runner(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime that keeps its hands off Q/DQ."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def reference_codes(values: np.ndarray, scale: np.ndarray, form: Format, lowest: float) -> np.ndarray:
    """The format's values nearest to values / scale: numpy rounds half to even, ml_dtypes knows E4M3."""
    codes = np.clip(values.astype(np.float32) / scale.astype(np.float32), lowest, ENDS[form.name][1])
    if form is INT8:
        return np.round(codes).astype(np.float64)
    return codes.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=30))
def test_int8_codes_one_by_one(values: list[float]) -> None:
    """Python's round() is half to even; scale 1 makes ties as frequent as they get."""
    halves = [math.floor(value) + 0.5 for value in values]
    for lowest in (-128.0, -127.0):
        got = INT8.codes_of(torch.tensor(values + halves), torch.tensor(1.0), lowest)
        assert got.dtype is torch.int8
        assert got.tolist() == [min(127, max(int(lowest), round(value))) for value in values + halves]


def test_infinite_values_saturate() -> None:
    for form in FORMATS.values():
        codes = form.codes_of(torch.tensor([-math.inf, math.inf]), torch.tensor(0.5), form.lowest)
        assert tuple(codes.float().tolist()) == ENDS[form.name]


@given(st.floats(0, 6e4))
def test_scales_fit_fp16(amax: float) -> None:
    for form in FORMATS.values():
        scale, wanted = form.scale_of(torch.tensor(amax)), amax / ENDS[form.name][1]
        assert float(scale.half()) == float(scale) >= 2.0**-20
        assert abs(float(scale) - wanted) <= max(2.0**-20, wanted * 2**-5)


@BOTH
def test_codes_of_weights_are_symmetric(form: Format) -> None:
    """Also where FP16 has so few bits left that the scale is rounded down by 3 %, and the largest weights saturate."""
    largest = ENDS[form.name][1]
    weight = torch.tensor([[-1.0, 1.0, 0.25, 0.0]]) * 1.03 * 2.0**-20 * largest
    linear = nn.Linear(4, 1, bias=False)
    linear.weight.data = weight
    layer = fake_quantised(linear, 1.0, form, per_channel=False)
    assert float(layer.weight_scale) == 2.0**-20
    assert layer.codes.float().tolist()[0][:2] == [-largest, largest]


LAYERS = {
    "conv": lambda: nn.Conv2d(6, 10, 3, padding=1),
    "strided": lambda: nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False),
    "grouped": lambda: nn.Conv2d(6, 10, 3, dilation=2, groups=2),
    "linear": lambda: nn.Linear(6, 10),
    "linear without bias": lambda: nn.Linear(6, 10, bias=False),
}


@BOTH
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("kind", LAYERS)
def test_layer_is_the_plain_layer_on_rounded_numbers(
    rng: np.random.Generator, kind: str, per_channel: bool, form: Format
) -> None:
    layer = LAYERS[kind]()
    x = torch.randn((2, 6, 11, 9) if isinstance(layer, nn.Conv2d) else (2, 7, 6)) * float(rng.uniform(0.1, 10))
    amax = float(x.abs().max()) * 0.7  # some values are clipped
    quantised = fake_quantised(layer, amax, form, per_channel=per_channel)
    lowest, largest = ENDS[form.name]
    weight = layer.weight.detach().numpy()
    axes = tuple(range(1, weight.ndim)) if per_channel else None
    scale = (np.abs(weight).max(axes, keepdims=True) / largest).astype(np.float16)
    x_scale = np.float16(amax / largest)
    with torch.no_grad():
        layer.double().weight.copy_(
            torch.from_numpy(reference_codes(weight, scale, form, -largest) * scale.astype(np.float64))
        )
        wanted = layer(torch.from_numpy(reference_codes(x.numpy(), x_scale, form, lowest) * np.float64(x_scale)))
        got = quantised(x)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    assert quantised.codes.dtype is form.dtype


class Attention(nn.Module):
    """Three convolution and linear layers around an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.to_q, self.to_k, self.to_v = (nn.Linear(16, 16) for _ in range(3))
        self.to_out = nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        query, key, value = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return self.to_out(mixed).transpose(1, 2).reshape(n, 3, h, w)


@BOTH
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_exported_layer_equals_eager(
    tmp_path: Path, rng: np.random.Generator, kind: str, per_channel: bool, half: bool, form: Format
) -> None:
    shape = (2, 6, 12, 8) if kind == "conv" else (2, 3, 7, 6)
    network = fake_quantised(LAYERS[kind](), float(rng.uniform(1.5, 3)), form, per_channel=per_channel)
    export_graph(network, tmp_path / "g.onnx", shape=shape, half=half, opset=23)
    x = rng.normal(size=shape).astype(np.float16 if half else np.float32)
    (got,) = runner(tmp_path / "g.onnx").run(None, {"image": x})
    with torch.no_grad():
        wanted = network(torch.from_numpy(x.astype(np.float32))).numpy()  # FP16 storage, FP32 sums: as on a GPU
    tolerance = 4e-3 if half else 2e-6
    np.testing.assert_allclose(got, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)
    stored = {init.data_type for init in onnx.load(tmp_path / "g.onnx").graph.initializer if len(init.dims) > 1}
    assert stored == {onnx.TensorProto.INT8 if form is INT8 else onnx.TensorProto.FLOAT8E4M3FN}


def test_exported_graph_keeps_attention_and_shares_roundings(tmp_path: Path) -> None:
    """q, k and v read the same tensor with the same range: it is rounded once."""
    network = Attention().eval()
    for name in ("conv", "to_q", "to_k", "to_v", "to_out"):
        layer = getattr(network, name)
        setattr(network, name, fake_quantised(layer, 2.0, INT8, per_channel=False))
    export_graph(network, tmp_path / "g.onnx", shape=(1, 3, 8, 8), half=True, opset=23)
    graph = onnx.load(tmp_path / "g.onnx").graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["Attention"] == 1
    assert operators["QuantizeLinear"] == 3
    assert operators["DequantizeLinear"] == 3 + 5
    large = [init for init in graph.initializer if math.prod(init.dims) > 16]
    assert [init.data_type for init in large] == [onnx.TensorProto.INT8] * 5


@BOTH
def test_half_keeps_the_codes(form: Format) -> None:
    layer = fake_quantised(nn.Linear(4, 4), 1.0, form, per_channel=True)
    codes = layer.codes.float()
    layer = layer.half()
    assert layer.codes.dtype is form.dtype
    assert torch.equal(layer.codes.float(), codes)
    assert layer.weight_scale.dtype is layer.bias.dtype is torch.float16
    assert layer(torch.ones(1, 4, dtype=torch.float16)).dtype is torch.float16
    assert set(layer.state_dict()) == {"codes", "weight_scale", "input_scale", "bias"}


def test_layers_that_cannot_be_quantised() -> None:
    for layer in (nn.ConvTranspose2d(3, 3, 2), nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")):
        with pytest.raises(PrecisionError, match="Keep this layer"):
            fake_quantised(layer, 1.0, INT8, per_channel=False)
