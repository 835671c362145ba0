"""EDSR: six variants, published values 0 to 255 against the network's 0 to 1, as bundles."""

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
from published_files import Shapes, State, random_state
from slow_reference import Weights

from zoomrt.errors import CheckpointError
from zoomrt.export.checkpoint import load_checkpoint
from zoomrt.export.families import family_of
from zoomrt.export.families.edsr import FAMILY, EdsrConfig, EdsrNetwork

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def layout(width: int, blocks: int, scale: int) -> Shapes:
    """Keys and shapes as published (baselines.md section 1), written by hand."""
    convolutions = {"head.0": (width, 3), f"body.{blocks}": (width, width), "tail.1": (3, width)}
    convolutions |= {f"body.{i}.body.{k}": (width, width) for i in range(blocks) for k in (0, 2)}
    convolutions |= {f"tail.0.{k}": (width * (9 if scale == 3 else 4), width) for k in ((0, 2) if scale == 4 else (0,))}
    shapes: Shapes = {}
    for name, (out, wide) in convolutions.items():
        shapes |= {f"{name}.weight": (out, wide, 3, 3), f"{name}.bias": (out,)}
    for name in ("sub_mean", "add_mean"):
        shapes |= {f"{name}.weight": (3, 3, 1, 1), f"{name}.bias": (3,)}
    return shapes


def write(path: Path, width: int, blocks: int, scale: int) -> State:
    """For values of 0 to 255: biases of the order of 10, gains below one, so that the result stays in that order."""
    shapes = layout(width, blocks, scale)
    state = {k: t * 100 if k.endswith("bias") else t for k, t in random_state(shapes, 0.5).items()}
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        state |= {f"{name}.weight": torch.eye(3)[:, :, None, None], f"{name}.bias": sign * 255 * MEAN}
    torch.save(state, path)
    return state


@pytest.mark.parametrize(
    ("width", "blocks", "scale", "parameters", "gmacs"),
    [
        (64, 16, 2, 1_369_883, None),
        (64, 16, 3, 1_554_523, None),
        (64, 16, 4, 1_517_595, 32.5),
        (256, 32, 2, 40_729_627, None),
        (256, 32, 3, 43_680_027, None),
        (256, 32, 4, 43_089_947, 823.3),
    ],
)
def test_true_size_is_the_sheets(width: int, blocks: int, scale: int, parameters: int, gmacs: float | None) -> None:
    with torch.device("meta"):
        network = EdsrNetwork(EdsrConfig(width, blocks, scale))
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == layout(width, blocks, scale)
    counted, work = parameters_and_gmacs(network, 3, 128)
    assert counted == parameters
    assert gmacs is None or work == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize(("width", "share"), [(8, 1.0), (256, 0.1)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_network_against_the_slow_reference(tmp_path: Path, width: int, share: float, scale: int) -> None:
    state = write(tmp_path / "w.pt", width, 2, scale)
    checkpoint = load_checkpoint(tmp_path / "w.pt")
    assert family_of(checkpoint) is FAMILY
    lr = torch.rand(3, 6, 7)
    wanted = slow.edsr(Weights(state), lr.double().numpy() * 255, share) / 255
    for _ in range(2):  # a second network of the same checkpoint is not scaled twice
        assert_close(run(FAMILY.network(checkpoint), lr), wanted, 1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bundle(tmp_path: Path, scale: int) -> None:
    write(tmp_path / "w.pt", 8, 1, scale)
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pt", tile=32, overlap=16)  # context 7, seen 6
    assert (manifest.family, manifest.tile.scale, manifest.tile.value_range) == ("edsr", scale, (0.0, 1.0))
    network = FAMILY.network(load_checkpoint(tmp_path / "w.pt"))
    assert_tiles_equal_one_pass(tmp_path / "b", network, 40, 61)


@pytest.mark.parametrize("change", [{"tail.0.0.weight": (24, 8, 3, 3)}, {"head.0.weight": ()}])
def test_foreign_files_are_refused(tmp_path: Path, change: Shapes) -> None:
    torch.save(random_state(layout(8, 1, 2) | change), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of edsr.*sub_mean.*edsr_x4"):
        FAMILY.facts_of(load_checkpoint(tmp_path / "w.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("width", "blocks"), [(64, 16), (256, 32)])
def test_engine_at_true_size(tmp_path: Path, width: int, blocks: int, scale: int) -> None:
    write(tmp_path / "w.pt", width, blocks, scale)
    parameters = {64: (1_369_883, 1_554_523, 1_517_595), 256: (40_729_627, 43_680_027, 43_089_947)}[width][scale - 2]
    assert_engine_at_true_size(tmp_path, tmp_path / "w.pt", parameters, tile=64)
