"""8-bit layers for a build: tiles, ranges, placement, the quality gate, and what the engine gains by them.

    pictures -> tiles -> channels balanced where that is exact -> ranges of every layer's input
             -> what the backend wants quantised -> the quality of all of it on other tiles
             -> if that is too low, the largest part that is good enough

The gate is the PSNR to the FP32 network on those other tiles, the worst one included. Two runs of one 8-bit network
differ almost as much as either from FP32, so nothing is compared with another 8-bit run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoomrt.bundle import TileFacts
from zoomrt.bundle.records import (
    CalibrationRecord,
    EngineCost,
    EngineReport,
    MeasuredBlocks,
    Parity,
    Quality,
    Ranking,
    TileSet,
)
from zoomrt.calibration.calibrate import observe, ranges_of
from zoomrt.calibration.data import Tiles, pictures_of, tiles_from_pictures
from zoomrt.calibration.equalise import equalise
from zoomrt.calibration.fake_quant import FORMATS
from zoomrt.calibration.layers import layers_of, replace_layers
from zoomrt.calibration.options import DEFAULT_METHODS, Calibration
from zoomrt.calibration.placement import Placement, placement_of
from zoomrt.calibration.quantise import quantised_layers
from zoomrt.calibration.sensitivity import Damage, Search
from zoomrt.errors import PrecisionError
from zoomrt.export import cache
from zoomrt.export.fp16.emulation import run_with_fp16_storage
from zoomrt.export.precisions import Precision
from zoomrt.export.request import Progress
from zoomrt.export.verify.parity import Reference, compare
from zoomrt.export.verify.sample_tiles import PHOTOGRAPH
from zoomrt.models.half import kept_fp32
from zoomrt.runtime.backends import BACKENDS

SEEDS = {"calibration": 1, "held_out": 2}
"""Of the crops. The same for all requests, so that another request finds the measurements of this one."""
RERUN_DB = 1.0
"""The search asks for so much more than the gate: another runner, or FP16 around the 8-bit layers, gives that much
more or less error (test_whole_chain.py sees up to 1.5 dB between torch and ONNX Runtime far above any gate)."""
WIRING_DB = 3.0
"""A graph that is more than 1.4 times as far from FP32 as the network it was written from is another network."""


BALANCED_SIDE = 64
"""LR pixels of the crops that show which channels are strong; ranges are then taken from whole tiles."""
SMALLEST_RANKING_SIDE = 32
SECONDS_TO_KNOW = 30.0
"""For measuring blocks where all of them pass together: nothing depends on it, but people want to see it."""
MULTIPLY_ADDS_PER_SECOND = 4e10
"""Of torch with rounded layers on two cores, for a guess that is the same on every machine. The quality stage of
true_size_osediff_int8_sm89.json did 4 tiles of 2.1e12 in 238 s, on a loaded machine."""


@dataclass(frozen=True)
class Quantised:
    """What became of a network, and the tiles that judged it.

    wanted : the FP32 network's result for each held-out tile.
    multiply_adds : of every layer, for one tile.
    """

    held_out: Tiles
    wanted: list[Tensor]
    record: CalibrationRecord
    multiply_adds: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def reference(self, batch: int, quality: Quality, *, half: bool) -> Reference:
        """For a graph's parity: held-out tiles, as many as the batch takes, over again where there are fewer.

        quality : of the network as it is now.
        """
        tiles = list(self.held_out)
        some = [index % len(tiles) for index in range(batch)]
        lr = np.concatenate([tiles[index].numpy() for index in some])
        if half:
            lr = lr.astype(np.float16).astype(np.float32)
        sr = np.concatenate([self.wanted[index].numpy() for index in some])
        needed = max(quality.worst - WIRING_DB, self.record.min_psnr_db or 0.0)
        return Reference(lr, sr, self.held_out.value_range, "held-out tiles", round(needed, 2))


def quantise_network(
    network: nn.Module,
    tile: TileFacts,
    choice: Calibration,
    *,
    precision: Precision,
    backend: str,
    report: Progress,
    folder: Path | None = None,
    code: str = "",
    crop: Callable[[int], int] = int,
) -> Quantised:
    """Replace layers of an FP32 network by their 8-bit twins, in place, as many as the gate allows.

    precision : with layers in 8 bits. Modules marked by `half.keep_fp32` are left alone.
    folder : where measurements are kept and found again; None keeps nothing.
    code : what stands for code of the network that is not this package's: measurements under another are not found.
    crop : the largest side up to the given one that the network takes, LR pixels.

    Raises InputError for pictures that cannot be used, RuntimeFault for a network that is not finite, PrecisionError
    if nothing can be quantised at that quality, StorageError.
    """
    assert precision.eight_bit is not None
    form, everything = FORMATS[precision.eight_bit], not precision.gated
    context = f"{cache.source_digest()} {code} torch {torch.__version__}"
    tiles, held_out = (_tiles(choice, tile, name) for name in SEEDS)
    balanced = 0 if everything else _balance(network, tiles.cropped(crop(min(tile.height, BALANCED_SIDE))), backend)
    statistics = observe(network, tiles, context=context, folder=folder, on_progress=report)
    ranges = ranges_of(statistics, choice.method or DEFAULT_METHODS[form.name])
    placement = _without_fp32(
        network, placement_of(network, layers_of(network, next(iter(tiles))), backend, everything=everything)
    )
    report("quality", 0.0)
    search = Search(network, ranges, placement, form, held_out, context=context, folder=folder)
    floor = None if everything else float(choice.min_psnr_db)
    placement, damage, ranking = _largest(search, floor, choice.search_minutes * 60, crop, report)
    replace_layers(network, quantised_layers(network, ranges, placement, form))
    record = CalibrationRecord(
        format=form.name,
        method=ranges.method,
        tiles=_described(tiles),
        held_out=_described(held_out),
        share=round(placement.share, 4),
        min_psnr_db=floor,
        seams_balanced=balanced,
        quantised={name: float(f"{ranges.amax[name]:.6g}") for name in placement.quantised},
        kept=placement.kept,
        measured=tuple(_measured(one) for one in search.measured.values()),
        ranking=ranking,
        psnr_db=_quality(damage.mean_db, damage.worst_db),
    )
    warnings = tuple(_warnings(record, tiles, held_out, own=choice.pictures is not None))
    return Quantised(held_out, search.wanted, record, placement.multiply_adds, warnings)


def _warnings(record: CalibrationRecord, tiles: Tiles, held_out: Tiles, *, own: bool) -> Iterator[str]:
    """own : whether the pictures are the user's."""
    if not own:
        yield "calibrated on one photograph: --calibration takes a folder of your own pictures"
    elif len({*tiles.sources, *held_out.sources}) == 1:
        yield "calibrated and judged on a single picture: put more of them into the folder"
    if record.min_psnr_db is None:
        worst = record.psnr_db.worst
        yield f"int8-all has no quality gate: {worst:.1f} dB on the worst of {len(held_out)} held-out tiles"
    if skipped := {**tiles.skipped, **held_out.skipped}:
        named = "; ".join(f"{Path(name).name}: {why}" for name, why in list(skipped.items())[:3])
        yield f"{len(skipped)} calibration pictures were skipped ({named})"


def prove_fp16_storage(
    network: nn.Module, quantised: Quantised, extremes: Mapping[str, NDArray[np.float32]]
) -> tuple[tuple[Parity, ...], Quality]:
    """Run the network, now FP16 around its 8-bit layers, under FP16 storage emulation: held-out tiles, their quality.

    Every held-out tile must keep the gate; a tile of `extremes` needs to be finite only, since flat and noisy tiles say
    nothing about pictures.

    Raises PrecisionError.
    """
    for name, extreme in extremes.items():
        if not run_with_fp16_storage(network, torch.from_numpy(extreme)).isfinite().all():
            raise _too_far(f"is not finite on the {name} tile", "an overflow in FP16", "finite values")
    low, high = quantised.held_out.value_range
    needed = quantised.record.min_psnr_db or 0.0
    results = []
    for index, (tile, wanted) in enumerate(zip(quantised.held_out, quantised.wanted, strict=True)):
        got = run_with_fp16_storage(network, tile).numpy()
        probe = f"held-out tile {index}"
        results.append(compare(wanted.numpy(), got, probe, "fp16 storage emulation", high - low, needed))
    decibels = [result.psnr_db for result in results]
    quality = _quality(sum(decibels) / len(decibels), min(decibels))
    if quality.worst < needed:
        seen = f"{quality.worst:.1f} dB on the worst held-out tile, {quality.mean:.1f} dB on average"
        raise _too_far("is too far from FP32 under FP16 storage emulation", seen, f"{needed:.1f} dB on every tile")
    return tuple(results), quality


def cost_against_fp16(report: EngineReport, fp16: EngineReport) -> tuple[EngineCost, str | None]:
    """Figures of an engine with 8-bit layers beside those of the same graph in FP16, and a warning if one of them rose.

    Both reports must have been read back from their engines.
    """
    names = ("kernels", "static_bytes", "engine_bytes")
    figures = EngineCost(
        **{name: {"fp16": getattr(fp16, name), report.precision: getattr(report, name)} for name in names}
    )
    before, after = (fp16.kernels or 0, fp16.static_bytes or 0), (report.kernels or 0, report.static_bytes or 0)
    rose = [name for name, old, new in zip(("kernels", "bytes per run"), before, after, strict=True) if new >= old]
    if not rose:
        return figures, None
    kinds = {*report.kernels_by_kind, *fp16.kernels_by_kind}
    gained = {kind: report.kernels_by_kind.get(kind, 0) - fp16.kernels_by_kind.get(kind, 0) for kind in sorted(kinds)}
    why = ", ".join(f"{count:+d} {kind}" for kind, count in gained.items() if count)
    return figures, (
        f"{report.precision} may not pay here, {' and '.join(rose)} did not fall against FP16: kernels {before[0]} -> "
        f"{after[0]} ({why or 'the same kinds'}), {before[1] / 1e6:.1f} -> {after[1] / 1e6:.1f} MB per run"
    )


def _tiles(choice: Calibration, tile: TileFacts, name: str) -> Tiles:
    count = choice.tiles if name == "calibration" else max(2, choice.tiles // 4)
    return tiles_from_pictures(
        pictures_of(choice.pictures) if choice.pictures is not None else [PHOTOGRAPH],
        count=count,
        height=tile.height,
        width=tile.width,
        value_range=tile.value_range,
        seed=SEEDS[name],
        high_resolution=choice.high_resolution,
        noise=tile.noise,
    )


def _without_fp32(network: nn.Module, placement: Placement) -> Placement:
    """Nothing is quantised inside modules that must stay in FP32."""
    wide = [f"{path}." for path in kept_fp32(network)]
    inside = [name for name in placement.quantised if any(f"{name}.".startswith(path) for path in wide)]
    kept = {**placement.kept, **dict.fromkeys(inside, "values too near the end of FP16: stays in FP32")}
    quantised = tuple(name for name in placement.quantised if name not in kept)
    return Placement(placement.backend, quantised, kept, placement.multiply_adds)


def _balance(network: nn.Module, crops: Tiles, backend: str) -> int:
    """Equalise what can be equalised exactly; how many seams that were. Channels are told apart by a few crops."""
    tile = next(iter(crops))
    per_channel = BACKENDS.named(backend).weight_scales == "channel"
    try:
        return equalise(network, observe(network, crops), tile, per_channel=per_channel)
    except PrecisionError:  # its names mean other things there: it stays as it was
        return 0


def _largest(
    search: Search, floor: float | None, seconds: float, crop: Callable[[int], int], report: Progress
) -> tuple[Placement, Damage, Ranking]:
    """Everything if that is good enough, else the largest part that the search finds."""
    if not search.blocks:
        raise PrecisionError(
            "this network has no layer to quantise",
            seen="no convolution or linear layer but those that are kept",
            needed="at least one",
            remedy="Build with --precision fp16.",
        )
    whole = search.damage(search.blocks)
    height = search.tiles.pixels.shape[1]
    enough = floor is None or whole.worst_db >= floor + RERUN_DB
    if enough:
        side, seconds = crop(min(height, SMALLEST_RANKING_SIDE)), min(seconds, SECONDS_TO_KNOW)
    else:
        side = _ranking_side(search, seconds, crop)
    ranking = search.on(search.tiles.cropped(side)) if side < height else search
    ranked = ranking.rank(seconds=seconds, on_progress=report)
    found = Ranking(side, {one.blocks[0]: _measured(one) for one in ranked})
    if floor is None or enough:
        return search.placement, whole, found
    report("search", 0.0)
    return *search.largest(ranked, floor + RERUN_DB), found


def _ranking_side(search: Search, seconds: float, crop: Callable[[int], int]) -> int:
    """Of the tiles on which blocks are measured one by one: whole ones if there is time, else halved until there is."""
    height = side = search.tiles.pixels.shape[1]
    work = sum(search.placement.multiply_adds.values()) * len(search.blocks) * len(search.tiles)
    while side > SMALLEST_RANKING_SIDE and work * (side / height) ** 2 > seconds * MULTIPLY_ADDS_PER_SECOND:
        side //= 2
    return crop(side)


def _described(tiles: Tiles) -> TileSet:
    """Pictures by file name."""
    return TileSet(
        count=len(tiles),
        sha256=tiles.digest,
        pictures={Path(name).name: digest for name, digest in tiles.sources.items()},
        skipped={Path(name).name: why for name, why in tiles.skipped.items()},
    )


def _measured(damage: Damage) -> MeasuredBlocks:
    rounded = {name: round(float(getattr(damage, name)), 4) for name in ("share", "mean_db", "worst_db")}
    return MeasuredBlocks(
        blocks=len(damage.blocks), block=damage.blocks[0] if len(damage.blocks) == 1 else None, **rounded
    )


def _quality(mean_db: float, worst_db: float) -> Quality:
    return Quality(round(mean_db, 2), round(worst_db, 2))


def _too_far(what: str, seen: str, needed: str) -> PrecisionError:
    remedy = "Calibrate with more pictures, lower --min-psnr, or build with --precision fp16."
    return PrecisionError(f"the network with 8-bit layers {what}", seen=seen, needed=needed, remedy=remedy)
