"""Real-ESRGAN's compact networks: against the slow reference, the mixture that sets denoising, as bundles."""

from __future__ import annotations

from pathlib import Path

import pytest
import slow_baselines as slow
import torch
from family_checks import (
    assert_close,
    assert_engine_at_true_size,
    assert_tiles_equal_one_pass,
    bundle_of,
    parameters_and_gmacs,
    run,
)
from published_baselines import compact
from published_files import Shapes, State, random_state
from slow_reference import Weights

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.real_esrgan_compact import FAMILY
from zoomrt.models.networks.real_esrgan_compact import CompactConfig, CompactNetwork
from zoomrt.models.options import given


def write(path: Path, shapes: Shapes) -> State:
    state = random_state(shapes)
    torch.save({"params": state}, path)
    return state


@pytest.mark.parametrize(("middle", "parameters", "gmacs"), [(16, 621_424, 10.1), (32, 1_213_296, 19.8)])
def test_true_size_is_the_sheets(middle: int, parameters: int, gmacs: float) -> None:
    with torch.device("meta"):
        network = CompactNetwork(CompactConfig(middle=middle))
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == compact(64, middle)
    counted, work = parameters_and_gmacs(network, 3, 128)
    assert counted == parameters
    assert work == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("scale", [2, 4])
def test_file_to_bundle(tmp_path: Path, scale: int) -> None:
    state = write(tmp_path / "w.pth", compact(8, 3, scale))
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert family_of(checkpoint) is FAMILY
    network = FAMILY.network(checkpoint)
    lr = torch.rand(3, 11, 14)
    assert_close(run(network, lr), slow.compact(Weights(state), lr.double().numpy(), scale), 1e-5)
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pth", tile=32, overlap=16)  # context 7, seen 5
    assert (manifest.family, manifest.tile.scale, manifest.tile.context) == ("real-esrgan-compact", scale, 7)
    assert_tiles_equal_one_pass(tmp_path / "b", network, 45, 90)


@pytest.mark.parametrize(("strength", "share"), [(None, 0.5), (0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_denoise_strength(tmp_path: Path, strength: float | None, share: float) -> None:
    state, wdn = (write(tmp_path / name, compact(8, 2)) for name in ("w.pth", "wdn.pth"))
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    options = given(wdn_weights=tmp_path / "wdn.pth", denoise_strength=strength)
    lr = torch.rand(3, 9, 10)
    mixed = Weights({key: share * state[key].double() + (1 - share) * wdn[key].double() for key in state})
    for _ in range(2):  # a second network of the same checkpoint is not mixed twice
        assert_close(run(FAMILY.network(checkpoint, options), lr), slow.compact(mixed, lr.double().numpy()), 1e-5)


def test_strength_that_makes_no_sense(tmp_path: Path) -> None:
    write(tmp_path / "w.pth", compact(8, 2))
    write(tmp_path / "deeper.pth", compact(8, 3))
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"needs --wdn-weights"):
        FAMILY.network(checkpoint, {"denoise_strength": 0.5})
    with pytest.raises(UsageError, match=r"--denoise-strength: got 1\.5, need a number from 0 to 1"):
        FAMILY.network(checkpoint, {"wdn_weights": tmp_path / "w.pth", "denoise_strength": 1.5})
    with pytest.raises(CheckpointError, match="do not fit"):
        FAMILY.network(checkpoint, {"wdn_weights": tmp_path / "deeper.pth"})


@pytest.mark.parametrize("change", [{"body.6.weight": (49, 8, 3, 3)}, {"body.7.weight": (48,)}, {"body.weight": (1,)}])
def test_foreign_files_are_refused(tmp_path: Path, change: Shapes) -> None:
    write(tmp_path / "w.pth", compact(8, 2) | change)
    with pytest.raises(CheckpointError, match=r"of real-esrgan-compact.*realesr-general-x4v3"):
        FAMILY.fitted(load_checkpoint(tmp_path / "w.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(("middle", "parameters"), [(16, 621_424), (32, 1_213_296)])
def test_engine_at_true_size(tmp_path: Path, middle: int, parameters: int) -> None:
    write(tmp_path / "w.pth", compact(64, middle))
    assert_engine_at_true_size(tmp_path, tmp_path / "w.pth", parameters, tile=192)
