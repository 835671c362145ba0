"""What a file must hold to be of a model: the keys that tell it, how they become its network's, what is said if not.

Widths, counts and scale are read off the shapes of its tensors with `sides` and `children`, inside `Layout.reading`.
Needs no torch: layouts stand in the families' records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from zoomrt.errors import CheckpointError
from zoomrt.files import shown
from zoomrt.models.state_dicts import StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from zoomrt.models.checkpoint import Checkpoint


class UnknownVariant(ValueError):
    """A network of the right kind in a variant that is not supported. seen, needed : as in a ZoomrtError."""

    def __init__(self, seen: str, needed: str) -> None:
        super().__init__(seen)
        self.seen, self.needed = seen, needed


@dataclass(frozen=True)
class Naming:
    """One way in which files call a network's tensors.

    keys : what tells it; no other model's files have all of them, whatever stands before them.
    renamed : dotted name of a function from a state dict with these names to one with the network's own; empty where
        they are that.
    without : a key that files of something else have besides.
    """

    keys: tuple[str, ...]
    renamed: str = ""
    without: str = ""

    def find(self, checkpoint: Checkpoint) -> StateDict | None:
        """The state dict with these names; None if there is none."""
        state = checkpoint.find(*self.keys)
        return None if state is None or self.without in state.values else state

    def own(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors with these names under the network's own."""
        if not self.renamed:
            return tensors
        module, _, function = self.renamed.rpartition(".")
        renamed: dict[str, Tensor] = getattr(import_module(module), function)(tensors)
        return renamed


@dataclass(frozen=True)
class Layout:
    """The files of one network.

    model : its name in messages. published : where its files are, as an instruction.
    rebuilt : endings of the keys of buffers that are made anew for the tile, whatever a file holds.
    """

    model: str
    namings: tuple[Naming, ...]
    published: str
    rebuilt: tuple[str, ...] = ()

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether the keys are this network's; no false negatives, rarely a false positive."""
        return any(naming.find(checkpoint) for naming in self.namings)

    def tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """The network's tensors under its own names. Raises CheckpointError."""
        for naming in self.namings:
            if state := naming.find(checkpoint):
                tensors = checkpoint.tensors(state, self.rebuilt)
                with self.reading(checkpoint):
                    return naming.own(tensors)
        raise self.misfit(checkpoint)

    def misfit(self, checkpoint: Checkpoint, seen: str = "") -> CheckpointError:
        """For a file of something else. seen : its keys if left out."""
        return CheckpointError(
            f"weights {shown(checkpoint.path)} are not a checkpoint of {self.model}",
            seen=seen or checkpoint.described,
            needed="keys like " + ", ".join(self.namings[0].keys),
            remedy=self.published,
        )

    @contextmanager
    def reading(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Around reading sizes off the shapes: what a foreign file raises there becomes a CheckpointError."""
        try:
            yield
        except UnknownVariant as cause:
            raise CheckpointError(
                f"weights {shown(checkpoint.path)} are of {self.model} in a variant that is not supported",
                seen=cause.seen,
                needed=cause.needed,
                remedy=self.published,
            ) from cause
        except KeyError as cause:
            raise self.misfit(checkpoint, f"no {cause.args[0]} among {checkpoint.described}") from cause
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as cause:
            raise self.misfit(checkpoint, f"{cause} among {checkpoint.described}") from cause


def sides(tensors: Mapping[str, Tensor], key: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that must have `rank` sides, none of them zero. KeyError or ValueError if it has not."""
    shape = tuple(tensors[key].shape)
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{key} of shape {shape}")
    return shape


def children(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered parts stand under a prefix, such as "body."; at most as many as there are tensors."""
    return len({key[len(prefix) :].partition(".")[0] for key in tensors if key.startswith(prefix)})
