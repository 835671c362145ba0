"""A network in FP16, but for the modules that are to stay in FP32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_MARK = "_zoomrt_keeps_fp32"


def keep_fp32(module: nn.Module) -> None:
    """Have `to_half` leave this module in FP32: what comes in is widened, what goes out is rounded."""
    setattr(module, _MARK, True)


def kept_fp32(network: nn.Module) -> list[str]:
    """Paths of the modules that `keep_fp32` was called for."""
    return [path for path, module in network.named_modules() if getattr(module, _MARK, False)]


@torch.no_grad()
def to_half(network: nn.Module) -> None:
    """Turn the weights into FP16, one after the other and in place, so that there are never two copies of them all."""
    kept: set[int] = set()
    for path in kept_fp32(network):
        module = network.get_submodule(path)
        kept.update(map(id, _constants(module)))
        module.register_forward_pre_hook(_widen_arguments, with_kwargs=True)
        module.register_forward_hook(_round_results)
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in kept and parameter.dtype is torch.float32:
                setattr(module, name, nn.Parameter(parameter.half(), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if id(buffer) not in kept and buffer.dtype is torch.float32:
                setattr(module, name, buffer.half())


def is_half(network: nn.Module) -> bool:
    """Whether `to_half` has been here."""
    return any(tensor.dtype is torch.float16 for tensor in _constants(network))


def _constants(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _widen_arguments(_module: nn.Module, args: Any, kwargs: Any) -> Any:
    def widened(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.dtype is torch.float16 else value

    return tree_map(widened, args), tree_map(widened, kwargs)


def _round_results(_module: nn.Module, _args: Any, results: Any) -> Any:
    def rounded(value: Any) -> Any:
        return value.half() if isinstance(value, Tensor) and value.dtype is torch.float32 else value

    return tree_map(rounded, results)
