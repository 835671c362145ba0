"""HYPIR: the 514-key layout, the whole inference against the slow reference, strength, a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import slow_reference as slow
from colour_steps import STEPS
from family_checks import bundle_of
from published_files import (
    SMALL,
    TRUE,
    hypir_shapes,
    parameters_of,
    random_state,
    single_file,
    unet_shapes,
    vae_shapes,
)

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.hypir import FAMILY
from zoomrt.models.options import given


class Files:
    """A single-file base, HYPIR_sd2.pth and a prompt, written once."""

    def __init__(self, root: Path) -> None:
        self.unet, self.vae = random_state(unet_shapes(SMALL)), random_state(vae_shapes(SMALL))
        self.adapters = random_state(hypir_shapes(SMALL), 0.4)
        self.prompt = torch.randn(1, 77, SMALL.text_width)
        self.base, self.weights, self.embedding = root / "v2-1.ckpt", root / "HYPIR_sd2.pth", root / "prompt.pt"
        torch.save({"state_dict": single_file(SMALL, self.unet, self.vae)}, self.base)
        torch.save(self.adapters, self.weights)
        torch.save(self.prompt, self.embedding)
        self.options = {"base": self.base, "prompt_embedding": self.embedding}

    def reference(self, lr: torch.Tensor, used: int) -> np.ndarray:
        noise = slow.Weights(self.unet, slow.adapters_from(self.adapters), 1.0)
        picture = slow.bicubic_x4(lr.double().numpy(), -0.75)
        prompt, vae = self.prompt[0].double().numpy(), slow.Weights(self.vae)
        return slow.one_step(vae, noise, picture, prompt, SMALL.heads.__getitem__, seen=200, used=used)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("hypir"))


def test_layout_at_true_size() -> None:
    """XPixelGroup/HYPIR, on the meta device."""
    shapes = hypir_shapes(TRUE)
    assert (len(shapes), parameters_of(shapes)) == (514, 259_474_432)
    examples = {
        "mid_block.resnets.0.conv1.lora_A.default.weight": (256, 1280, 3, 3),
        "mid_block.resnets.0.conv1.lora_B.default.weight": (1280, 256, 1, 1),
        "conv_out.lora_A.default.weight": (256, 320, 3, 3),
        "conv_out.lora_B.default.weight": (4, 256, 1, 1),
        "up_blocks.3.resnets.0.conv_shortcut.lora_A.default.weight": (256, 960, 1, 1),
    }
    assert {key: shapes[key] for key in examples} == examples


@pytest.mark.parametrize("coeff_t", [None, 50])
def test_whole_inference_against_the_slow_reference(files: Files, coeff_t: int | None) -> None:
    options = given(base=files.base, prompt_embedding=files.embedding, coeff_t=coeff_t)
    network = FAMILY.network(load_checkpoint(files.weights), options)
    lr = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        got = network(lr)[0].double().numpy()
    wanted = files.reference(lr[0], coeff_t or 200)
    assert got.shape == wanted.shape == (3, 64, 64)
    assert np.abs(got - wanted).max() <= 3e-5 * np.abs(wanted).max()


def test_bundle(tmp_path: Path, files: Files) -> None:
    manifest = bundle_of(tmp_path / "b", files.weights, files.options, tile=16, overlap=8)
    assert (manifest.family, manifest.tile.colour) == ("hypir", STEPS["hypir"])
    assert any("non-commercial" in warning for warning in manifest.warnings)


def test_recognised_by_keys(files: Files) -> None:
    assert family_of(load_checkpoint(files.weights)) is FAMILY


def test_strength_outside_the_schedule(files: Files) -> None:
    with pytest.raises(UsageError, match="1000"):
        FAMILY.network(load_checkpoint(files.weights), {"base": files.base, "coeff_t": 1000})


def test_without_base(files: Files) -> None:
    with pytest.raises(UsageError, match="hypir needs --base"):
        FAMILY.network(load_checkpoint(files.weights), {"prompt_embedding": files.embedding})


def test_single_file_base_has_no_text_encoder(files: Files) -> None:
    with pytest.raises(UsageError, match="--prompt-embedding"):
        FAMILY.network(load_checkpoint(files.weights), {"base": files.base})


def test_other_files_are_refused(tmp_path: Path, files: Files) -> None:
    torch.save({**files.adapters, "discriminator.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of hypir.*discriminator\.weight"):
        FAMILY.network(load_checkpoint(tmp_path / "x.pth"), files.options)


@pytest.mark.parametrize("module", ["mid_block.resnets.0.conv2", "up_blocks.1.attentions.0.proj_out", "conv_out"])
def test_adapters_that_are_missing(tmp_path: Path, files: Files, module: str) -> None:
    """The authors' loader demands exactly the keys of their own model: without one the picture is another."""
    kept = {key: tensor for key, tensor in files.adapters.items() if not key.startswith(f"{module}.lora_")}
    assert len(kept) == len(files.adapters) - 2
    torch.save(kept, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"adapters for.*differing: {module}"):
        FAMILY.network(load_checkpoint(tmp_path / "x.pth"), files.options)
