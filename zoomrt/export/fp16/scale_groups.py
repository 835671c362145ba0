"""Which values of a network can be made smaller together without changing its result: its streams.

A stream is a set of values that must share one factor: what is added, joined or moved about keeps the factor of its
parts. A convolution or linear layer lies between two streams and can change the factor, a norm can swallow it (its
epsilon grows by the square), SiLU and the like allow none. With powers of two the rescaled network gives the same FP32
numbers bit for bit (docs/fp16.md) and costs nothing at run time: only weights, biases and epsilons change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from zoomrt.export.recording import MOVES, Operation

_KEEPS_FACTOR = MOVES | frozenset(
    {
        *("add", "sub", "neg", "mean", "relu", "leaky_relu", "constant_pad_nd", "avg_pool2d", "max_pool2d"),
        *("upsample_bilinear2d", "upsample_bicubic2d"),
    }
)
"""Operations f with f(s x, s y) = s f(x, y) for every s > 0."""
_PRODUCTS: dict[str, tuple[int, int, int]] = {"convolution": (0, 1, 2), "linear": (0, 1, 2), "addmm": (1, 2, 0)}
"""Kind -> positions of input, weight and bias among the arguments."""
_ATTENTION = "_scaled_dot_product"


@dataclass(frozen=True)
class _Layer:
    """A convolution, linear layer or norm between two streams, or a constant that is added: it has no source."""

    source: int | None
    target: int
    weight: Tensor | None
    bias: Tensor | None
    norm: nn.GroupNorm | nn.LayerNorm | None = None


class Streams:
    """A visitor for `recording.watched` on an FP32 network; one tile is enough. Then `exponents` decides and `rescale`
    acts."""

    def __init__(self) -> None:
        self._streams: WeakIdKeyDictionary = WeakIdKeyDictionary()  # value -> stream
        self._parents: list[int] = []
        self._pinned: set[int] = set()
        self._members: list[int | None] = []
        self._layers: list[_Layer] = []
        self._users: dict[int, _Layer] = {}  # weight -> the layer that it belongs to
        self._constant: Callable[[object], Tensor | None]

    def __call__(self, operation: Operation) -> None:
        kind, args, inputs = operation.kind, operation.args, _tensors(operation.args)
        self._constant = operation.constant
        target = self._new(operation.index)
        if (layer := self._layer(operation, target)) is not None:
            self._add(layer)
        elif kind.startswith(_ATTENTION):
            self._pin(*map(self._stream, inputs[:2]))  # their product goes through a softmax
            self._join(target, self._stream(inputs[2]))
        elif kind in _KEEPS_FACTOR and not _has_offset(kind, args):
            self._join(target, *map(self._stream, inputs))
        elif kind in ("mul", "div") and inputs:
            self._join(target, self._only_free_factor(kind, inputs))
        else:
            self._pin(target, *map(self._stream, inputs))
        for output in operation.outputs:
            self._streams[output] = target

    def finish(self, result: Tensor) -> None:
        """The network's result keeps its size."""
        self._pin(self._stream(result))

    def exponents(self, largest: Sequence[float], limit: float) -> dict[int, int]:
        """Stream -> e < 0 for each one that may be scaled and has a value above `limit`; times 2**e none has.

        largest : magnitude of each operation's result.
        """
        found = {}
        for stream, members in self.members().items():
            most = max(largest[index] for index in members)
            if most > limit and not self._is_pinned(stream):
                found[stream] = -math.ceil(math.log2(most / limit))
        return found

    def members(self) -> dict[int, list[int]]:
        """Stream -> indices of the values that are in it."""
        found: dict[int, list[int]] = {}
        for stream, index in enumerate(self._members):
            if index is not None:
                found.setdefault(self._find(stream), []).append(index)
        return found

    @torch.no_grad()
    def rescale(self, exponents: Mapping[int, int]) -> None:
        """Multiply every value of each stream by 2**e, in place, through the layers that write and read it."""
        for layer in self._layers:
            target = exponents.get(self._find(layer.target), 0)
            source = 0 if layer.source is None else exponents.get(self._find(layer.source), 0)
            if layer.norm is not None:
                layer.norm.eps *= 4.0**source
                source = 0
            if layer.weight is not None:
                layer.weight.mul_(2.0 ** (target - source))
            if layer.bias is not None:
                layer.bias.mul_(2.0**target)

    def _layer(self, operation: Operation, target: int) -> _Layer | None:
        """The operation as a layer with constants of its own, if it is one."""
        kind, args, module = operation.kind, operation.args, operation.module
        if kind in ("native_group_norm", "native_layer_norm") and isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            weight: Tensor | None = getattr(module, "weight", None)  # a norm may be without
            if weight is None:
                self._pin(target)
            return _Layer(self._stream(args[0]), target, weight, module.bias, module)
        if kind == "mm":
            args = (args[0], args[1], None)
        elif kind in _PRODUCTS:
            args = tuple(args[i] if i < len(args) else None for i in _PRODUCTS[kind])
        else:
            return None
        weight, bias = operation.constant(args[1]), operation.constant(args[2])
        if weight is None or (bias is None) != (args[2] is None):
            return None
        return _Layer(self._stream(args[0]), target, weight, bias)

    def _add(self, layer: _Layer) -> None:
        for constant in (layer.weight, layer.bias):
            if constant is None:
                continue
            other = self._users.setdefault(id(constant), layer)
            if other is not layer:  # shared by two layers: it cannot follow two factors
                ends = (layer.source, layer.target, other.source, other.target)
                self._pin(*(end for end in ends if end is not None))
        self._layers.append(layer)

    def _only_free_factor(self, kind: str, inputs: Sequence[Tensor]) -> int:
        """Of a product, one factor may be scaled, and the others not: SiLU's or GELU's result cannot be."""
        streams = [self._stream(tensor) for tensor in inputs]
        free = 1 if kind == "mul" and len(streams) > 1 and self._is_pinned(streams[0]) else 0
        self._pin(*(stream for place, stream in enumerate(streams) if place != free))
        return streams[free]

    def _stream(self, tensor: Tensor) -> int:
        """The stream of a value; the network's input and its constants start one of their own."""
        if tensor not in self._streams:
            self._streams[tensor] = stream = self._new(None)
            if (constant := self._constant(tensor)) is not None:
                self._add(_Layer(None, stream, constant, None))
            else:
                self._pin(stream)
        return int(self._streams[tensor])

    def _new(self, member: int | None) -> int:
        self._parents.append(len(self._parents))
        self._members.append(member)
        return len(self._parents) - 1

    def _find(self, stream: int) -> int:
        while self._parents[stream] != stream:
            self._parents[stream] = stream = self._parents[self._parents[stream]]
        return stream

    def _join(self, *streams: int) -> None:
        first, *others = map(self._find, streams)
        for other in others:
            if other in self._pinned:
                self._pinned.add(first)
            self._parents[other] = first

    def _pin(self, *streams: int) -> None:
        self._pinned.update(map(self._find, streams))

    def _is_pinned(self, stream: int) -> bool:
        return self._find(stream) in self._pinned


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """Floating-point tensors among arguments, lists opened."""
    flat = [one for arg in args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]
    return [one for one in flat if isinstance(one, Tensor) and one.is_floating_point()]


def _has_offset(kind: str, args: Sequence[Any]) -> bool:
    """Whether a plain number is added, or padded with."""
    if kind in ("add", "sub"):
        return any(isinstance(arg, (int, float)) and arg != 0 for arg in args[:2])
    return kind == "constant_pad_nd" and len(args) > 2 and args[2] != 0
