"""Whether seams between tiles show the start noise: tiles of SinSR and ResShift against one pass over the whole frame,
with noise cut from one map as the runtime does it, and two other ways; SwinIR, which has no noise, beside them.

python -m benchmarks.noise_seams --threads 2     writes benchmarks/results/noise_seams.json

Small networks of random weights, which do not remove the noise as trained ones do, so that it shows as much as it can:
this compares ways to draw noise, and says nothing about the quality of pictures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

import zoomrt
from benchmarks._random_files import latent_files, swinir_file
from benchmarks._record import record
from training.data import HELD_OUT_PHOTOGRAPHS, photograph
from zoomrt.bundle import NoiseFacts
from zoomrt.export.pipeline import BuildRequest, build
from zoomrt.export.sources import Sources
from zoomrt.runtime import noise
from zoomrt.runtime.tiles import TilePlan, plan
from zoomrt.runtime.upscaler import Upscaler

TILE, WHOLE = 64, 128
"""LR pixels; the frame is one tile of the larger bundle."""
PHOTOGRAPHS = HELD_OUT_PHOTOGRAPHS[:1]
Draw = Callable[[NoiseFacts, TilePlan, int, NDArray[np.float32]], None]


def another_for_each(facts: NoiseFacts, _tiles: TilePlan, index: int, out: NDArray[np.float32]) -> None:
    """As the authors' code does it."""
    out[...] = np.random.default_rng((facts.seed, index)).standard_normal(out.shape)


def the_same_for_all(facts: NoiseFacts, _tiles: TilePlan, _index: int, out: NDArray[np.float32]) -> None:
    """As the authors' code does it with its repeat flag."""
    out[...] = noise.noise_at(facts, 0, 0, *out.shape[1:])


WAYS: dict[str, Draw] = {
    "one map": noise.gather,
    "another for each tile": another_for_each,
    "the same for all tiles": the_same_for_all,
}


def pairs_rms(tiles: TilePlan, pictures: list[NDArray[np.float32]], scale: int, context: int) -> float:
    """How far neighbours are apart, root mean square, where they overlap and neither is thrown away."""
    squares = []
    columns = len(tiles.columns.spans)
    for index in range(len(tiles)):
        _row, column = tiles.position(index)
        if column + 1 == columns:
            continue
        step = (tiles.columns.spans[column + 1].origin - tiles.columns.spans[column].origin) * scale
        edge = context * scale
        left, right = pictures[index][:, :, step:], pictures[index + 1][:, :, :-step]
        squares.append(np.square(left - right)[:, :, edge:-edge].mean())
    return float(np.sqrt(np.mean(squares)))


def upscaled(upscaler: Upscaler, frame: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """The frame, and the tiles that it was made of."""
    tiles: list[NDArray[np.float32]] = []
    with upscaler.engine() as session:
        run = session.run

        def listening(batch: NDArray[np.float32], names: tuple[str, ...] = ()) -> NDArray[np.float32]:
            result = run(batch, names)
            tiles.extend(result.copy())
            return result

        with mock.patch.object(session, "run", listening):
            return upscaler(frame), tiles


def figures(request: Callable[[int], BuildRequest], folder: Path, threads: int) -> dict[str, object]:
    found: dict[str, object] = {}
    frames = {
        Path(name).stem: np.ascontiguousarray(photograph(name)[:WHOLE, :WHOLE] / np.float32(255))
        for name in PHOTOGRAPHS
    }
    whole_bundle, tile_bundle = (build(request(side), folder / str(side)).path for side in (WHOLE, TILE))
    with zoomrt.load(whole_bundle, threads=threads) as whole, zoomrt.load(tile_bundle, threads=threads) as tiled:
        facts = tiled.manifest.tile
        tiles = plan(WHOLE, WHOLE, facts)
        assert len(plan(WHOLE, WHOLE, whole.manifest.tile)) == 1
        for way, draw in WAYS.items() if facts.noise else [("no noise", noise.gather)]:
            psnrs, apart = [], []
            for frame in frames.values():
                wanted, _ = upscaled(whole, frame)
                with mock.patch.object(noise, "gather", draw):
                    got, pictures = upscaled(tiled, frame)
                psnrs.append(float(peak_signal_noise_ratio(wanted, got, data_range=1)))
                low, high = facts.value_range
                apart.append(pairs_rms(tiles, pictures, facts.scale, facts.context) / (high - low))
            found[way] = {
                "psnr_to_one_pass_db": [round(value, 2) for value in psnrs],
                "neighbours_apart_rms": [round(value, 4) for value in apart],
            }
    return {"tiles": len(tiles), "overlap": facts.overlap, "context": facts.context, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    found: dict[str, object] = {"photographs": list(PHOTOGRAPHS), "threads": threads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unet, autoencoder = latent_files(folder, true_size=False)
        swinir = swinir_file(folder, true_size=False)
        requests: dict[str, Callable[[int], BuildRequest]] = {
            "swinir": lambda side: BuildRequest(weights=swinir, tile=side),
            "sinsr": lambda side: BuildRequest(
                model="sinsr", weights=unet, tile=side, sources=Sources(autoencoder=autoencoder)
            ),
            "resshift, --steps 4": lambda side: BuildRequest(
                model="resshift", weights=unet, tile=side, sources=Sources(autoencoder=autoencoder, steps=4)
            ),
        }
        for what, request in requests.items():
            found[what] = figures(request, folder / what, threads)
            print(json.dumps({what: found[what]}), flush=True)
    print("recorded in", record("noise_seams", found, "torch", "onnxruntime", "scikit-image"))


if __name__ == "__main__":
    main()
