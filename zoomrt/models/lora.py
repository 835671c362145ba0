"""Low-rank adapters merged into the weights they adapt, in FP32: W += scale * B @ A, for Linear and conv alike.

Key grammar of PEFT: `<module>.lora_A.<adapter>.weight` (r, ...) and `<module>.lora_B.<adapter>.weight` (out, r, ...).
Each family has its own scale, alpha over rank (OSEDiff 8 / rank, HYPIR 1); there is no default.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zoomrt.errors import CheckpointError
from zoomrt.files import shown

_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?P<adapter>[^.]+)\.weight")


@dataclass(frozen=True)
class Adapter:
    """One module's pair: `down` (r, in) or (r, in, kh, kw), `up` (out, r) or (out, r, 1, 1)."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def delta(self) -> Tensor:
        """up @ down in FP32, (out, in * kh * kw); a conv's lora_A carries the kernel, its lora_B is 1x1."""
        return self.up.float().flatten(1) @ self.down.float().flatten(1)


def adapters_of(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Adapter]:
    """Pair the LoRA tensors by module; every other key is left alone.

    Raises CheckpointError for a half without its partner, two adapters on one module, or ranks that differ.
    """
    halves: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        if match := _KEY.fullmatch(key):
            sides = halves.setdefault(match["module"], {})
            if match["side"] in sides:
                raise _fault(origin, f"two adapters on {match['module']}", "one adapter for each module")
            sides[match["side"]] = (match["adapter"], tensor)
    adapters = {}
    for module, sides in halves.items():
        if set(sides) != {"A", "B"} or sides["A"][0] != sides["B"][0]:
            raise _fault(origin, f"half an adapter on {module}", "lora_A and lora_B of the same adapter")
        down, up = sides["A"][1], sides["B"][1]
        if down.ndim < 2 or up.ndim != down.ndim or up.shape[1] != down.shape[0] or up[0, 0].numel() != 1:
            seen = f"lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)} on {module}"
            raise _fault(origin, seen, "(rank, in, ...) and (out, rank), a 1x1 kernel for a conv")
        adapters[module] = Adapter(down, up)
    return adapters


def check_modules(adapters: Collection[str], wanted: Collection[str], origin: Path) -> None:
    """CheckpointError unless the modules with adapters are those that must have one: others would silently be left
    out."""
    if differing := sorted(set(adapters) ^ set(wanted)):
        seen = f"{len(adapters)} adapters for {len(wanted)} modules (differing: {', '.join(differing[:4])})"
        raise _fault(origin, seen, "one adapter for each module that was trained")


def merge(state: dict[str, Tensor], adapters: Mapping[str, Adapter], scale: float, origin: Path) -> None:
    """Add every adapter to its `<module>.weight` in `state`; the results are FP32, other tensors stay as they are.

    Raises CheckpointError, before anything is changed, if a module is unknown or has another shape.
    """
    for module, adapter in adapters.items():
        base = state.get(f"{module}.weight")
        if base is None:
            raise _fault(origin, f"an adapter for {module}", "modules that the base model has")
        wanted = (adapter.up.shape[0], *adapter.down.shape[1:])
        if tuple(base.shape) != wanted:
            raise _fault(origin, f"an adapter of shape {wanted} for {module} {tuple(base.shape)}", "the base's shapes")
    for module, adapter in adapters.items():
        base = state[f"{module}.weight"].float()
        state[f"{module}.weight"] = base.add(adapter.delta().reshape(base.shape), alpha=scale)


def _fault(origin: Path, seen: str, needed: str) -> CheckpointError:
    return CheckpointError(
        f"the adapters in {shown(origin)} do not fit",
        seen=seen,
        needed=needed,
        remedy="Check that the file is complete, and that --base is the model it was trained on.",
    )
