"""The layers of a network that can be quantised: found by running it once, replaced in a copy or in place."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A Conv2d or Linear as it ran.

    name : dotted, as in `named_modules`. multiply_adds : of all its calls for one tile; biases not counted.
    input_axes : dimensions of its input; 2 means one vector, as of a timestep, not a picture or tokens.
    """

    name: str
    multiply_adds: int
    input_axes: int


def layers_of(network: nn.Module, tile: Tensor) -> list[Layer]:
    """Every Conv2d and Linear that `network(tile)` runs, in the order of their first calls."""
    found: dict[str, Layer] = {}

    def note(name: str, module: nn.Module, values: Tensor, result: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        before = found[name].multiply_adds if name in found else 0
        found[name] = Layer(name, before + result.numel() * module.weight[0].numel(), values.ndim)

    with watching(network, note), torch.no_grad():
        network(tile)
    return list(found.values())


@contextmanager
def watching(network: nn.Module, note: Callable[[str, nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Within, `note(name, module, input, output)` is called after every call of a Conv2d or Linear."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, result: note(name, module, inputs[0], result)

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_layers(network: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A network with other modules in the named places; every other weight is shared with the original, not copied."""
    shared = {id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())}
    twins = {id(network.get_submodule(name)): twin for name, twin in replacements.items()}
    return copy.deepcopy(network, {**shared, **twins})


def replace_layers(network: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Put other modules into the named places, and wherever else the same module stands; the old ones are let go."""
    twins = {id(network.get_submodule(name)): twin for name, twin in replacements.items()}
    places = [
        (parent, name, twins[id(child)])
        for parent in network.modules()
        for name, child in parent._modules.items()
        if id(child) in twins
    ]
    for parent, name, twin in places:
        setattr(parent, name, twin)
