"""Discrete choices inside a network, such as the nearest code: rounding changes some of them, and each a whole patch.

That is no error of what comes before or after, but it hides both. So FP16 is proved with the choices that FP32 made,
and what they were made from is compared by itself (`fp16.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_MARK = "_zoomrt_chooses"


@dataclass(frozen=True)
class Choice:
    """What a module was given, and what it made of that."""

    given: Tensor
    made: Tensor


def chooses(module: nn.Module) -> None:
    """Mark a module of one input and one output, between which it chooses."""
    setattr(module, _MARK, True)


@contextlib.contextmanager
def recorded(network: nn.Module) -> Iterator[list[Choice]]:
    """The choices of the runs inside the block, in their order, as float32."""
    choices: list[Choice] = []

    def note(_module: nn.Module, args: Any, result: Tensor) -> None:
        choices.append(Choice(args[0].float(), result.float()))

    with _hooked(network, note):
        yield choices


@contextlib.contextmanager
def replayed(network: nn.Module, choices: Sequence[Choice]) -> Iterator[list[Tensor]]:
    """One run with these choices, whatever the modules are given, which is listed, as float32."""
    given: list[Tensor] = []

    def replace(_module: nn.Module, args: Any, result: Tensor) -> Tensor:
        given.append(args[0].float())
        return choices[len(given) - 1].made.to(result.dtype)

    with _hooked(network, replace):
        yield given


@contextlib.contextmanager
def _hooked(network: nn.Module, hook: Any) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in network.modules() if getattr(module, _MARK, False)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
