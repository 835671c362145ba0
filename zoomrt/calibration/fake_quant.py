"""Conv2d and Linear that compute as a quantised engine does, and export as QuantizeLinear / DequantizeLinear.

Input and weight are rounded to 8-bit codes, symmetric, zero at code 0; the product and the bias stay in the network's
own precision. Weights are held as codes only. In torch the rounding is carried out; in an ONNX export it becomes the
standard operators with the codes as constants, which compilers turn into 8-bit arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.errors import PrecisionError


@dataclass(frozen=True)
class Format:
    """An 8-bit number format.

    largest : the code that the range's end maps to. lowest : the lowest code of an input; of a weight it is -largest,
    so that weights are symmetric.
    """

    name: str
    dtype: torch.dtype
    largest: float
    lowest: float

    def scale_of(self, amax: Tensor) -> Tensor:
        """Value of code 1, for ranges that end at `amax`.

        Rounded to what FP16 holds, so that FP16 and FP32 graphs carry the same scales; at least 2**-20, where FP16
        still has five bits.
        """
        scale = (amax.double() / self.largest).half().float()
        return scale.clamp(min=2.0**-20)

    def codes_of(self, values: Tensor, scale: Tensor, lowest: float) -> Tensor:
        """Nearest codes, half to even, saturated; arithmetic in FP32."""
        codes = (values.float() / scale.float()).clamp(lowest, self.largest)
        return (codes.round() if self.dtype is torch.int8 else codes).to(self.dtype)


INT8 = Format("int8", torch.int8, 127.0, -128.0)
FP8 = Format("fp8", torch.float8_e4m3fn, 448.0, -448.0)
"""E4M3: four exponent bits, three mantissa bits, no infinities (Micikevicius et al., arXiv 2209.05433)."""
FORMATS = {form.name: form for form in (INT8, FP8)}


class _Quantised(nn.Module):
    """What both layers share: `codes` of the weight, `weight_scale` and `input_scale`, `bias`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, amax: float, form: Format, per_channel: bool) -> None:
        super().__init__()
        weight = weight.detach()
        self.form = form
        ends = weight.abs().flatten(1).amax(1) if per_channel else weight.abs().amax()
        scale = form.scale_of(ends)
        across = scale.reshape(-1, *[1] * (weight.ndim - 1)) if per_channel else scale
        self.codes: Tensor
        self.weight_scale: Tensor
        self.input_scale: Tensor
        self.register_buffer("codes", form.codes_of(weight, across, -form.largest))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", form.scale_of(torch.tensor(amax)))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Quantised:
        """Codes change place but never type: `half()` would turn FP8 codes, which count as floats, into FP16."""
        codes = self._buffers.pop("codes")
        assert codes is not None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._buffers["codes"] = codes.to(self.weight_scale.device)
        return self

    def _rounded(self, x: Tensor) -> Tensor:
        """The input as its codes stand for it, in the input's own type."""
        if torch.onnx.is_in_onnx_export():
            zero = torch.zeros((), dtype=self.form.dtype)
            codes = _onnx("QuantizeLinear", [x, self.input_scale, zero], self.form.dtype, x.shape)
            return _onnx("DequantizeLinear", [codes, self.input_scale, zero], x.dtype, x.shape)
        codes = self.form.codes_of(x, self.input_scale, self.form.lowest)
        return (codes.float() * self.input_scale.float()).to(x.dtype)

    def _weight(self) -> Tensor:
        scale, dtype, shape = self.weight_scale, self.weight_scale.dtype, self.codes.shape
        if torch.onnx.is_in_onnx_export():
            zero = torch.zeros(scale.shape, dtype=self.form.dtype)
            return _onnx("DequantizeLinear", [self.codes, scale, zero], dtype, shape, axis=0)
        across = scale.reshape(-1, *[1] * (len(shape) - 1)) if scale.ndim else scale
        return (self.codes.float() * across.float()).to(dtype)


class QuantConv2d(_Quantised):
    """`conv` with 8-bit input and weight. amax : the magnitude of the input that the largest code stands for."""

    def __init__(self, conv: nn.Conv2d, amax: float, form: Format, *, per_channel: bool) -> None:
        super().__init__(conv.weight, conv.bias, amax, form, per_channel)
        self.geometry: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self._rounded(x), self._weight(), self.bias, *self.geometry)


class QuantLinear(_Quantised):
    """`linear` with 8-bit input and weight. amax : the magnitude of the input that the largest code stands for."""

    def __init__(self, linear: nn.Linear, amax: float, form: Format, *, per_channel: bool) -> None:
        super().__init__(linear.weight, linear.bias, amax, form, per_channel)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self._rounded(x), self._weight(), self.bias)


def fake_quantised(layer: nn.Module, amax: float, form: Format, *, per_channel: bool) -> nn.Module:
    """The quantised twin of a Conv2d (zero-padded) or Linear. Raises PrecisionError for any other module."""
    if isinstance(layer, nn.Linear):
        return QuantLinear(layer, amax, form, per_channel=per_channel)
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return QuantConv2d(layer, amax, form, per_channel=per_channel)
    raise PrecisionError(
        f"a layer cannot be quantised to {form.name}",
        seen=repr(layer),
        needed="a Linear or a zero-padded Conv2d",
        remedy="Keep this layer in FP16.",
    )


def _onnx(operator: str, inputs: list[Tensor], dtype: torch.dtype, shape: torch.Size, **attributes: Any) -> Tensor:
    """One ONNX operator at opset 21, the first whose Q/DQ takes every 8-bit type with FP16 scales."""
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=shape, version=21)
