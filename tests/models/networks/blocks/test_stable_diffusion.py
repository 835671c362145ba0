"""The base model from files: folders and single files, old and new names, safe reading, and bases that do not fit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from published_files import (
    SMALL,
    TRUE,
    parameters_of,
    random_state,
    single_file,
    unet_shapes,
    vae_shapes,
    with_old_attention_names,
    write_base,
    write_scheduler,
)

from zoomrt.errors import CheckpointError
from zoomrt.models.networks.blocks.stable_diffusion import read_base, unet_config_of, unet_from, vae_config_of, vae_from

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def unet() -> State:
    return random_state(unet_shapes(SMALL))


@pytest.fixture(scope="module")
def vae() -> State:
    return random_state(vae_shapes(SMALL))


def assert_same(got: torch.nn.Module, wanted: State) -> None:
    state = got.state_dict()
    assert state.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(state[key], tensor, atol=0, rtol=0)


def test_counts_at_true_size() -> None:
    """cswry/OSEDiff, on the meta device."""
    unet, vae = unet_shapes(TRUE), vae_shapes(TRUE)
    assert (len(unet), parameters_of(unet)) == (686, 865_910_724)
    assert (len(vae), parameters_of(vae)) == (248, 83_653_863)
    parts = {"encoder": 34_163_592, "decoder": 49_490_179, "quant_conv": 72, "post_quant_conv": 20}
    assert {p: parameters_of({k: s for k, s in vae.items() if k.split(".")[0] == p}) for p in parts} == parts


def test_config_is_read_off_the_weights_at_true_size() -> None:
    """What a single file cannot say must come out as the sheet has it."""
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in {**unet_shapes(TRUE)}.items()}
        vae = {key: torch.empty(shape) for key, shape in vae_shapes(TRUE).items()}
    config = unet_config_of(tensors)
    assert config["block_out_channels"] == [320, 640, 1280, 1280]
    assert config["attention_head_dim"] == [5, 10, 20, 20]
    assert (config["layers_per_block"], config["cross_attention_dim"], config["use_linear_projection"]) == (
        2,
        1024,
        True,
    )
    assert config["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert vae_config_of(vae)["block_out_channels"] == [128, 256, 512, 512]
    assert vae_config_of(vae)["scaling_factor"] == 0.18215


@pytest.mark.parametrize("binary", [False, True])
def test_folder(tmp_path: Path, unet: State, vae: State, binary: bool) -> None:
    parts = read_base(write_base(tmp_path / "base", SMALL, unet=unet, vae=vae, binary=binary))
    assert_same(unet_from(parts[0]), unet)
    built = vae_from(parts[1])
    assert_same(built, vae)
    assert built.config.scaling_factor == 0.18215
    assert not built.training


def test_old_attention_names(tmp_path: Path, unet: State, vae: State) -> None:
    old = with_old_attention_names(vae)
    assert any(".proj_attn." in key for key in old)
    assert not any(".to_q." in key for key in old)
    parts = read_base(write_base(tmp_path / "base", SMALL, unet=unet, vae=old))
    assert_same(vae_from(parts[1]), vae)


@pytest.mark.parametrize("wrapped", [False, True])
def test_single_file(tmp_path: Path, unet: State, vae: State, wrapped: bool) -> None:
    content = single_file(SMALL, unet, vae)
    torch.save({"state_dict": content, "epoch": 1} if wrapped else content, tmp_path / "v2.ckpt")
    parts = read_base(tmp_path / "v2.ckpt")
    built = unet_from(parts[0])
    assert_same(built, unet)
    assert list(built.config.attention_head_dim) == list(SMALL.heads)
    assert_same(vae_from(parts[1]), vae)


def test_single_file_names_at_true_size() -> None:
    """Two levels hide mistakes in numbering that four show; checked by names and shapes alone."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    with torch.device("meta"):
        unet = {key: torch.empty(shape) for key, shape in unet_shapes(TRUE).items()}
        vae = {key: torch.empty(shape) for key, shape in vae_shapes(TRUE).items()}
    content = single_file(TRUE, unet, vae)
    # three names of the published v2-1_512-ema-pruned file, so that writer and reader cannot agree on a wrong grammar
    assert content["model.diffusion_model.output_blocks.5.2.conv.weight"].shape == (1280, 1280, 3, 3)
    assert content["model.diffusion_model.input_blocks.4.0.skip_connection.weight"].shape == (640, 320, 1, 1)
    assert content["first_stage_model.decoder.up.3.upsample.conv.weight"].shape == (512, 512, 3, 3)
    got = convert_ldm_unet_checkpoint(content, {"layers_per_block": 2})
    assert {k: tuple(t.shape) for k, t in got.items()} == unet_shapes(TRUE)
    got = convert_ldm_vae_checkpoint(content, {"down_block_types": [""] * 4, "up_block_types": [""] * 4})
    assert got.keys() == vae.keys()


def test_velocity_prediction_is_refused(tmp_path: Path, unet: State, vae: State) -> None:
    base = write_base(tmp_path / "base", SMALL, unet=unet, vae=vae)
    write_scheduler(base, "v_prediction")
    with pytest.raises(CheckpointError, match=r"predicts 'v_prediction'.*stable-diffusion-2-1-base"):
        read_base(base)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: (b / "unet" / "config.json").unlink(), r"unet/config\.json"),
        (lambda b: (b / "unet" / "config.json").write_text("{"), r"unet/config\.json"),
        (lambda b: (b / "vae" / "config.json").write_text("[]"), r"vae/config\.json"),
        (lambda b: (b / "vae" / "config.json").write_text("[" * 100_000), r"vae/config\.json"),
        (lambda b: (b / "vae" / "config.json").write_text(" " * 2_000_000), r"at most 1048576 bytes"),
        (lambda b: (b / "vae" / "diffusion_pytorch_model.safetensors").unlink(), r"no weights in vae"),
        (lambda b: (b / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>"), r"damaged"),
        (lambda b: (b / "scheduler" / "scheduler_config.json").write_text("null"), r"scheduler"),
    ],
)
def test_damaged_folder(tmp_path: Path, unet: State, vae: State, damage, said: str) -> None:
    base = write_base(tmp_path / "base", SMALL, unet=unet, vae=vae)
    damage(base)
    with pytest.raises(CheckpointError, match=said):
        read_base(base)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [32, 64]},
        {"down_block_types": ["x"]},
        {"norm_num_groups": 0},
        {"layers_per_block": 10**9},  # hours, were it taken at its word
        {"layers_per_block": [10**9, 1]},
        {"transformer_layers_per_block": 10**9},
    ],
)
def test_config_that_does_not_fit(tmp_path: Path, unet: State, vae: State, change: dict) -> None:
    base = write_base(tmp_path / "base", SMALL, unet=unet, vae=vae)
    config = base / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(CheckpointError):
        unet_from(read_base(base)[0])


@pytest.mark.parametrize("content", [{"a": torch.zeros(1)}, {"model.diffusion_model.x": torch.zeros(1)}, {"vae": {}}])
def test_foreign_single_file(tmp_path: Path, content: dict) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="as base model"):
        read_base(tmp_path / "x.ckpt")


def test_no_such_base(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"as base model: got nothing there.*a diffusers folder"):
        read_base(tmp_path / "gone")


@pytest.mark.parametrize("gone", ["unet", "vae"])
def test_no_such_subfolder(tmp_path: Path, unet: State, vae: State, gone: str) -> None:
    base = write_base(tmp_path / "base", SMALL, unet=unet, vae=vae)
    shutil.rmtree(base / gone)
    with pytest.raises(CheckpointError, match=rf"as base model: got no folder {gone}/,"):
        read_base(base)


def test_average_in_a_single_file(tmp_path: Path, unet: State, vae: State) -> None:
    """A training run's file has both, the average under keys without full stops (ldm/modules/ema.py, LitEma)."""
    content = single_file(SMALL, unet, vae)
    noisy = {key: torch.randn_like(t) if "diffusion_model" in key else t for key, t in content.items()}
    average = {
        "model_ema." + key.removeprefix("model.").replace(".", ""): tensor
        for key, tensor in content.items()
        if key.startswith("model.diffusion_model.")
    }
    buffers = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3, dtype=torch.int32)}
    torch.save({"state_dict": {**noisy, **average, **buffers}}, tmp_path / "v2.ckpt")
    assert_same(unet_from(read_base(tmp_path / "v2.ckpt")[0]), unet)


def test_pickles_are_not_run(tmp_path: Path, unet: State, vae: State) -> None:
    base = write_base(tmp_path / "base", SMALL, unet=unet, vae=vae, binary=True)
    torch.save({"a": os.system}, base / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="were not run"):
        read_base(base)
