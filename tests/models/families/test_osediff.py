"""OSEDiff: the published layout and its look-alikes, the whole inference against the slow reference, a bundle."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

import slow_reference as slow
from colour_steps import STEPS
from family_checks import bundle_of
from published_files import (
    SMALL,
    TRUE,
    osediff_layout,
    parameters_of,
    random_state,
    unet_shapes,
    vae_shapes,
    write_base,
)

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.osediff import FAMILY
from zoomrt.models.networks import osediff


class Files:
    """A base, an osediff.pkl and a prompt, written once."""

    def __init__(self, root: Path) -> None:
        self.unet, self.vae = random_state(unet_shapes(SMALL)), random_state(vae_shapes(SMALL))
        self.content = osediff_layout(SMALL).content()
        self.prompt = torch.randn(1, 77, SMALL.text_width)
        self.base = write_base(root / "base", SMALL, unet=self.unet, vae=self.vae)
        self.weights, embedding = root / "osediff.pkl", root / "prompt.pt"
        torch.save(self.content, self.weights)
        torch.save(self.prompt, embedding)
        self.options = {"base": self.base, "prompt_embedding": embedding}

    def reference(self, lr: torch.Tensor) -> np.ndarray:
        tuned = dict(self.unet)
        for kind in ("weight", "bias"):
            tuned[f"conv_in.{kind}"] = self.content["state_dict_unet"][f"conv_in.base_layer.{kind}"]
        scale = 8 / SMALL.osediff_rank  # PEFT's alpha over the rank
        noise = slow.Weights(tuned, slow.adapters_from(self.content["state_dict_unet"]), scale)
        vae = slow.Weights(self.vae, slow.adapters_from(self.content["state_dict_vae"]), scale)
        picture = np.clip(slow.bicubic_x4(lr.double().numpy(), -0.5), -1, 1)
        prompt = self.prompt[0].double().numpy()
        return slow.one_step(vae, noise, picture, prompt, SMALL.heads.__getitem__, seen=999, used=999)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("osediff"))


def test_layout_at_true_size() -> None:
    """cswry/OSEDiff, on the meta device."""
    layout = osediff_layout(TRUE)
    assert [len(part) for part in (layout.encoder, layout.decoder, layout.others, layout.vae)] == [94, 148, 16, 65]
    assert len(set(layout.vae)) == 32
    assert (len(layout.unet_shapes), len(layout.vae_shapes)) == (518, 64)
    assert parameters_of({k: s for k, s in layout.unet_shapes.items() if ".lora_" in k}) == 4_055_712
    assert parameters_of(layout.vae_shapes) == 369_356
    examples = {
        "conv_in.base_layer.weight": (320, 4, 3, 3),
        "conv_in.lora_A.default_encoder.weight": (4, 4, 3, 3),
        "conv_in.lora_B.default_encoder.weight": (320, 4, 1, 1),
        "down_blocks.0.attentions.0.proj_in.lora_A.default_encoder.weight": (4, 320),
        "mid_block.resnets.0.conv1.lora_A.default_others.weight": (4, 1280, 3, 3),
        "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.default_decoder.weight": (4, 1024),
    }
    assert {key: layout.unet_shapes[key] for key in examples} == examples
    assert layout.vae_shapes["quant_conv.lora_A.default_encoder.weight"] == (4, 8, 1, 1)


def test_whole_inference_against_the_slow_reference(files: Files) -> None:
    network = FAMILY.network(load_checkpoint(files.weights), files.options)
    lr = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        got = network(lr)[0].double().numpy()
    wanted = files.reference(lr[0])
    assert got.shape == wanted.shape == (3, 64, 64)
    # FP32 against float64, eps multiplied by 14.6 on its way; 5e-6 was seen
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def built_and_kept(make, name: str, kept: dict[str, nn.Module], part) -> nn.Module:
    """The network is taken apart when its time is folded: a copy stays."""
    kept[name] = make(part)
    return copy.deepcopy(kept[name])


@pytest.mark.parametrize(("rank_unet", "rank_vae"), [(4, 4), (8, 4), (4, 16), (16, 8)])
def test_adapters_count_alpha_over_rank_times(tmp_path: Path, files: Files, rank_unet: int, rank_vae: int) -> None:
    """PEFT multiplies with lora_alpha / r, and the authors leave lora_alpha at its default, 8 (peft.LoraConfig).

    Every adapted weight of both networks against its dense sum in float64.
    """
    alpha = 8
    unet, vae = (osediff_layout(replace(SMALL, osediff_rank=rank)).content() for rank in (rank_unet, rank_vae))
    content = {**unet, "rank_vae": rank_vae, "state_dict_vae": vae["state_dict_vae"]}
    torch.save(content, tmp_path / "osediff.pkl")
    built: dict[str, nn.Module] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("unet_from", "vae_from"):
            patch.setattr(osediff, name, functools.partial(built_and_kept, getattr(osediff, name), name, built))
        FAMILY.network(load_checkpoint(tmp_path / "osediff.pkl"), files.options)
    counted = 0
    for name, rank, base in (("unet", rank_unet, files.unet), ("vae", rank_vae, files.vae)):
        adapters = content[f"state_dict_{name}"]
        got = built[f"{name}_from"].state_dict()
        for key in adapters:
            if ".lora_A." not in key:
                continue
            module = key.partition(".lora_A.")[0]
            down, up = (adapters[key.replace(".lora_A.", side)].double() for side in (".lora_A.", ".lora_B."))
            start = adapters.get(f"{module}.base_layer.weight", base[f"{module}.weight"]).double()
            wanted = start.flatten(1) + alpha / rank * (up.flatten(1) @ down.flatten(1))
            torch.testing.assert_close(got[f"{module}.weight"].double().flatten(1), wanted, rtol=1e-5, atol=1e-6)
            counted += 1
    assert counted == sum(".lora_A." in key for part in ("unet", "vae") for key in content[f"state_dict_{part}"]) > 40


def test_bundle(tmp_path: Path, files: Files) -> None:
    manifest = bundle_of(tmp_path / "b", files.weights, files.options, model="osediff", tile=16, overlap=8)
    assert (manifest.family, manifest.tile.colour, manifest.tile.scale) == ("osediff", STEPS["osediff"], 4)
    operators = manifest.parity["1"].operators
    assert not {"Sin", "Cos", "Gemm"} & operators.keys()
    assert operators["Attention"] == 8 + 2  # UNet: self and cross in four transformers; VAE: encoder and decoder
    assert set(manifest.weights.options) == {"base", "prompt_embedding"}
    assert "RAIL" in manifest.weights.licence


def test_recognised_by_keys(files: Files) -> None:
    assert family_of(load_checkpoint(files.weights)) is FAMILY


def test_merged_layout_needs_no_base(tmp_path: Path, files: Files) -> None:
    """AdcSR's osediff.pkl: whole networks, as if the adapters had been merged already."""
    torch.save({"unet": files.unet, "vae": files.vae}, tmp_path / "osediff.pkl")
    checkpoint = load_checkpoint(tmp_path / "osediff.pkl")
    assert family_of(checkpoint) is FAMILY
    network = FAMILY.network(checkpoint, {"prompt_embedding": files.options["prompt_embedding"]})
    lr = torch.rand(1, 3, 16, 16) * 2 - 1
    vae, noise = slow.Weights(files.vae), slow.Weights(files.unet)
    picture = np.clip(slow.bicubic_x4(lr[0].double().numpy(), -0.5), -1, 1)
    prompt = files.prompt[0].double().numpy()
    wanted = slow.one_step(vae, noise, picture, prompt, SMALL.heads.__getitem__, seen=999, used=999)
    with torch.no_grad():
        got = network(lr)[0].double().numpy()
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_passionsr_is_told_apart(tmp_path: Path) -> None:
    content = {"unet_state_dict": {}, "vae_state_dict": {}, "vae_lora_decoder_modules": []}
    torch.save(content, tmp_path / "osediff.ckpt")
    checkpoint = load_checkpoint(tmp_path / "osediff.ckpt")
    assert family_of(checkpoint) is FAMILY
    with pytest.raises(CheckpointError, match=r"PassionSR.*osediff\.pkl"):
        FAMILY.network(checkpoint, {})


def test_without_base_or_prompt(files: Files) -> None:
    checkpoint = load_checkpoint(files.weights)
    with pytest.raises(UsageError, match="osediff needs --base"):
        FAMILY.network(checkpoint, {"prompt_embedding": files.options["prompt_embedding"]})
    with pytest.raises(UsageError, match="--prompt-embedding"):
        FAMILY.network(checkpoint, {"base": files.base})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(rank_unet=8), r"adapters of rank \[2\] with rank_unet = 8"),
        (lambda c: c["unet_lora_others_modules"].pop(), r"adapters for.*differing: mid_block"),
        (
            lambda c: c["state_dict_vae"].pop("quant_conv.lora_A.default_encoder.weight"),
            r"half an adapter on quant_conv",
        ),
        (
            lambda c: c["state_dict_unet"].update({"conv_in.base_layer.bias": torch.zeros(1)}),
            r"conv_in.base_layer.bias",
        ),
        (lambda c: c["state_dict_unet"].update({"conv_x.base_layer.bias": torch.zeros(1)}), r"conv_x"),
        (lambda c: c.update(state_dict_vae=3), r"an? int under state_dict_vae"),
        (lambda c: c.update(rank_unet=[2]), r"rank_unet = \[2\]"),
        (lambda c: c.update(rank_unet="2"), r"rank_unet = '2'"),
        (lambda c: c.update(vae_lora_encoder_modules=None), r"adapters for 0 modules"),
        (lambda c: c.pop("rank_vae"), r"keys like.*need keys like rank_unet, rank_vae"),
    ],
)
def test_broken_files(tmp_path: Path, files: Files, change, said: str) -> None:
    content = {k: v.copy() if isinstance(v, (dict, list)) else v for k, v in files.content.items()}
    change(content)
    torch.save(content, tmp_path / "osediff.pkl")
    with pytest.raises(CheckpointError, match=said):
        FAMILY.network(load_checkpoint(tmp_path / "osediff.pkl"), files.options)


def test_base_of_another_size(tmp_path: Path, files: Files) -> None:
    other = replace(SMALL, unet_widths=(64, 64))
    base = write_base(tmp_path / "b", other, unet=random_state(unet_shapes(other)), vae=files.vae)
    options = {"base": base, "prompt_embedding": files.options["prompt_embedding"]}
    with pytest.raises(CheckpointError, match="adapter"):
        FAMILY.network(load_checkpoint(files.weights), options)
