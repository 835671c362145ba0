"""What a network does, operation by operation, while it runs: each one's place in the network, inputs and outputs.

Needs no export and works for any tile size. Two networks of one structure make the same values in the same order,
which is how one under FP16 is found again under FP32. What only moves values about is shown but not counted: whether a
copy is needed depends on how they lie in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

_CONVERSIONS = ("_to_copy",)
_VIEWS = frozenset({"t", "transpose", "permute", "view", "detach", "alias"})
"""What may be done to a whole weight before it is used."""
MOVES = _VIEWS | frozenset(
    {
        *("_unsafe_view", "reshape", "_reshape_alias", "expand", "squeeze", "unsqueeze", "clone", "contiguous", "cat"),
        *(
            "split",
            "split_with_sizes",
            "chunk",
            "unbind",
            "slice",
            "select",
            "roll",
            "pixel_shuffle",
            "pixel_unshuffle",
        ),
        *("replication_pad2d", "reflection_pad2d", "upsample_nearest2d"),
    }
)
"""Operations whose results are their inputs' values, in another place."""


@dataclass(frozen=True)
class Operation:
    """One operation as it ran. `place` is the path of the module that called it; "" is the network itself."""

    index: int | None
    """Which value it makes, counted from 0; None if it only moves values about: views, copies, cuts and joins."""
    place: str
    kind: str
    """torch's name of the operation: convolution, add, native_group_norm."""
    module: nn.Module
    args: tuple[Any, ...]
    outputs: tuple[Tensor, ...]
    constant: Callable[[object], Tensor | None]
    """The parameter or buffer of the network that an argument is, or is a view of."""

    @property
    def name(self) -> str:
        """For people: 'add in decoder.mid_block.resnets.0'."""
        return f"{self.kind.removeprefix('native_')} in {self.place or 'the network itself'}"


Visitor = Callable[[Operation], None]


class Where:
    """Knows the module that is running, and counts operations."""

    def __init__(self, network: nn.Module) -> None:
        self._stack: list[tuple[str, nn.Module]] = [("", network)]
        self._constants = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
        self._views: WeakIdKeyDictionary = WeakIdKeyDictionary()  # view of a constant -> the constant
        self._count = 0

    def operation(self, func: Any, args: tuple[Any, ...], result: Any) -> Operation | None:
        """The operation that `func` was; None for what does not count as one."""
        kind = func.overloadpacket.__name__
        if kind in _CONVERSIONS:
            return None
        if kind in _VIEWS and (constant := self.constant(args[0])) is not None:
            self._views[result] = constant
            return None
        place, module = self._stack[-1]
        index = None if kind in MOVES else self._count
        self._count += index is not None
        return Operation(index, place, kind, module, args, _values_of(result), self.constant)

    def constant(self, tensor: object) -> Tensor | None:
        """See `Operation.constant`."""
        if not isinstance(tensor, Tensor):
            return None
        if id(tensor) in self._constants:
            return self._constants[id(tensor)]
        found: Tensor | None = self._views.get(tensor)  # type: ignore[no-untyped-call]
        return found


@contextlib.contextmanager
def following(network: nn.Module) -> Iterator[Where]:
    """Know at any time which module of `network` runs."""
    where = Where(network)
    handles = []
    for path, module in network.named_modules():
        if path:
            entry = (path, module)
            handles.append(module.register_forward_pre_hook(lambda *_, entry=entry: where._stack.append(entry)))
            handles.append(module.register_forward_hook(lambda *_: _pop(where)))
    try:
        with _FlatLinears():
            yield where
    finally:
        for handle in handles:
            handle.remove()


class _FlatLinears(TorchFunctionMode):
    """Linear layers on matrices only. With more axes torch takes one operation or two by how the input lies."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear and args[0].dim() > 2:
            x = args[0]
            flat = func(x.reshape(-1, x.shape[-1]), *args[1:], **(kwargs or {}))
            return flat.reshape(*x.shape[:-1], flat.shape[-1])
        return func(*args, **(kwargs or {}))


def _pop(where: Where) -> None:
    where._stack.pop()


def _values_of(result: Any) -> tuple[Tensor, ...]:
    """The floating-point tensors that an operation hands on. Norms and attention return statistics too, as a tuple."""
    if isinstance(result, tuple):
        result = result[:1]
    parts = result if isinstance(result, Sequence) else [result]
    return tuple(part for part in parts if isinstance(part, Tensor) and part.is_floating_point())


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, where: Where, visitors: Sequence[Visitor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where, self.visitors = where, visitors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (operation := self.where.operation(func, args, result)) is not None:
            for visit in self.visitors:
                visit(operation)
        return result


@torch.no_grad()
def watched(network: nn.Module, lr: Tensor, *visitors: Visitor) -> Tensor:
    """`network(lr)`, each operation shown to every visitor right after it ran. Visitors must not keep the tensors."""
    with following(network) as where, _Watch(where, visitors):
        result: Tensor = network(lr)
    return result
