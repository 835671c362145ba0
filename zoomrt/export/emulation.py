"""FP16 storage on a CPU: every tensor is rounded to FP16 as it is written, arithmetic stays FP32.

CPU runners compute FP16 graphs in FP32 and hide overflow (trt.md section 4). Here a value beyond 65504 becomes
infinite, as it would on a GPU.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["run_with_fp16_storage"]


def _rounded(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype is torch.float32:
        return value.half().float()
    return value


class _Fp16Storage(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map(_rounded, func(*args, **(kwargs or {})))


def run_with_fp16_storage(network: nn.Module, lr: Tensor) -> Tensor:
    """`network(lr)` as FP16 storage would give it; float32 in, float32 out, infinities and NaN kept."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.copy_(_rounded(tensor))
        with _Fp16Storage():  # type: ignore[no-untyped-call]
            result: Tensor = network(_rounded(lr))
    return result
