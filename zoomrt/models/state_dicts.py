"""Where in a checkpoint a network's state dict is: under which wrappers and prefixes, of several the averaged one.

No list of either: a family says which keys its network has, and whatever stands around them is taken off. So
`params_ema`, `state_dict`, `module.`, `generator_ema.`, a Lightning module's attribute and names that nobody has
thought of are one case.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

DEEPEST = 3  # mappings within mappings: Lightning keeps averages under callbacks, their class, ema_state_dict
_AVERAGED = re.compile(r"ema\d*|averaged?|swa")
_WRAPPED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put into the middle of keys."""
_LISTED = 4  # keys named in a message


@dataclass(frozen=True)
class StateDict:
    """values : what stands under each key, wrappers and prefix taken off. where : the wrappers. prefix : of the file's
    keys, with its full stop."""

    values: Mapping[str, Any]
    where: tuple[str, ...] = ()
    prefix: str = ""

    def name_of(self, key: str) -> str:
        """A key as it is in the file, wrappers before it."""
        return "/".join((*self.where, self.prefix + key))

    def only(self, prefix: str) -> StateDict:
        """The keys that begin so, as they are."""
        return replace(self, values={key: value for key, value in self.values.items() if key.startswith(prefix)})

    def under(self, prefix: str) -> StateDict:
        """What stands under a prefix."""
        values = {key.removeprefix(prefix): value for key, value in self.values.items() if key.startswith(prefix)}
        return StateDict(values, self.where, self.prefix + prefix)

    @property
    def averaged(self) -> bool:
        """Whether a name on the way says that these weights are a running average of others."""
        words = re.split(r"[^a-z0-9]+", ".".join((*self.where, self.prefix)).lower())
        return any(_AVERAGED.fullmatch(word) for word in words)


def state_dicts(content: Any) -> Iterator[StateDict]:
    """Every mapping with text as keys, outermost first, each once; prefixes still on."""
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), content)])
    seen: set[int] = set()
    while waiting:
        where, mapping = waiting.popleft()
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        if values := {_WRAPPED.sub("", key): value for key, value in mapping.items() if isinstance(key, str)}:
            yield StateDict(values, where)
        if len(where) < DEEPEST:
            waiting += [((*where, str(getattr(key, "name", key))), value) for key, value in mapping.items()]


def find_state_dict(candidates: Iterable[StateDict], *keys: str) -> StateDict | None:
    """The one of `state_dicts` that has all of `keys`, its prefix taken off; None if there is none.

    Of several an average of the weights comes first, then the outermost, then the one with the shortest prefix.
    """
    found = [state.under(prefix) for state in candidates for prefix in _prefixes(state.values, keys)]
    return min(found, key=lambda state: (not state.averaged, len(state.where), len(state.prefix)), default=None)


def described(candidates: Iterable[StateDict]) -> str:
    """The first keys of the one with the most tensors, for a message."""
    largest = max(candidates, key=_leaves, default=StateDict({}))
    keys = ", ".join(list(largest.values)[:_LISTED])
    return f"keys like {keys or 'none'}" + (f" under {'/'.join(largest.where)}" if largest.where else "")


def _leaves(state: StateDict) -> int:
    """How many values are no mappings themselves."""
    return sum(type(value) is not dict for value in state.values.values())


def _prefixes(values: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """What stands before `keys` in a mapping that has them all, with its full stop; the empty text for nothing."""
    first, *others = keys
    ends = [key.removesuffix(first) for key in values if key == first or key.endswith(f".{first}")]
    return [prefix for prefix in ends if all(prefix + key in values for key in others)]
