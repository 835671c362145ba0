"""From tiles to a quantised network: observation against hooks of its own, resumption, cache, and whole chains."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoomrt.calibration import calibrate
from zoomrt.calibration.calibrate import Ranges, network_digest, observe, ranges_of
from zoomrt.calibration.data import Tiles
from zoomrt.calibration.fake_quant import FP8, INT8, QuantConv2d, QuantLinear
from zoomrt.calibration.layers import layers_of
from zoomrt.calibration.placement import placement_of
from zoomrt.calibration.quantise import quantise, tile_psnrs
from zoomrt.errors import PrecisionError, RuntimeFault
from zoomrt.files import CacheWarning


@pytest.fixture
def tiles(rng: np.random.Generator) -> Tiles:
    return Tiles(rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8), (-1.0, 1.0))


@pytest.fixture
def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Conv2d(5, 4, 1), nn.Flatten(2), nn.Linear(900, 3)).eval()


class Counting(nn.Module):
    """Counts its calls, and fails at one of them."""

    def __init__(self, network: nn.Module, fail_at: int = -1) -> None:
        super().__init__()
        self.network, self.calls, self.fail_at = network, 0, fail_at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return self.network(x)


def same(one: calibrate.Statistics, other: calibrate.Statistics) -> bool:
    states = [{name: seen.state() for name, seen in each.observers.items()} for each in (one, other)]
    return (one.key, one.tiles) == (other.key, other.tiles) and all(
        torch.equal(value, states[1][name][part]) for name, state in states[0].items() for part, value in state.items()
    )


def test_observed_is_what_enters_each_layer(small: nn.Module, tiles: Tiles) -> None:
    statistics = observe(small, tiles)
    x = torch.cat(list(tiles))
    with torch.no_grad():
        for index, layer in enumerate(small):
            if f"{index}" in statistics.observers:
                seen = statistics.observers[f"{index}"]
                assert int(seen.counts.sum()) == x.numel()
                axis = 1 if isinstance(layer, nn.Conv2d) else -1
                wanted = x.abs().transpose(0, axis).flatten(1).amax(1)
                torch.testing.assert_close(seen.channel_max, wanted, rtol=1e-5, atol=1e-6)
            x = layer(x)
    assert set(statistics.observers) == {"0", "2", "4"}


def test_interrupted_and_continued(
    small: nn.Module, tiles: Tiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed during the third tile: the first two are not run again, and the result is the same."""
    monkeypatch.setattr(calibrate, "_SAVE_EVERY_S", 0.0)
    wanted = observe(Counting(small), tiles)
    with pytest.raises(KeyboardInterrupt):
        observe(Counting(small, fail_at=3), tiles, folder=tmp_path)
    network, progress = Counting(small), []
    continued = observe(network, tiles, folder=tmp_path, on_progress=lambda *step: progress.append(step))
    assert network.calls == 2
    assert progress == [("calibrate", 0.75), ("calibrate", 1.0)]
    assert same(continued, wanted)
    again = Counting(small)
    assert same(observe(again, tiles, folder=tmp_path), wanted)
    assert again.calls == 0
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]


def test_other_weights_or_tiles_are_observed_anew(small: nn.Module, tiles: Tiles, tmp_path: Path) -> None:
    first = observe(small, tiles, folder=tmp_path)
    with torch.no_grad():
        small[0].bias[0] += 0.5
    assert observe(small, tiles, folder=tmp_path).key != first.key
    assert observe(small, Tiles(tiles.pixels[::-1].copy(), (-1.0, 1.0)), folder=tmp_path).key != first.key
    assert observe(small, tiles, folder=tmp_path, context="other code").key != first.key
    assert len(list(tmp_path.iterdir())) == 4


def test_a_damaged_file_is_replaced(small: nn.Module, tiles: Tiles, tmp_path: Path) -> None:
    wanted = observe(small, tiles, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"x" * len(whole)):
        file.write_bytes(damaged)
        assert same(observe(small, tiles, folder=tmp_path), wanted)
        assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_gone_without(small: nn.Module, tiles: Tiles, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.warns(CacheWarning, match="a file of that name"):
        found = observe(small, tiles, folder=tmp_path / "file")
    assert same(found, observe(small, tiles))


def test_values_that_are_not_finite_name_the_layer(small: nn.Module, tiles: Tiles) -> None:
    with torch.no_grad():
        small[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(RuntimeFault, match="layer 2"):
        observe(small, tiles)


def test_digest_sees_every_weight_and_the_structure() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    digests = {network_digest(network)}
    for tensor in (network[0].weight, network[1].running_mean, network[1].num_batches_tracked):
        with torch.no_grad():
            tensor += 1
        digests.add(network_digest(network))
    digests.add(network_digest(nn.Sequential(*network, nn.SiLU())))
    assert len(digests) == 5


def test_ranges_through_json(small: nn.Module, tiles: Tiles) -> None:
    ranges = ranges_of(observe(small, tiles), "mse")
    assert set(ranges.amax) == {"0", "2", "4"}
    assert msgspec.json.decode(msgspec.json.encode(ranges), type=Ranges) == ranges


def test_a_layer_without_a_range(small: nn.Module, tiles: Tiles) -> None:
    placement = placement_of(small, layers_of(small, next(iter(tiles))), "onnxruntime", everything=True)
    with pytest.raises(PrecisionError, match="not calibrated: got 0, 2, 4"):
        quantise(small, Ranges("max", "", 0, {}), placement, INT8)


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "onnxruntime"])
@pytest.mark.parametrize("form", [INT8, FP8], ids=lambda form: form.name)
def test_chain_on_edge(tiny_edge: nn.Module, tiles: Tiles, backend: str, form) -> None:
    """Random weights: that each layer does what it should, not how good pictures are."""
    ranges = ranges_of(observe(tiny_edge, tiles), "max")
    layers = layers_of(tiny_edge, next(iter(tiles)))
    placement = placement_of(tiny_edge, layers, backend)
    network = quantise(tiny_edge, ranges, placement, form)
    quantised = {name for name, module in network.named_modules() if isinstance(module, (QuantConv2d, QuantLinear))}
    assert quantised == set(placement.quantised)
    for name in quantised:
        layer = network.get_submodule(name)
        assert layer.weight_scale.ndim == (1 if backend == "onnxruntime" else 0)
        assert float(layer.input_scale) == pytest.approx(ranges.amax[name] / form.largest, rel=1e-3)
    with torch.no_grad():
        wanted = [tiny_edge(tile) for tile in tiles]
    decibels = tile_psnrs(network, tiles, wanted, 2.0)
    everything = placement_of(tiny_edge, layers, backend, everything=True)
    worse = tile_psnrs(quantise(tiny_edge, ranges, everything, form), tiles, wanted, 2.0)
    assert min(decibels) > 20
    assert np.mean(worse) < np.mean(decibels) < 100
    assert tile_psnrs(tiny_edge, tiles, wanted, 2.0) == [200.0] * 4


def test_psnr_against_its_definition(rng: np.random.Generator) -> None:
    wanted, got = (torch.from_numpy(rng.normal(size=(1, 3, 8, 8))) for _ in range(2))
    mse = np.mean((got.numpy() - wanted.numpy()) ** 2)
    assert tile_psnrs(lambda _: got, [wanted], [wanted], 2.0) == [pytest.approx(10 * math.log10(4 / mse))]
    assert tile_psnrs(lambda _: got * math.nan, [wanted], [wanted], 2.0) == [-200.0]
