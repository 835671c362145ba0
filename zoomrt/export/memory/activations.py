"""How much memory the intermediate values of a network take, found without taking it.

The network runs once on fake tensors (shapes and types, no numbers, no memory) while every live storage is counted.
Fake weights stand in for the real ones, which are neither copied nor touched.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATTENTION = "_scaled_dot_product"


@dataclass(frozen=True)
class Activations:
    """Most bytes held at once during one run; weights do not count.

    live : by tensors: input, result and everything between that is still needed.
    converting : the same where each convolution also holds its input and result in the layout its kernel wants.
    unfused : the same as `live` where each attention writes its scores, before and after the softmax.
    parts : `live` while inside each part of the network, by the name of the part, in the order in which they run.
    """

    live: int
    converting: int
    unfused: int
    parts: dict[str, int]


def activations_of(network: nn.Module, shape: tuple[int, int, int, int]) -> Activations:
    """Run `network` once on a fake float32 input of `shape`.

    network : whatever runs on torch's fake tensors: control flow must not depend on values.
    """
    constants = [*network.named_parameters(), *network.named_buffers()]
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        fakes = {name: torch.empty_like(tensor, device="cpu") for name, tensor in constants}
        with _Ledger(fakes.values()) as ledger, _telling_parts(network, ledger):
            torch.func.functional_call(network, fakes, (torch.empty(shape),))
    return Activations(ledger.live_peak, ledger.converting_peak, ledger.unfused_peak, ledger.parts)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts each storage from the operation that made it until it is freed; those of `weights` never."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part = ""
        self.live = self.live_peak = self.converting_peak = self.unfused_peak = 0
        self.parts: dict[str, int] = {}
        self._weights = list(weights)
        self._known: dict[int, Any] = {_key(tensor): None for tensor in self._weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._enter(tensor)
        kind = func.overloadpacket.__name__
        converted = args[0].nbytes + made[0].nbytes if kind == "convolution" else 0
        scores = 2 * _score_bytes(*args[:2]) if kind.startswith(_ATTENTION) else 0
        self.live_peak = max(self.live_peak, self.live)
        self.converting_peak = max(self.converting_peak, self.live + converted)
        self.unfused_peak = max(self.unfused_peak, self.live + scores)
        if self.part:
            self.parts[self.part] = max(self.parts.get(self.part, 0), self.live)
        return result

    def _enter(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in self._known:
            size = storage.nbytes()
            self.live += size
            self._known[key] = weakref.ref(storage, lambda _: self._leave(key, size))

    def _leave(self, key: int, size: int) -> None:
        self.live -= size
        del self._known[key]


@contextlib.contextmanager
def _telling_parts(network: nn.Module, ledger: _Ledger) -> Iterator[None]:
    """Tell the ledger which child of the network runs, also where the network calls a grandchild itself."""
    handles = []
    for path, module in network.named_modules():
        if path:
            part, _, deeper = path.partition(".")
            after = part if deeper else ""
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: setattr(ledger, "part", part)))
            handles.append(module.register_forward_hook(lambda *_, part=after: setattr(ledger, "part", part)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _key(tensor: Tensor) -> int:
    """Of the storage; views of one tensor share it. Free for another storage once this one is gone."""
    return int(tensor.untyped_storage()._cdata)


def _score_bytes(query: Tensor, key: Tensor) -> int:
    """Of one score per query and key: (..., queries, size) and (..., keys, size)."""
    return query.numel() // query.shape[-1] * key.shape[-2] * query.element_size()
