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
from published_baselines import basicsr_edsr, edsr
from published_files import Shapes, State, random_state
from slow_reference import Weights

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.edsr import FAMILY
from zoomrt.models.networks.edsr import EdsrConfig, EdsrNetwork

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def write(path: Path, width: int, blocks: int, scale: int) -> State:
    """For values of 0 to 255: biases of the order of 10, gains below one, so that the result stays in that order."""
    shapes = edsr(width, blocks, scale)
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
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == edsr(width, blocks, scale)
    counted, work = parameters_and_gmacs(network, 3, 128)
    assert counted == parameters
    assert gmacs is None or work == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize(
    ("width", "given", "residuals"), [(8, 0.3, 0.3), (64, None, 1.0), (64, 0.5, 0.5), (256, None, 0.1)]
)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("basicsr", [False, True])
def test_network_against_the_slow_reference(
    tmp_path: Path, width: int, given: float | None, residuals: float, scale: int, basicsr: bool
) -> None:
    """The residuals' scale is that of the published width (the authors' repositories), or the user's."""
    state = write(tmp_path / "w.pt", width, 2, scale)
    if basicsr:
        torch.save({"params": basicsr_edsr(state)}, tmp_path / "w.pt")
    checkpoint = load_checkpoint(tmp_path / "w.pt")
    assert family_of(checkpoint) is FAMILY
    lr = torch.rand(3, 6, 7)
    wanted = slow.edsr(Weights(state), lr.double().numpy() * 255, residuals) / 255
    options = {} if given is None else {"residual_scale": given}
    for _ in range(2):  # a second network of the same checkpoint is not scaled twice
        assert_close(run(FAMILY.network(checkpoint, options), lr), wanted, 1e-5)


@pytest.mark.parametrize("white", [1.0, 255.0, 1023.0, 65535.0, 0.5, 200.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_range_that_it_was_trained_with(tmp_path: Path, white: float, dtype: torch.dtype) -> None:
    """EDSR-PyTorch's --rgb_range, which only the mean's layers tell; the file stores it rounded."""
    state = write(tmp_path / "w.pt", 64, 1, 2)
    for key in state:
        if key.endswith("bias"):
            state[key] = state[key] * white / 255
    if dtype is torch.float16 and white == 65535:
        state = {key: tensor if key.endswith("bias") else tensor.half() for key, tensor in state.items()}
    else:
        state = {key: tensor.to(dtype) for key, tensor in state.items()}
    torch.save(state, tmp_path / "w.pt")
    lr = torch.rand(3, 6, 7)
    wanted = slow.edsr(Weights(state), lr.double().numpy() * white, 1.0) / white
    assert_close(
        run(FAMILY.network(load_checkpoint(tmp_path / "w.pt")), lr), wanted, 1e-5 if white == round(white) else 5e-4
    )


@pytest.mark.parametrize("bias", [[0.0, 0.0, 0.0], [-114.4, -111.5, -99.0], [114.4, 111.5, 103.0], [-1.0, -1.0]])
def test_range_that_cannot_be_told(tmp_path: Path, bias: list[float]) -> None:
    state = write(tmp_path / "w.pt", 64, 1, 2)
    torch.save({**state, "sub_mean.bias": torch.tensor(bias)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"\(sub_mean\.bias\).*0\.4488"):
        FAMILY.network(load_checkpoint(tmp_path / "w.pt"))


def test_scale_of_residuals_that_nobody_knows(tmp_path: Path) -> None:
    write(tmp_path / "w.pt", 32, 1, 2)
    checkpoint = load_checkpoint(tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"32 channels \(head\.0\.weight\).*--residual-scale.*64.*256"):
        FAMILY.network(checkpoint)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"--residual-scale"):
            FAMILY.network(checkpoint, {"residual_scale": scale})


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bundle(tmp_path: Path, scale: int) -> None:
    write(tmp_path / "w.pt", 8, 1, scale)
    options = {"residual_scale": 1.0}
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pt", options, tile=32, overlap=16)  # context 7, seen 6
    assert (manifest.family, manifest.tile.scale, manifest.tile.value_range) == ("edsr", scale, (0.0, 1.0))
    network = FAMILY.network(load_checkpoint(tmp_path / "w.pt"), options)
    assert_tiles_equal_one_pass(tmp_path / "b", network, 40, 61)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tail.0.0.weight": (24, 8, 3, 3)}, r"variant.*x1 \(tail\.0 shuffles 3 pixels\).*x2, x3 or x4"),
        ({f"tail.0.{i}.weight": (32, 8, 3, 3) for i in (0, 2, 4)}, r"variant.*x8 \(tail\.0 shuffles 4, 4, 4"),
        ({"head.0.weight": (8, 1, 3, 3)}, r"variant.*1 channel \(head\.0\.weight\).*3 channels"),
        ({"head.0.weight": ()}, r"not a checkpoint of edsr.*head\.0\.weight of shape \(\).*sub_mean.*edsr_x4"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, change: Shapes, said: str) -> None:
    torch.save(random_state(edsr(8, 1, 2) | change), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=said):
        FAMILY.fitted(load_checkpoint(tmp_path / "w.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("width", "blocks"), [(64, 16), (256, 32)])
def test_engine_at_true_size(tmp_path: Path, width: int, blocks: int, scale: int) -> None:
    write(tmp_path / "w.pt", width, blocks, scale)
    parameters = {64: (1_369_883, 1_554_523, 1_517_595), 256: (40_729_627, 43_680_027, 43_089_947)}[width][scale - 2]
    assert_engine_at_true_size(tmp_path, tmp_path / "w.pt", parameters, tile=64)
