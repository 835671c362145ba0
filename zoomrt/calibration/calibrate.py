"""Run tiles through the exact network and observe what enters each layer; then one range for each layer.

Observation is the slow part. It depends on network and tiles only, so it is kept under a hash of both, saved while it
runs, and continued after an interruption. Methods to choose a range all read the same histograms.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from zoomrt.calibration.data import Tiles
from zoomrt.calibration.layers import watching
from zoomrt.calibration.observers import Observer
from zoomrt.calibration.ranges import range_of
from zoomrt.errors import RuntimeFault
from zoomrt.files import read_cached, write_cached

Progress = Callable[[str, float], None]
_LAYOUT = "zoomrt statistics 2"  # of the file and of what is counted; another number makes old files strangers
_SAVE_EVERY_S = 10.0
_TILES = "tiles"
"""The entry of the file that holds `Statistics.tiles`."""


@dataclass
class Statistics:
    """What entered each layer. key : SHA-256 of network, tiles and context. tiles : how many were seen."""

    key: str
    tiles: int
    observers: dict[str, Observer]


class Ranges(msgspec.Struct, frozen=True):
    """amax : for each layer, the input magnitude that the largest code stands for. For the manifest, as JSON.

    method : one of `ranges.METHODS`. key, tiles : as in `Statistics`.
    """

    method: str
    key: str
    tiles: int
    amax: dict[str, float]


def observe(
    network: nn.Module,
    tiles: Tiles,
    *,
    context: str = "",
    folder: Path | None = None,
    on_progress: Progress | None = None,
) -> Statistics:
    """Statistics of the input of every Conv2d and Linear that runs, over all tiles.

    network : FP32, eval; takes what `tiles` gives. It is left as it is.
    context : what else decides what the network computes, such as a hash of its source; part of the key.
    folder : where statistics are kept and found again; None keeps nothing. A damaged file is replaced.
    on_progress : called with ("calibrate", share of tiles done) after each tile.

    The result is the same whether or not it was interrupted. Raises RuntimeFault, with the layer's name, for NaN and
    infinities. A folder that cannot be written is a CacheWarning.
    """
    key = hashlib.sha256(f"{_LAYOUT} {network_digest(network)} {tiles.digest} {context}".encode()).hexdigest()
    file = None if folder is None else folder / f"{key}.safetensors"
    statistics = (_read(file, key) if file is not None else None) or Statistics(key, 0, {})
    saved = time.monotonic()

    def note(name: str, module: nn.Module, values: Tensor, _result: Tensor) -> None:
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        observer = statistics.observers.setdefault(name, Observer(values.shape[axis]))
        try:
            observer.update(values, axis)
        except RuntimeFault as fault:
            what = f"{fault.what} that enter layer {name}"
            raise RuntimeFault(what, seen=fault.seen, needed=fault.needed, remedy=fault.remedy) from fault

    with watching(network, note), torch.no_grad():
        for tile in itertools.islice(tiles, statistics.tiles, None):
            network(tile)
            statistics.tiles += 1
            done = statistics.tiles == len(tiles)
            if file is not None and (done or time.monotonic() - saved > _SAVE_EVERY_S):
                _write(file, statistics)
                saved = time.monotonic()
            if on_progress is not None:
                on_progress("calibrate", statistics.tiles / len(tiles))
    return statistics


def ranges_of(statistics: Statistics, method: str) -> Ranges:
    """One range for each observed layer. Raises UsageError for an unknown method."""
    amax = {name: range_of(observer, method) for name, observer in statistics.observers.items()}
    return Ranges(method, statistics.key, statistics.tiles, amax)


def network_digest(network: nn.Module) -> str:
    """SHA-256 over the modules as they print themselves and every weight and constant; their code is not in it."""
    digest = hashlib.sha256(repr(network).encode())
    for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(file: Path, statistics: Statistics) -> None:
    tensors = {
        f"{name}/{part}": tensor
        for name, observer in statistics.observers.items()
        for part, tensor in observer.state().items()
    }
    write_cached(file, save({**tensors, _TILES: torch.tensor(statistics.tiles)}))


def _read(file: Path, key: str) -> Statistics | None:
    """What an earlier run kept; None if there is nothing, or nothing that can be read."""
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        tensors = load(read_cached(file) or b"")
        tiles = int(tensors.pop(_TILES))
        for entry, tensor in tensors.items():
            name, _, part = entry.rpartition("/")
            parts.setdefault(name, {})[part] = tensor
        return Statistics(key, tiles, {name: Observer.from_state(state) for name, state in parts.items()})
    except (SafetensorError, KeyError, ValueError, TypeError):
        return None
