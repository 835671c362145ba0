"""Makes a network safe to run in FP16, and proves it: FP16 ends at 65504, and beyond that a picture turns black.

1. One FP32 pass per tile notes the largest magnitude of every value.
2. Streams of values that come near the limit are made smaller by a power of two: exact, and free at run time.
3. Modules with values that cannot be (they feed a SiLU, say) stay in FP32.
4. The network becomes FP16, and FP16 storage emulation on the same tiles must come close to FP32; where a network
   chooses among codes, with FP32's choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoomrt.bundle.records import Fp16Report, Parity, RescaledStream
from zoomrt.errors import PrecisionError
from zoomrt.export.fp16.emulation import run_with_fp16_storage
from zoomrt.export.fp16.ranges import FP16_MAX, Ranges, Value, magnitude, sampled
from zoomrt.export.fp16.scale_groups import Streams
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.recording import Operation, watched
from zoomrt.export.verify.parity import compare
from zoomrt.models.discrete_choices import Choice, recorded, replayed
from zoomrt.models.half import keep_fp32, to_half

NEAR = FP16_MAX / 4
"""Above it a stream is rescaled, which is free: other pictures may reach four times what these did."""
TOO_NEAR = FP16_MAX / 2
"""Above it a value that cannot be rescaled is kept in FP32, which is not free."""
NEEDED_DB = PRECISIONS.named("fp16").minimum_psnr_db
_SUSPECT = 0.01
"""Relative error of a value from which on it is named as the place where precision was lost."""


@dataclass
class _Batch:
    """Tiles of one size, which go through the network together."""

    names: list[str]
    lr: Tensor
    ranges: Ranges
    wanted: Tensor
    choices: list[Choice]


@dataclass(frozen=True)
class Fp16Plan:
    """What `prepare_fp16` saw and did; `factors` has one for each value."""

    batches: list[_Batch]
    factors: list[float]
    report: Fp16Report


def make_fp16_safe(
    network: nn.Module,
    tiles: Mapping[str, NDArray[np.float32]],
    value_range: tuple[float, float],
    seen: Sequence[Ranges] = (),
    needed_db: float = NEEDED_DB,
) -> Fp16Report:
    """Rescale, keep what must stay FP32, turn the network into FP16 in place, and prove it on the tiles.

    network : FP32. tiles : name -> (1, 3, h, w) in `value_range`. seen : ranges of other tiles, maybe of another size.

    Raises PrecisionError that names the operation, if a value cannot be held or a tile ends below
    `needed_db`; the network is then as far as it came.
    """
    plan = prepare_fp16(network, tiles, seen)
    to_half(network)
    return_freed_memory()
    results = []
    low, high = value_range
    for batch in plan.batches:
        closeness = _Closeness(batch.ranges.values, plan.factors)
        with replayed(network, batch.choices) as given:
            got = run_with_fp16_storage(network, batch.lr, closeness)
        for choice, other in zip(batch.choices, given, strict=True):
            result = _compared_choices(choice, other, ", ".join(batch.names), needed_db)
            _demand(result, closeness)
            results.append(result)
        for name, one, other in zip(batch.names, batch.wanted.numpy(), got.numpy(), strict=True):
            result = compare(one, other, name, "fp16 storage emulation", high - low, needed_db)
            _demand(result, closeness)
            results.append(result)
    return msgspec.structs.replace(plan.report, results=tuple(results))


def prepare_fp16(network: nn.Module, tiles: Mapping[str, NDArray[np.float32]], seen: Sequence[Ranges] = ()) -> Fp16Plan:
    """Steps 1 to 3 on an FP32 network, in place; its results stay the same bit for bit.

    Arguments and errors as for `make_fp16_safe`, which goes on from here.
    """
    streams = Streams()
    batches = _batches(tiles)
    for batch in batches:
        visitors = [batch.ranges, streams] if batch is batches[0] else [batch.ranges]
        with recorded(network) as batch.choices:
            batch.wanted = watched(network, batch.lr, *visitors)
    streams.finish(batches[0].wanted)
    values = batches[0].ranges.values
    largest = _largest([*(batch.ranges for batch in batches), *seen])
    _check_fp32(values, largest)

    exponents = streams.exponents(largest, NEAR)
    streams.rescale(exponents)
    factors = [1.0] * len(values)
    rescaled = []
    for stream, exponent in exponents.items():
        members = streams.members()[stream]
        rescaled.append(_described(exponent, [values[i] for i in members], max(largest[i] for i in members)))
        for index in members:
            factors[index] = 2.0**exponent
    left = [magnitude * factor for magnitude, factor in zip(largest, factors, strict=True)]
    kept = _keep_what_must(network, values, left)
    return Fp16Plan(
        batches, factors, Fp16Report(largest=_top(values, left, kept), rescaled=tuple(rescaled), kept_fp32=tuple(kept))
    )


def _compared_choices(choice: Choice, other: Tensor, names: str, needed: float) -> Parity:
    """What a choice was made from; relative to the values' own range."""
    wanted, got = choice.given.numpy(), other.numpy()
    peak = float(np.ptp(wanted))
    return compare(wanted, got, f"{names}, before a choice", "fp16 storage emulation", peak, needed)


def _batches(tiles: Mapping[str, NDArray[np.float32]]) -> list[_Batch]:
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, tile in tiles.items():
        by_shape.setdefault(tile.shape, []).append(name)
    return [
        _Batch(names, torch.cat([torch.from_numpy(tiles[name]) for name in names]), Ranges(), torch.empty(0), [])
        for names in by_shape.values()
    ]


def _largest(ranges: Sequence[Ranges]) -> list[float]:
    """Largest magnitude of each value over all tiles."""
    names = {tuple(value.name for value in one.values) for one in ranges}
    if len(names) != 1:
        raise PrecisionError(
            "cannot tell which values of the network belong together",
            seen="other operations for another tile size",
            needed="the same operations for every tile",
            remedy="Build with --precision fp32, and report this model.",
        )
    return [max(value.largest for value in same) for same in zip(*(one.values for one in ranges), strict=True)]


def _check_fp32(values: Sequence[Value], largest: Sequence[float]) -> None:
    broken = next((v for v, size in zip(values, largest, strict=True) if not math.isfinite(size)), None)
    if broken is not None:
        raise PrecisionError(
            "the network is not finite even in FP32",
            seen=f"a non-finite result of {broken.name}",
            needed="finite values",
            remedy="Check the weights: they may be of another model or damaged.",
        )


def _described(exponent: int, values: Sequence[Value], largest: float) -> RescaledStream:
    return RescaledStream(
        exponent=exponent,
        largest=float(f"{largest:.4g}"),
        values=len(values),
        first=values[0].name,
        last=values[-1].name,
    )


def _keep_what_must(network: nn.Module, values: Sequence[Value], left: Sequence[float]) -> list[str]:
    """Keep in FP32 the smallest modules around values that are too near the limit, and whose own result is not."""
    last = {}  # module -> its last operation, which gives its result
    for index, value in enumerate(values):
        for place in _around(value.place):
            last[place] = index
    kept = []
    for value, size in zip(values, left, strict=True):
        if size <= TOO_NEAR or not value.place:
            continue  # what the network itself computes, outside its modules, has the type it was written in
        place = next((place for place in _around(value.place) if left[last[place]] <= TOO_NEAR), "")
        if not place:
            raise PrecisionError(
                "FP16 cannot hold a value of this network, and no part of it can stay in FP32 instead",
                seen=f"{size:.3g} after {value.name}",
                needed=f"{TOO_NEAR:.0f} at most",
                remedy="Build with --precision fp32.",
            )
        if place not in kept:
            keep_fp32(network.get_submodule(place))
            kept.append(place)
    return kept


def _around(place: str) -> list[str]:
    """A module's path and those of the modules around it, innermost first, without the network itself."""
    parts = place.split(".") if place else []
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


class _Closeness:
    """Compares every value under FP16 with the same value under FP32; `culprit` is the first that is off."""

    def __init__(self, values: Sequence[Value], factors: Sequence[float]) -> None:
        self.values, self.factors = values, factors
        self.culprit: str | None = None

    def __call__(self, operation: Operation) -> None:
        if self.culprit is not None or operation.index is None or not operation.outputs:
            return
        if not math.isfinite(max(map(magnitude, operation.outputs))):
            self.culprit = f"non-finite values from {operation.name} on"
            return
        wanted = self.values[operation.index].sample * self.factors[operation.index]
        error = float((sampled(operation.outputs) - wanted).norm() / wanted.norm().clamp_min(1e-20))
        if error > _SUSPECT:
            self.culprit = f"an error above {_SUSPECT:.0%} from {operation.name} on"


def _demand(result: Parity, closeness: _Closeness) -> None:
    if result.psnr_db >= result.needed_psnr_db:
        return
    finite = f"PSNR {result.psnr_db:.1f} dB, " if math.isfinite(result.psnr_db) else ""
    raise PrecisionError(
        f"the FP16 network does not match torch FP32 on the {result.probe} tile",
        seen=finite + (closeness.culprit or "a little error everywhere"),
        needed=f"{result.needed_psnr_db:.0f} dB under FP16 storage emulation",
        remedy="Build with --precision fp32.",
    )


def _top(values: Sequence[Value], left: Sequence[float], kept: Sequence[str], count: int = 5) -> dict[str, float]:
    narrow = [index for index, value in enumerate(values) if not set(kept).intersection(_around(value.place))]
    order = sorted(narrow, key=lambda index: -left[index])
    return {values[index].name: float(f"{left[index]:.4g}") for index in order[:count]}
