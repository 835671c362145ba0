"""The family record: all that one model lineage is, as plain data in one file of `families/`; nothing else lists it.

A record says how a checkpoint is recognised (by its keys, never by file name), which options the family has of its own,
and which module builds the network, from an LR tile to an SR tile. That module, and torch with it, is imported only
for that; lists, help, checks and the cache key need the record alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from zoomrt.bundle import NO_COLOUR_STEP, ColourFacts, NoiseFacts
from zoomrt.errors import UsageError
from zoomrt.models.layout import Layout
from zoomrt.models.options import Option, Values
from zoomrt.models.published.records import Published

if TYPE_CHECKING:
    from torch import nn

    from zoomrt.models.checkpoint import Checkpoint


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
class Variant:
    """One row of `trt-build --list`; tests/models/test_catalogue.py holds every figure against the network.

    parameters : of encoder, network and decoder together, as far as they run.
    gmac : billions of multiply-adds for a 512 x 512 output (x3: 513, SwinIR 528) in as few tiles as its tile
        allows, all steps taken.
    steps : network evaluations per tile. status : whether weights exist, and where.
    """

    name: str
    scale: int
    parameters: int
    gmac: float
    licence: str
    steps: int = 1
    status: str = "published weights"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model lineage.

    name : as typed after `--model`; its file in `families/` has the same name with underscores.
    module : dotted name of what builds it, with a function `network(family, checkpoint, **options)` -> the network in
        FP32 and eval mode, (N, 3, h, w) in `value_range` -> (N, 3, scale*h, scale*w), not clamped; and, where facts
        depend on the checkpoint, `fitted(family, checkpoint)` -> the record with those put right.
    layout : of the file after `--weights`.
    variants : the published networks; the first is what the record's own facts are of.
    scale : output pixels per input pixel, each axis.
    value_range : black and white of the network's input and output.
    steps : network evaluations per tile.
    colour : the colour step of the whole picture, as the authors do it; none if left out.
    weights_licence : one line; it travels in the manifest.
    published : the files behind the weights and the options; of several for one the first that fits is fetched.
    embedded_weights : file shipped inside the package, used when no --weights are given; None if there is none.
    options : besides those of every build; their values are arguments of `network`, by `Option.key`.
    noise : start noise, further channels of the network's input; None for a network without.
    parity_loss_db : by how much a graph's parity may fall below the common minimum, where a network chooses among
        discrete codes: rounding then changes a choice here and there, and with it a whole patch
        (`discrete_choices.py`).
    warnings : what a user must know about every bundle of this family; they travel in the manifest.
    """

    name: str
    module: str
    layout: Layout
    variants: tuple[Variant, ...]
    scale: int = 4
    size: SizeRule
    value_range: tuple[float, float]
    steps: int = 1
    tiling: TilingAdvice
    weights_licence: str
    published: tuple[Published, ...] = ()
    colour: ColourFacts = NO_COLOUR_STEP
    embedded_weights: Path | None = None
    options: tuple[Option, ...] = ()
    noise: NoiseFacts | None = None
    parity_loss_db: float = 0.0
    warnings: tuple[str, ...] = ()

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Whether these keys are this family's; no false negatives, rarely a false positive."""
        return self.layout.fits(checkpoint)

    def fitted(self, checkpoint: Checkpoint) -> Family:
        """The record with what depends on the checkpoint put right: a family may have several scales.

        Raises CheckpointError if the checkpoint is not this family's.
        """
        fit = getattr(import_module(self.module), "fitted", None)
        family: Family = self if fit is None else fit(self, checkpoint)
        return family

    def network(self, checkpoint: Checkpoint, options: Values | None = None) -> nn.Module:
        """The network in FP32 and eval mode, see `module`. options : of this family.

        Raises CheckpointError that lists missing, unexpected and misshapen keys, and as `check`.
        """
        given = options or {}
        self.check(given)
        network: nn.Module = import_module(self.module).network(self, checkpoint, **given)
        return network

    def check(self, values: Values) -> None:
        """UsageError for options that exclude each other, that are missing, or that have values they do not take;
        CheckpointError for a path where nothing is. Whether they are this family's is checked in `families.check`."""
        for option in self.options:
            if option.key in values:
                if option.excludes.replace("-", "_") in values:
                    seen = f"{option.flag} and --{option.excludes}"
                    remedy = "Leave one of them out."
                    raise UsageError("two options exclude each other", seen=seen, needed="one of them", remedy=remedy)
                option.check(values[option.key])
            elif option.required:
                raise self.lacks(option.key, option.required)

    def lacks(self, key: str, holds: str) -> UsageError:
        """For an option that was not given and has to be. holds : what it is, in words."""
        flag = next(option.flag for option in self.options if option.key == key)
        return UsageError(
            f"model {self.name} needs {flag}",
            seen="nothing",
            needed=holds,
            remedy=f"Pass {flag} PATH; docs/models/{self.name}.md says where it is published.",
        )
