"""What the launch functions check of their tensors before a kernel sees a pointer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from zoomrt.errors import InputError

TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.uint8: "u8", torch.int32: "i32"}
"""Triton's names of torch's types."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def require(holds: bool, what: str, seen: object, needed: str, remedy: str) -> None:
    """InputError unless it holds."""
    if not holds:
        raise InputError(what, seen=seen, needed=needed, remedy=remedy)


def require_tensors(what: str, function: Any, *tensors: Tensor | None) -> None:
    """InputError unless all are on one GPU; on a CPU only if Triton interprets, as tests have it."""
    present = [tensor for tensor in tensors if tensor is not None]
    devices = {str(tensor.device) for tensor in present}
    usable = "cuda" if isinstance(function, JITFunction) else present[0].device.type
    holds = len(devices) == 1 and present[0].device.type == usable
    seen = "tensors on " + " and ".join(sorted(devices))
    remedy = "Move them with .cuda(); on a CPU use the module's `reference`."
    require(holds, what, seen, "all on one CUDA device", remedy)
