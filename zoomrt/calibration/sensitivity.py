"""What quantising each block costs in picture quality, and the largest set of blocks that keeps a quality gate.

Each block is quantised alone, everything else exact, and its pictures are compared with the exact network's. Blocks are
then ranked by squared error for each multiply-add, and the longest run from the harmless end that still passes the gate
is searched for, each trial on the network with that whole set quantised. Squared errors add up only roughly, and may
come from crops of the tiles (`Search.on`): they say where to try first. The gate is always measured.

All measurements are kept in one file as they are made, so that an interrupted search goes on where it stopped.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from zoomrt.calibration.calibrate import Ranges, network_digest
from zoomrt.calibration.data import Tiles
from zoomrt.calibration.fake_quant import Format
from zoomrt.calibration.layers import with_layers
from zoomrt.calibration.placement import Placement
from zoomrt.calibration.quantise import quantised_layers, tile_psnrs
from zoomrt.errors import PrecisionError
from zoomrt.files import read_cached, write_cached
from zoomrt.runtime.tiles.psnr import added_up

Progress = Callable[[str, float], None]


MODEL_TRIALS = 4
"""Sets that are chosen by adding up squared errors, corrected by the last trial; after these the middle is tried."""
WORTH_A_TRIAL = 0.01
"""Share of the multiply-adds; a search that can gain no more than this is over."""


class Damage(msgspec.Struct, frozen=True):
    """Quality with these blocks quantised and all else exact, PSNR to the exact network in decibels.

    share : of the network's multiply-adds that these blocks do. mean_db, worst_db : over tiles.
    """

    blocks: tuple[str, ...]
    share: float
    mean_db: float
    worst_db: float


def blocks_of(placement: Placement) -> dict[str, tuple[str, ...]]:
    """The quantised layers by block: the name up to its second number, as in `down_blocks.0.resnets.1`."""
    blocks: dict[str, list[str]] = {}
    for name in placement.quantised:
        parts = name.split(".")
        numbers = [index for index, part in enumerate(parts) if part.isdigit()][:2]
        blocks.setdefault(".".join(parts[: numbers[-1] + 1]) if numbers else name, []).append(name)
    return {block: tuple(layers) for block, layers in blocks.items()}


class Search:
    """Measures sets of blocks of one network, and remembers.

    network : FP32, eval. ranges, placement, form : as for `quantise`. tiles : at best not those of the calibration.
    `wanted` is what the network makes of each tile, `measured` every set that was tried.
    context : as for `observe`. folder : where measurements are kept and found again; None keeps nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        ranges: Ranges,
        placement: Placement,
        form: Format,
        tiles: Tiles,
        *,
        context: str = "",
        folder: Path | None = None,
    ) -> None:
        self.network, self.placement = network, placement
        self.blocks = blocks_of(placement)
        self.tiles: Tiles
        self.measured: dict[tuple[str, ...], Damage]
        self.wanted: list[Tensor]
        self._twins = quantised_layers(network, ranges, placement, form)
        self._facts = (network_digest(network), context, ranges.amax, placement.backend, placement.quantised, form.name)
        self._folder = folder
        self._use(tiles)

    def on(self, tiles: Tiles) -> Search:
        """The same search on other tiles, with measurements of its own and the same quantised layers."""
        other = copy.copy(self)
        other._use(tiles)
        return other

    def _use(self, tiles: Tiles) -> None:
        self.tiles, self.measured = tiles, {}
        with torch.no_grad():
            self.wanted = [self.network(tile) for tile in tiles]
        facts = msgspec.json.encode((*self._facts, tiles.digest), order="deterministic")
        key = hashlib.sha256(facts).hexdigest()
        self._file = None if self._folder is None else self._folder / f"{key}.json"
        self._recall()

    def damage(self, blocks: Iterable[str]) -> Damage:
        """Of quantising these blocks together."""
        chosen = tuple(sorted(blocks))
        if chosen not in self.measured:
            names = [name for block in chosen for name in self.blocks[block]]
            trial = with_layers(self.network, {name: self._twins[name] for name in names})
            low, high = self.tiles.value_range
            decibels = tile_psnrs(trial, self.tiles, self.wanted, high - low)
            mean = sum(decibels) / len(decibels)
            self.measured[chosen] = Damage(chosen, self._share(chosen), mean, min(decibels))
            self._remember()
        return self.measured[chosen]

    def rank(self, *, seconds: float = float("inf"), on_progress: Progress | None = None) -> list[Damage]:
        """Each block alone, the least squared error for each multiply-add first.

        seconds : blocks are measured by falling multiply-adds until these are over; the others are left out.
        on_progress : called with ("sensitivity", share of blocks done).
        """
        end = time.monotonic() + seconds
        work = {
            block: sum(self.placement.multiply_adds[name] for name in names) for block, names in self.blocks.items()
        }
        found = []
        for done, block in enumerate(sorted(work, key=lambda block: -work[block]), 1):
            if (block,) not in self.measured and time.monotonic() >= end:
                continue
            found.append(self.damage([block]))
            if on_progress is not None:
                on_progress("sensitivity", done / len(work))
        return sorted(found, key=lambda damage: 10 ** (-damage.mean_db / 10) / damage.share)

    def largest(self, ranking: list[Damage], min_psnr_db: float) -> tuple[Placement, Damage]:
        """The most of `ranking`, from its start, whose worst tile still has `min_psnr_db`; with what that costs.

        Layers left out get their reason in the placement's `kept`. Raises PrecisionError, with the best that was
        reached and the block to blame, if not even the first passes.
        """
        order = [damage.blocks[0] for damage in ranking]
        expected = added_up(one.worst_db for one in ranking)
        passing, failing, off, tried = 0, len(order) + 1, 0.0, 0
        while failing - passing > 1 and (not passing or self._share(order[passing : failing - 1]) >= WORTH_A_TRIAL):
            fitting = sum(decibels + off >= min_psnr_db for decibels in expected)
            guess = fitting if tried < MODEL_TRIALS else (passing + failing) // 2
            trial = min(max(guess, passing + 1), failing - 1)
            found = self.damage(order[:trial]).worst_db
            passing, failing = (trial, failing) if found >= min_psnr_db else (passing, trial)
            off, tried = found - expected[trial - 1], tried + 1
        if not passing:
            best = self.damage(order[:1]) if order else None
            raise PrecisionError(
                "no part of the network can be quantised at this quality",
                seen=f"{best.worst_db:.1f} dB with {order[0]} alone, the least harmful"
                if best
                else "no block measured",
                needed=f"{min_psnr_db:.1f} dB on every tile",
                remedy="Lower --min-psnr, calibrate with more pictures, or build with --precision fp16.",
            )
        chosen = order[:passing]
        if failing <= len(order):
            less = self._without_one(ranking[:failing], min_psnr_db)
            if less and self.damage(less).worst_db >= min_psnr_db and self.damage(less).share > self._share(chosen):
                chosen = less
        return self._placement(ranking, set(chosen), min_psnr_db), self.damage(chosen)

    def _without_one(self, ranking: list[Damage], min_psnr_db: float) -> list[str]:
        """Blocks that fail together, less the smallest one whose own error is what they have too much; none if none."""
        total = _error(self.damage(one.blocks[0] for one in ranking))
        added = sum(_error(one) for one in ranking)
        enough = [one for one in ranking if total * (1 - _error(one) / added) <= 10 ** (-min_psnr_db / 10)]
        if not enough:
            return []
        least = min(enough, key=lambda one: one.share)
        return [one.blocks[0] for one in ranking if one is not least]

    def _share(self, blocks: Iterable[str]) -> float:
        names = tuple(name for block in blocks for name in self.blocks[block])
        return replace(self.placement, quantised=names).share

    def _placement(self, ranking: list[Damage], chosen: set[str], min_psnr_db: float) -> Placement:
        alone = {damage.blocks[0]: damage.worst_db for damage in ranking}
        kept = dict(self.placement.kept)
        for block, names in self.blocks.items():
            why = f"{alone[block]:.1f} dB alone, too much together" if block in alone else "not measured in time"
            if block not in chosen:
                kept.update(dict.fromkeys(names, f"{why} (gate {min_psnr_db:.1f} dB)"))
        quantised = tuple(name for name in self.placement.quantised if name not in kept)
        return replace(self.placement, quantised=quantised, kept=kept)

    def _recall(self) -> None:
        try:
            kept = msgspec.json.decode(read_cached(self._file) or b"", type=list[Damage])
        except ValueError:
            return  # nothing there, or damaged: measured again
        self.measured = {damage.blocks: damage for damage in kept}

    def _remember(self) -> None:
        if self._file is not None:
            write_cached(self._file, msgspec.json.encode(list(self.measured.values())))


def _error(damage: Damage) -> float:
    """Squared, mean over the worst tile, for a peak of 1."""
    return float(10 ** (-damage.worst_db / 10))
