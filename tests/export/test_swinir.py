"""SwinIR: four kinds told apart by keys and shapes, against the slow reference with its own masks, as bundles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import slow_baselines as slow
import torch
from family_checks import assert_close, assert_engine_at_true_size, bundle_of, parameters_and_gmacs, run
from published_files import Shapes, State, random_state
from slow_reference import Weights

import zoomrt
from zoomrt.errors import CheckpointError
from zoomrt.export.checkpoint import load_checkpoint
from zoomrt.export.families import family_of
from zoomrt.export.families.swinir import FAMILY, SwinConfig, SwinNetwork, config_of


@dataclass(frozen=True)
class Kind:
    """One published kind, or the same scaled down."""

    width: int
    groups: int
    depth: int
    heads: int
    tail: str
    scale: int = 4
    long_end: bool = False
    features: int = 64
    wrapper: str = "params"


CLASSICAL = Kind(180, 6, 6, 6, "pixelshuffle")
LIGHT = Kind(60, 4, 6, 6, "pixelshuffledirect")
REAL_M = Kind(180, 6, 6, 6, "nearest+conv", wrapper="params_ema")
REAL_L = Kind(240, 9, 6, 8, "nearest+conv", long_end=True, wrapper="params_ema")


def layout(kind: Kind) -> Shapes:
    """Keys and shapes as published (baselines.md section 2), buffers included, written by hand."""
    shapes: Shapes = {}
    wide, features = kind.width, kind.features

    def convolution(name: str, out: int, width_in: int, side: int = 3) -> None:
        shapes.update({f"{name}.weight": (out, width_in, side, side), f"{name}.bias": (out,)})

    def linear(name: str, out: int, width_in: int) -> None:
        shapes.update({f"{name}.weight": (out, width_in), f"{name}.bias": (out,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (wide,), f"{name}.bias": (wide,)})

    def end(name: str) -> None:
        if kind.long_end:
            convolution(f"{name}.0", wide // 4, wide)
            convolution(f"{name}.2", wide // 4, wide // 4, 1)
            convolution(f"{name}.4", wide, wide // 4)
        else:
            convolution(name, wide, wide)

    convolution("conv_first", wide, 3)
    norm("patch_embed.norm")
    for i in range(kind.groups):
        for j in range(kind.depth):
            block = f"layers.{i}.residual_group.blocks.{j}"
            if j % 2:
                shapes[f"{block}.attn_mask"] = (64, 64, 64)
            norm(f"{block}.norm1")
            shapes[f"{block}.attn.relative_position_bias_table"] = (225, kind.heads)
            shapes[f"{block}.attn.relative_position_index"] = (64, 64)
            linear(f"{block}.attn.qkv", 3 * wide, wide)
            linear(f"{block}.attn.proj", wide, wide)
            norm(f"{block}.norm2")
            linear(f"{block}.mlp.fc1", 2 * wide, wide)
            linear(f"{block}.mlp.fc2", wide, 2 * wide)
        end(f"layers.{i}.conv")
    norm("norm")
    end("conv_after_body")
    if kind.tail == "pixelshuffledirect":
        convolution("upsample.0", 3 * kind.scale**2, wide)
        return shapes
    convolution("conv_before_upsample.0", features, wide)
    if kind.tail == "nearest+conv":
        for name in ("conv_up1", "conv_up2", "conv_hr"):
            convolution(name, features, features)
    else:
        for k, step in enumerate({2: [2], 3: [3], 4: [2, 2]}[kind.scale]):
            convolution(f"upsample.{2 * k}", step**2 * features, features)
    convolution("conv_last", 3, features)
    return shapes


def write(path: Path, kind: Kind) -> State:
    """Bias tables are large enough to be seen; the buffers, which must be passed over, are poison."""
    state = random_state(layout(kind))
    for key, tensor in state.items():
        if key.endswith("bias_table"):
            state[key] = torch.randn_like(tensor)
        elif key.endswith(("attn_mask", "position_index")):
            state[key] = tensor * float("nan")
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
    kind: Kind, parameters: int, tensors: int | None, gmacs: float | None, side: int
) -> None:
    shapes = layout(kind)
    assert tensors is None or len(shapes) == tensors
    with torch.device("meta"):
        network = SwinNetwork(config_of({key: torch.empty(shape) for key, shape in shapes.items()}))
        counted, work = parameters_and_gmacs(network, 3, side)
    kept = {k: s for k, s in shapes.items() if not k.endswith(("attn_mask", "position_index"))}
    assert {k: tuple(t.shape) for k, t in network.state_dict().items()} == kept
    assert counted == parameters
    assert gmacs is None or work == pytest.approx(gmacs, rel=0.02)


SMALL = {
    "classical x4": Kind(24, 2, 2, 2, "pixelshuffle", features=8),
    "classical x3": Kind(24, 1, 2, 3, "pixelshuffle", scale=3, features=8),
    "lightweight x2": Kind(24, 1, 4, 2, "pixelshuffledirect", scale=2),
    "real L": Kind(24, 1, 2, 2, "nearest+conv", long_end=True, features=8, wrapper="params_ema"),
}


@pytest.mark.parametrize("kind", SMALL.values(), ids=SMALL)
def test_network_against_the_slow_reference(tmp_path: Path, kind: Kind) -> None:
    state = write(tmp_path / "w.pth", kind)
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert family_of(checkpoint) is FAMILY
    assert FAMILY.facts_of(checkpoint).scale == kind.scale
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
def test_bundle(tmp_path: Path, kind: Kind, rng: np.random.Generator) -> None:
    """One tile through the bundle is the network; every attention is one node."""
    write(tmp_path / "w.pth", kind)
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pth", tile=32, overlap=16, batches=(1, 2))
    assert (manifest.family, manifest.tile.scale) == ("swinir", kind.scale)
    for batch in ("1", "2"):
        assert manifest.parity[batch]["operators"]["Attention"] == kind.groups * kind.depth
    network = FAMILY.network(load_checkpoint(tmp_path / "w.pth"))
    frame = rng.uniform(0, 1, (32, 32, 3)).astype(np.float32)
    with zoomrt.load(tmp_path / "b") as upscaler:
        got = upscaler(frame)
        assert upscaler(frame[:20].repeat(3, axis=1)).shape == (20 * kind.scale, 96 * kind.scale, 3)
    wanted = run(network, torch.from_numpy(frame).permute(2, 0, 1)).clip(0, 1).transpose(1, 2, 0)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"layers.0.residual_group.blocks.0.attn.relative_position_bias_table": (169, 2)},  # windows of 7
        {"conv_first.weight": ()},
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, change: Shapes) -> None:
    torch.save({"params": random_state(layout(SMALL["real L"]) | change)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of swinir.*bias_table.*SwinIR/releases"):
        FAMILY.facts_of(load_checkpoint(tmp_path / "w.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [(CLASSICAL, 11_900_199), (LIGHT, 929_628), (REAL_M, 11_715_559), (REAL_L, 28_013_059)],
    ids=["classical", "lightweight", "real M", "real L"],
)
def test_engine_at_true_size(tmp_path: Path, kind: Kind, parameters: int) -> None:
    write(tmp_path / "w.pth", kind)
    attentions = kind.groups * kind.depth
    assert_engine_at_true_size(tmp_path, tmp_path / "w.pth", parameters, tile=64, attentions=attentions)
