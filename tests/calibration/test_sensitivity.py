"""The search finds what a brute-force look at every set finds, remembers, stops in time, and names what is to blame."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoomrt.calibration.calibrate import Ranges, observe, ranges_of
from zoomrt.calibration.data import Tiles
from zoomrt.calibration.fake_quant import INT8
from zoomrt.calibration.layers import layers_of
from zoomrt.calibration.placement import Placement, placement_of
from zoomrt.calibration.quantise import quantise, tile_psnrs
from zoomrt.calibration.sensitivity import Search, blocks_of
from zoomrt.errors import PrecisionError


class Branches(nn.Module):
    """Parallel blocks that add up, so damage adds up too; branch i is `strengths[i]` strong."""

    def __init__(self, strengths: list[float]) -> None:
        super().__init__()
        self.strengths = strengths
        self.part = nn.ModuleList(nn.ModuleList([nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1)]) for _ in strengths)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(())
        for strength, (first, second) in zip(self.strengths, self.part, strict=True):
            total = total + strength * second(first(x))
        return total


@pytest.fixture
def tiles(rng: np.random.Generator) -> Tiles:
    return Tiles(rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8), (-1.0, 1.0))


STRENGTHS = [0.01, 3.0, 0.1, 0.03, 1.0]


@pytest.fixture
def network(rng: np.random.Generator) -> Branches:
    return Branches([STRENGTHS[index] for index in rng.permutation(5)]).eval()


def prepared(network: nn.Module, tiles: Tiles) -> tuple[Ranges, Placement]:
    layers = layers_of(network, next(iter(tiles)))
    return ranges_of(observe(network, tiles), "max"), placement_of(network, layers, "tensorrt_rtx", everything=True)


def search_of(network: nn.Module, tiles: Tiles, folder: Path | None = None) -> Search:
    return Search(network, *prepared(network, tiles), INT8, tiles, folder=folder)


def test_blocks_are_names_up_to_the_second_number() -> None:
    names = {
        "unet.down_blocks.0.resnets.1.conv1": "unet.down_blocks.0.resnets.1",
        "unet.down_blocks.0.resnets.1.conv2": "unet.down_blocks.0.resnets.1",
        "unet.down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj": "unet.down_blocks.0.attentions.1",
        "decoder_fine.0.conv1": "decoder_fine.0",
        "down_half": "down_half",
    }
    blocks = blocks_of(Placement("tensorrt", tuple(names), {}, {}))
    assert {name: block for block, layers in blocks.items() for name in layers} == names


def test_damage_is_that_of_the_quantised_network(network: Branches, tiles: Tiles) -> None:
    ranges, placement = prepared(network, tiles)
    with torch.no_grad():
        wanted = [network(tile) for tile in tiles]
    whole = tile_psnrs(quantise(network, ranges, placement, INT8), tiles, wanted, 2.0)
    damage = search_of(network, tiles).damage([f"part.{index}.{layer}" for index in range(5) for layer in range(2)])
    assert (damage.share, damage.worst_db) == (1.0, min(whole))
    assert damage.mean_db == pytest.approx(np.mean(whole))


def test_ranking_follows_the_strength(network: Branches, tiles: Tiles) -> None:
    order = [damage.blocks[0] for damage in search_of(network, tiles).rank()]
    strengths = [network.strengths[int(block.split(".")[1])] for block in order]
    first, last = strengths[:2], strengths[-2:]
    assert max(first) < min(last)


def test_largest_set_against_every_set(network: Branches, tiles: Tiles) -> None:
    """No set of blocks that passes the gate is more than a little larger."""
    search = search_of(network, tiles)
    ranking = search.rank()
    gate = search.damage(search.blocks).worst_db + 6  # everything fails, some sets pass
    placement, damage = search.largest(ranking, gate)
    sets = itertools.chain.from_iterable(itertools.combinations(search.blocks, count) for count in (7, 8, 9))
    best = max((found.share for found in map(search.damage, sets) if found.worst_db >= gate), default=0.0)
    assert damage.worst_db >= gate
    assert placement.share == damage.share
    assert damage.share >= best - 0.11
    assert set(placement.quantised) | set(placement.kept) == set(placement.multiply_adds)
    assert all("dB alone" in why for why in placement.kept.values())


def test_everything_passes_a_low_gate_at_once(network: Branches, tiles: Tiles) -> None:
    search = search_of(network, tiles)
    ranking = search.rank()
    before = len(search.measured)
    placement, damage = search.largest(ranking, 1.0)
    assert placement.share == damage.share == 1.0
    assert len(search.measured) == before + 1


def test_a_gate_that_cannot_be_met(network: Branches, tiles: Tiles) -> None:
    search = search_of(network, tiles)
    ranking = search.rank()
    with pytest.raises(PrecisionError, match=r"dB with part\.\d\.\d alone.*199\.0 dB"):
        search.largest(ranking, 199.0)


def test_interrupted_search_goes_on(network: Branches, tiles: Tiles, tmp_path: Path) -> None:
    first = search_of(network, tiles, tmp_path)
    for block in list(first.blocks)[:4]:
        first.damage([block])
    again = search_of(network, tiles, tmp_path)
    ranking = again.rank()
    assert len(ranking) == 10
    fresh = search_of(network, tiles).rank()
    assert ranking == fresh
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert search_of(network, tiles, tmp_path).measured == {}
    with torch.no_grad():
        network.part[0][0].weight += 1
    assert search_of(network, tiles, tmp_path).measured == {}


def test_kept_measurements_are_not_made_again(
    network: Branches, tiles: Tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = search_of(network, tiles, tmp_path).rank()
    search = search_of(network, tiles, tmp_path)
    monkeypatch.setattr("zoomrt.calibration.sensitivity.tile_psnrs", lambda *_: pytest.fail("measured again"))
    assert search.rank() == ranking


def test_out_of_time(network: Branches, tiles: Tiles) -> None:
    search = search_of(network, tiles)
    progress: list[tuple[str, float]] = []
    search.damage(["part.0.0"])
    ranking = search.rank(seconds=0.0, on_progress=lambda *step: progress.append(step))
    assert [damage.blocks for damage in ranking] == [("part.0.0",)]
    placement, _ = search.largest(ranking, 1.0)
    assert placement.quantised == ("part.0.0",)
    assert set(placement.kept.values()) == {"not measured in time (gate 1.0 dB)"}
    with pytest.raises(PrecisionError, match="no block measured"):
        search_of(network, tiles).largest([], 1.0)


def test_not_finite_is_the_worst(network: Branches, tiles: Tiles) -> None:
    search = search_of(network, tiles)
    search._twins["part.1.0"].input_scale.fill_(math.nan)
    assert search.damage(["part.1.0"]).worst_db == -200.0
    assert search.rank()[-1].blocks == ("part.1.0",)


def test_on_other_tiles(network: Branches, tiles: Tiles, tmp_path: Path) -> None:
    """Measurements of crops and of whole tiles are kept apart, in memory and in files; the layers are the same."""
    search = search_of(network, tiles, tmp_path)
    small = search.on(tiles.cropped(8))
    found = small.damage(["part.1.0"])
    assert search.measured == {}
    with torch.no_grad():
        wanted = [network(tile) for tile in tiles.cropped(8)]
    alone = quantise(network, prepared(network, tiles)[0], only(search, "part.1.0"), INT8)
    assert found.worst_db == min(tile_psnrs(alone, tiles.cropped(8), wanted, 2.0))
    assert search.damage(["part.1.0"]).worst_db != found.worst_db
    assert len(list(tmp_path.iterdir())) == 2
    assert list(search_of(network, tiles, tmp_path).on(tiles.cropped(8)).measured.values()) == [found]


def only(search: Search, block: str) -> Placement:
    return dataclasses.replace(search.placement, quantised=search.blocks[block])


def test_a_small_block_too_many_is_left_out(network: Branches, tiles: Tiles) -> None:
    """Where the next large block just fails, the small one whose error is the excess makes room for it."""
    search = search_of(network, tiles)
    ranking = search.rank()
    everything = search.damage(search.blocks).worst_db
    placement, damage = search.largest(ranking, everything + 0.2)
    small = [one for one in ranking if one.share < 0.1]
    assert damage.share >= 1 - max(one.share for one in small) * 2 - 1e-9
    assert damage.worst_db >= everything + 0.2
    assert placement.share == damage.share
