"""The family contract: what one model lineage declares, and how its checkpoint becomes one network.

A family is one file in `families/` that ends in `FAMILY = MyFamily()`. It states its facts, recognises a
checkpoint by its keys (never by file name) and builds a network that maps an LR tile to an SR tile.
Everything else (graph, parity, precision, engine, tiles) is common to all families.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from zoomrt.bundle import NO_COLOUR_STEP, ColourFacts, NoiseFacts
from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.layout import Layout
from zoomrt.models.sources import NO_SOURCES, Sources

__all__ = ["Family", "FamilyFacts", "SizeRule", "TilingAdvice"]


@dataclass(frozen=True)
class SizeRule:
    """Which LR tile sides the network takes: at least `minimum` and a multiple of `multiple_of`; where `fixed`,
    `minimum` only."""

    minimum: int
    multiple_of: int
    fixed: bool = False

    def check(self, tile: int) -> None:
        """UsageError with the nearest legal sides if `tile` is not one."""
        if tile == self.minimum or (not self.fixed and tile >= self.minimum and tile % self.multiple_of == 0):
            return
        if self.fixed:
            needed, remedy = f"{self.minimum}, as it was trained", "Leave --tile out."
            raise UsageError(
                "the tile does not fit the network", seen=f"{tile} LR pixels", needed=needed, remedy=remedy
            )
        below = max(self.minimum, tile // self.multiple_of * self.multiple_of)
        below += -below % self.multiple_of
        raise UsageError(
            "the tile does not fit the network",
            seen=f"{tile} LR pixels",
            needed=f"at least {self.minimum} and a multiple of {self.multiple_of}",
            remedy=f"Use --tile {below} or --tile {below + self.multiple_of}.",
        )

    def largest_within(self, limit: int) -> int:
        """The largest legal side up to `limit`; the smallest one if none is."""
        smallest = self.minimum + -self.minimum % self.multiple_of
        return max(smallest, limit // self.multiple_of * self.multiple_of)


@dataclass(frozen=True)
class TilingAdvice:
    """Defaults for cutting a frame, in LR pixels: tile side, overlap of neighbours, and the context thrown away."""

    tile: int
    overlap: int
    context: int


@dataclass(frozen=True)
class FamilyFacts:
    """What a user or the runtime may need to know about a family without building it.

    name : as typed after `--model`; the file in `families/` has the same name with underscores.
    scale : output pixels per input pixel, each axis; of the most common variant where checkpoints differ.
    value_range : black and white of the network's input and output.
    steps : network evaluations per tile.
    colour : the colour step of the whole picture, as the authors do it; none if left out.
    weights_licence : one line; it travels in the manifest.
    embedded_weights : file shipped inside the package, used when no --weights are given; None if there is none.
    takes : the fields of `sources.Sources` that the family reads; any other is refused.
    noise : start noise, further channels of the network's input; None for a network without.
    parity_loss_db : by how much a graph's parity may fall below the common minimum, where a network chooses among
        discrete codes: rounding then changes a choice here and there, and with it a whole patch (`choices.py`).
    warnings : what a user must know about every bundle of this family; they travel in the manifest.
    """

    name: str
    scale: int
    size: SizeRule
    value_range: tuple[float, float]
    steps: int
    tiling: TilingAdvice
    weights_licence: str
    colour: ColourFacts = NO_COLOUR_STEP
    embedded_weights: Path | None = None
    takes: tuple[str, ...] = ()
    noise: NoiseFacts | None = None
    parity_loss_db: float = 0.0
    warnings: tuple[str, ...] = ()


class Family(ABC):
    """One model lineage. `layout` : of the file after `--weights`."""

    facts: ClassVar[FamilyFacts]
    layout: ClassVar[Layout]

    def facts_of(self, checkpoint: Checkpoint) -> FamilyFacts:  # noqa: ARG002
        """`facts`, with what depends on the checkpoint put right: a family may have several scales.

        Raises CheckpointError if the checkpoint is not this family's.
        """
        return self.facts

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Whether these keys are this family's; no false negatives, rarely a false positive."""
        return self.layout.fits(checkpoint)

    @abstractmethod
    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> nn.Module:
        """The network in FP32 and eval mode: (N, 3, h, w) in `value_range` -> (N, 3, scale*h, scale*w), not clamped.

        A network with start noise takes it as further channels, see `facts.noise`.

        sources : already checked against `facts.takes`.

        Raises CheckpointError that lists missing, unexpected and misshapen keys, UsageError for a missing source.
        """
