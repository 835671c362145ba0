"""SwinIR: four kinds told apart by keys and shapes, against the slow reference with its own masks, as bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slow_baselines as slow
import torch
from family_checks import assert_close, assert_engine_at_true_size, bundle_of, parameters_and_gmacs, run
from published_baselines import SwinKind, swinir
from published_files import State, random_state
from slow_reference import Weights

import zoomrt
from zoomrt.errors import CheckpointError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.swinir import FAMILY
from zoomrt.models.networks.swinir import SwinConfig, SwinNetwork, config_of

CLASSICAL = SwinKind(180, 6, 6, 6, "pixelshuffle")
LIGHT = SwinKind(60, 4, 6, 6, "pixelshuffledirect")
REAL_M = SwinKind(180, 6, 6, 6, "nearest+conv", wrapper="params_ema")
REAL_L = SwinKind(240, 9, 6, 8, "nearest+conv", long_end=True, wrapper="params_ema")


def write(path: Path, kind: SwinKind) -> State:
    """Bias tables are large enough to be seen; the buffers, which must be passed over, are poison."""
    state = random_state(swinir(kind))
    for key, tensor in state.items():
        if key.endswith("bias_table"):
            state[key] = torch.randn_like(tensor)
        elif key.endswith(("attn_mask", "position_index")):
            state[key] = torch.full_like(tensor, -7, dtype=torch.int64)
    torch.save({kind.wrapper: state}, path)
    return state


@pytest.mark.parametrize(
    ("kind", "parameters", "tensors", "gmacs", "side"),
    [
        (CLASSICAL, 11_900_199, 550, 53.6, 64),
        (LIGHT, 929_628, None, None, 64),
        (REAL_M, 11_715_559, 552, 223.9, 128),
        (REAL_L, 28_013_059, None, None, 64),
    ],
)
def test_true_size_is_the_sheets(
    kind: SwinKind, parameters: int, tensors: int | None, gmacs: float | None, side: int
) -> None:
    shapes = swinir(kind)
    assert tensors is None or len(shapes) == tensors
    with torch.device("meta"):
        network = SwinNetwork(config_of({key: torch.empty(shape) for key, shape in shapes.items()}))
        counted, work = parameters_and_gmacs(network, 3, side)
    kept = {k: s for k, s in shapes.items() if not k.endswith(("attn_mask", "position_index"))}
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == kept
    assert counted == parameters
    assert gmacs is None or work == pytest.approx(gmacs, rel=0.02)


SMALL = {
    "classical x4": SwinKind(24, 2, 2, 2, "pixelshuffle", features=8),
    "classical x3": SwinKind(24, 1, 2, 3, "pixelshuffle", scale=3, features=8),
    "lightweight x2": SwinKind(24, 1, 4, 2, "pixelshuffledirect", scale=2),
    "real L": SwinKind(24, 1, 2, 2, "nearest+conv", long_end=True, features=8, wrapper="params_ema"),
}


@pytest.mark.parametrize("kind", SMALL.values(), ids=SMALL)
def test_network_against_the_slow_reference(tmp_path: Path, kind: SwinKind) -> None:
    state = write(tmp_path / "w.pth", kind)
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert family_of(checkpoint) is FAMILY
    assert FAMILY.fitted(checkpoint).scale == kind.scale
    lr = torch.rand(3, 24, 32)
    wanted = slow.swinir(Weights(state), lr.double().numpy(), kind.heads)
    assert_close(run(FAMILY.network(checkpoint), lr), wanted, 2e-5)


def test_batch_items_do_not_mix() -> None:
    network = SwinNetwork(SwinConfig(24, (2,), 2, 48, features=8)).eval()
    lr = torch.rand(3, 3, 16, 24)
    with torch.no_grad():
        together, alone = network(lr), torch.cat([network(item[None]) for item in lr])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [SMALL["classical x3"], SMALL["real L"]], ids=["classical x3", "real L"])
def test_bundle(tmp_path: Path, kind: SwinKind, rng: np.random.Generator) -> None:
    """One tile through the bundle is the network; every attention is one node."""
    write(tmp_path / "w.pth", kind)
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pth", tile=32, overlap=16, batches=(1, 2))
    assert (manifest.family, manifest.tile.scale) == ("swinir", kind.scale)
    for batch in ("1", "2"):
        assert manifest.parity[batch].operators["Attention"] == kind.groups * kind.depth
    network = FAMILY.network(load_checkpoint(tmp_path / "w.pth"))
    frame = rng.uniform(0, 1, (32, 32, 3)).astype(np.float32)
    with zoomrt.load(tmp_path / "b") as upscaler:
        got = upscaler(frame)
        assert upscaler(frame[:20].repeat(3, axis=1)).shape == (20 * kind.scale, 96 * kind.scale, 3)
    wanted = run(network, torch.from_numpy(frame).permute(2, 0, 1)).clip(0, 1).transpose(1, 2, 0)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


TABLE = "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({TABLE: (169, 2)}, r"variant.*windows of 7 pixels.*windows of 8: files for JPEG"),
        ({"conv_first.weight": (24, 1, 3, 3)}, r"variant.*1 channel \(conv_first\.weight\).*3 channels"),
        ({"conv_first.weight": ()}, r"not a checkpoint of swinir.*conv_first\.weight of shape \(\).*SwinIR/releases"),
        ({TABLE: None}, r"not a checkpoint of swinir.*got keys like conv_first.* under params.*need.*bias_table"),
        (dict.fromkeys(f"conv_{n}.{k}" for n in ("up1", "up2") for k in ("weight", "bias")), r"variant.*got x1"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, change: dict[str, tuple[int, ...] | None], said: str) -> None:
    shapes = {key: shape for key, shape in (swinir(SMALL["real L"]) | change).items() if shape is not None}
    torch.save({"params": random_state(shapes)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=said):
        FAMILY.fitted(load_checkpoint(tmp_path / "w.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [(CLASSICAL, 11_900_199), (LIGHT, 929_628), (REAL_M, 11_715_559), (REAL_L, 28_013_059)],
    ids=["classical", "lightweight", "real M", "real L"],
)
def test_engine_at_true_size(tmp_path: Path, kind: SwinKind, parameters: int) -> None:
    write(tmp_path / "w.pth", kind)
    attentions = kind.groups * kind.depth
    assert_engine_at_true_size(tmp_path, tmp_path / "w.pth", parameters, tile=64, attentions=attentions)
