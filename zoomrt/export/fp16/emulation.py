"""FP16 storage on a CPU: what an FP16 network writes is rounded to FP16 as on a GPU, arithmetic is FP32.

CPU runners compute FP16 graphs in FP32 and hide overflow (docs/fp16.md). Here every operation of a network that
is in FP16 runs in FP32 and hands on FP16, so a value beyond 65504 becomes infinite. Parts that the network itself keeps
in FP32 stay so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from zoomrt.export.recording import Visitor, Where, following


class _Fp16Storage(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, where: Where, visit: Visitor | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where, self.visit = where, visit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        returns = func._schema.returns
        if any(one.alias_info is not None and one.alias_info.is_write for one in returns):
            raise NotImplementedError(f"{func} writes into its input: not emulated")
        moves_only = any(one.alias_info is not None for one in returns) or func.overloadpacket.__name__ == "_to_copy"
        if moves_only or not _all_half(args):
            result = func(*args, **kwargs)
        else:
            result = tree_map(_stored, func(*tree_map(_widened, args), **tree_map(_widened, kwargs)))
        operation = self.where.operation(func, args, result)
        if operation is not None and self.visit is not None:
            self.visit(operation)
        return result


def _all_half(args: Any) -> bool:
    """Whether the result is FP16: there are floating-point tensors, and none of them is wider."""
    flat = [one for arg in args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]
    kinds = {one.dtype for one in flat if isinstance(one, Tensor) and one.is_floating_point() and one.dim()}
    return kinds == {torch.float16}


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.float16 else value


def _stored(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype is torch.float32 else value


@torch.no_grad()
def run_with_fp16_storage(network: nn.Module, lr: Tensor, visit: Visitor | None = None) -> Tensor:
    """`network(lr)` as FP16 storage would give it; infinities and NaN are kept.

    network : in FP16 (`half.to_half`), apart from what is to stay FP32. lr : (N, 3, h, w) float32 or float16.
    visit : is shown each operation as it ran, its outputs in the type in which they are stored.

    Returns float32.
    """
    with following(network) as where, _Fp16Storage(where, visit):
        result: Tensor = network(lr.half())
    return result.float()
