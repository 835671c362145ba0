"""Real-ESRGAN's dense networks: three variants told apart by shapes, against the slow reference, as bundles."""

from __future__ import annotations

from collections.abc import Callable
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
from published_baselines import bsrgan, dense, old_esrgan
from published_files import Shapes, State, random_state
from slow_reference import Weights

from zoomrt.errors import CheckpointError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.real_esrgan import FAMILY
from zoomrt.models.networks.real_esrgan import DenseConfig, DenseNetwork

VARIANTS = {"x4plus": (64, 32, 23, 3), "x2plus": (64, 32, 23, 12), "anime_6B": (64, 32, 6, 3)}


@pytest.mark.parametrize(
    ("variant", "parameters", "gmacs"),
    [("x4plus", 16_697_987, 293.7), ("x2plus", 16_703_171, None), ("anime_6B", 4_467_779, 93.5)],
)
def test_true_size_is_the_sheets(variant: str, parameters: int, gmacs: float | None) -> None:
    width, growth, blocks, channels = VARIANTS[variant]
    with torch.device("meta"):
        network = DenseNetwork(DenseConfig(width, growth, blocks, {3: 1, 12: 2}[channels]))
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == dense(*VARIANTS[variant])
    counted, work = parameters_and_gmacs(network, 3, 128)
    assert counted == parameters
    assert gmacs is None or work == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("doublings", [0, 1, 2, 3])
@pytest.mark.parametrize("naming", [bsrgan, old_esrgan])
def test_older_names(tmp_path: Path, naming: Callable[[State], State], doublings: int) -> None:
    """BSRGAN's and the first ESRGAN's, which the public has in x1, x2, x4 and x8."""
    state = random_state(dense(8, 4, 2, doublings=doublings))
    torch.save(naming(state), tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert family_of(checkpoint) is FAMILY
    assert FAMILY.fitted(checkpoint).scale == 2**doublings
    lr = torch.rand(3, 5, 6)
    wanted = slow.real_esrgan(Weights(state), lr.double().numpy())
    assert_close(run(FAMILY.network(checkpoint), lr), wanted, 1e-5)


@pytest.mark.parametrize(("channels", "scale"), [(3, 4), (12, 2), (48, 1)])
def test_file_to_bundle(tmp_path: Path, channels: int, scale: int) -> None:
    state = random_state(dense(8, 4, 1, channels))
    wrong = {key: tensor * float("nan") for key, tensor in state.items()}
    torch.save({"params": wrong, "params_ema": state}, tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert family_of(checkpoint) is FAMILY
    network = FAMILY.network(checkpoint)
    lr = torch.rand(3, 12, 20)
    assert_close(run(network, lr), slow.real_esrgan(Weights(state), lr.double().numpy()), 1e-5)
    # one block sees 18 pixels of the first convolution's, and two on either end
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pth", tile=80, overlap=40)
    assert (manifest.family, manifest.tile.scale) == ("real-esrgan", scale)
    # the trunk of 48 channels works at a quarter of the size and sees farther than the context; another tile is 0.3 off
    assert_tiles_equal_one_pass(tmp_path / "b", network, 80, 124, tolerance=1e-4 if channels < 48 else 5e-2)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (dense(8, 4, 1, 1), r"variant.*got 1 channel \(conv_first\.weight\), need one of 3, 12, 48"),
        (dense(8, 4, 1, 6), r"variant.*got 6 channels"),
        (dense(8, 4, 1, 12, doublings=0), r"variant.*got 12 channels.*need one of 3\. "),
        (
            {"module.conv_first.weight": (8, 3, 3, 3)},
            r"not a checkpoint of real-esrgan.*got keys like module\.conv_first\.weight under params, need.*rdb1",
        ),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, state: Shapes, said: str) -> None:
    torch.save({"params": random_state(state)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=said):
        FAMILY.fitted(load_checkpoint(tmp_path / "w.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "parameters"), [("x4plus", 16_697_987), ("x2plus", 16_703_171), ("anime_6B", 4_467_779)]
)
def test_engine_at_true_size(tmp_path: Path, variant: str, parameters: int) -> None:
    # gains below one: 23 blocks of random weights would else answer a hundred times too strongly for FP16's 45 dB
    torch.save({"params_ema": random_state(dense(*VARIANTS[variant]), 0.5)}, tmp_path / "w.pth")
    assert_engine_at_true_size(tmp_path, tmp_path / "w.pth", parameters, tile=128)
