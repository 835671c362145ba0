"""3x3 convolutions with a quarter of the multiplications, written in ONNX operators: Winograd's F(4x4, 3x3).

CPU runners convolve directly, close to what the processor multiplies at best, so only fewer multiplications are faster.
Matrices of Lavin and Gray, "Fast algorithms for convolutional neural networks" (arXiv 1509.09308). A tile of 6x6 inputs
becomes 36 values (one convolution with 36 constant filters), each of these is one matrix product over channels, and 36
values become 4x4 outputs. Costs: 4 times the filters' memory in the runner (they are transformed while it loads, the
file does not grow), and more rounding than a direct convolution has: test_winograd.py allows 5e-5 of the largest value.
For FP32 only: factors up to 8 would eat the digits of narrower types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MINIMUM_PIXELS", "winograd_convolutions"]

MINIMUM_PIXELS = 64 * 64
"""Below, the layers are wide: their transformed filters fill the memory, and reading them costs what is saved."""
_MINIMUM_CHANNELS = 32

_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_FILTER = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


class _Winograd(nn.Module):
    """(N, C, h, w) -> (N, K, h, w) as `conv` does; directly where the picture is small or no multiple of 4."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.to_input: Tensor
        self.to_filter: Tensor
        self.to_output: Tensor
        for name, matrix in (("to_input", _INPUT), ("to_filter", _FILTER), ("to_output", _OUTPUT)):
            one = torch.tensor(matrix, dtype=torch.float64)
            self.register_buffer(name, torch.kron(one, one).float())

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if h % 4 or w % 4 or h * w < MINIMUM_PIXELS:
            out: Tensor = self.conv(x)
            return out
        k, rows, columns = self.conv.out_channels, h // 4, w // 4
        tiles = F.conv2d(x.reshape(n * c, 1, h, w), self.to_input.reshape(36, 1, 6, 6), stride=4, padding=1)
        values = tiles.reshape(n, c, 36, rows * columns).permute(2, 0, 1, 3)
        filters = (self.to_filter @ self.conv.weight.reshape(k * c, 9).T).reshape(36, 1, k, c)
        products = (filters @ values).reshape(36, n * k * rows * columns)
        blocks = (self.to_output @ products).reshape(16, n, k, rows, columns)
        result = _depth_to_space(blocks.transpose(0, 1).reshape(n, 16 * k, rows, columns))
        return result if self.conv.bias is None else result + self.conv.bias.reshape(1, k, 1, 1)


def _depth_to_space(x: Tensor) -> Tensor:
    """(N, 16 K, h, w) -> (N, K, 4h, 4w), the place within a block the slower part of the channel."""
    n, channels, h, w = x.shape
    shape = (n, channels // 16, 4 * h, 4 * w)
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(
            "DepthToSpace", [x], {"blocksize": 4, "mode": "DCR"}, dtype=x.dtype, shape=shape, version=13
        )
    return x.reshape(n, 4, 4, shape[1], h, w).permute(0, 3, 4, 1, 5, 2).reshape(shape)


def _fits(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
        and (module.dilation, module.groups, module.padding_mode) == ((1, 1), 1, "zeros")
        and min(module.in_channels, module.out_channels) >= _MINIMUM_CHANNELS
    )


@contextlib.contextmanager
def winograd_convolutions(network: nn.Module | None) -> Iterator[None]:
    """Swap them in for the time of an export; no weight is copied."""
    places = [
        (parent, name, child)
        for parent in (network.modules() if network is not None else ())
        for name, child in parent.named_children()
        if _fits(child)
    ]
    try:
        for parent, name, conv in places:
            assert isinstance(conv, nn.Conv2d)
            setattr(parent, name, _Winograd(conv))
        yield
    finally:
        for parent, name, conv in places:
            setattr(parent, name, conv)
