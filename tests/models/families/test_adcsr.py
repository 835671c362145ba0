"""AdcSR: two files with duplicated keys, the whole network against the slow reference, a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import slow_reference as slow
from colour_steps import STEPS
from family_checks import bundle_of
from published_files import SMALL, TRUE, adcsr_layout, parameters_of

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.adcsr import FAMILY
from zoomrt.models.networks.adcsr import AdcsrNetwork, groups_of
from zoomrt.models.networks.blocks.stable_diffusion import unet_config_of


class Files:
    """net_params_200.pkl and halfDecoder.ckpt, written once."""

    def __init__(self, root: Path) -> None:
        layout = adcsr_layout(SMALL)
        self.params, self.half = layout.net_params(), layout.half_decoder()
        self.weights, self.decoder = root / "net_params_200.pkl", root / "halfDecoder.ckpt"
        torch.save(self.params, self.weights)
        torch.save(self.half, self.decoder)
        self.options = {"decoder": self.decoder}

    def part(self, prefix: str) -> slow.Weights:
        state = {key.removeprefix(prefix): t for key, t in self.params.items() if key.startswith(prefix)}
        return slow.Weights(state)

    def reference(self, lr: torch.Tensor) -> np.ndarray:
        middle = slow.Weights({f"mid_block.{k}": t for k, t in self.part("module.body.2.").state.items()})
        tail = {k.removeprefix("decoder."): t for k, t in self.half["state_dict"].items()}
        heads = [width // 48 for width in SMALL.adcsr_widths]
        unet = self.part("module.body.1.")
        return slow.adcsr(unet, middle, slow.Weights(tail), lr.double().numpy(), heads.__getitem__)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("adcsr"))


def test_layout_at_true_size() -> None:
    """Guaishou74851/AdcSR: 1076 keys, 552 distinct, on the meta device."""
    layout = adcsr_layout(TRUE)
    middle = {k: s for k, s in layout.decoder.items() if k.startswith("mid_block.")}
    copies = layout._copies()
    assert (len(layout.unet), len(middle), len(copies)) == (526, 26, 1076 - 552)
    assert len(layout.unet) + len(middle) == 552
    assert not any(key.startswith("conv_in") for key in copies)
    assert parameters_of(layout.unet) + parameters_of(middle) == 446_321_744
    assert parameters_of(layout.decoder) == 12_387_459
    tail = {k: s for k, s in layout.decoder.items() if k.split(".")[0] in ("up_blocks", "conv_norm_out", "conv_out")}
    assert parameters_of(tail) == 9_751_939
    examples = {
        "conv_in.weight": (240, 12, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight": (240, 240),
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.weight": (1920, 240),
        "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2.weight": (240, 960),
        "conv_out.weight": (256, 240, 3, 3),
    }
    assert {key: layout.unet[key] for key in examples} == examples


def test_network_at_true_size() -> None:
    layout = adcsr_layout(TRUE)
    with torch.device("meta"):
        tensors = {key: torch.empty(shape) for key, shape in layout.unet.items()}
        network = AdcsrNetwork(unet_config_of(tensors, 48), (64, 128, 256, 256), 2)
    assert sum(p.numel() for p in network.parameters()) == 456_073_683
    attentions = [m for m in network.unet.modules() if hasattr(m, "to_q")]
    assert {(m.heads, m.to_q.out_features) for m in attentions} == {(5, 240), (10, 480), (20, 960)}
    norms = [m for m in network.unet.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert {m.num_channels for m in norms if m.num_groups == 24} == {240, 720}
    assert {m.num_groups for m in norms} == {24, 32}
    with torch.device("meta"):
        assert network(torch.empty(1, 3, 128, 128)).shape == (1, 3, 512, 512)


@pytest.mark.parametrize(("channels", "groups"), [(240, 24), (720, 24), (480, 32), (960, 32), (1920, 32), (1440, 32)])
def test_groups_of_the_sheet(channels: int, groups: int) -> None:
    assert groups_of(channels) == groups


def test_whole_network_against_the_slow_reference(files: Files) -> None:
    network = FAMILY.network(load_checkpoint(files.weights), files.options)
    lr = torch.rand(1, 3, 32, 16) * 2 - 1
    with torch.no_grad():
        got = network(lr)[0].double().numpy()
    wanted = files.reference(lr[0])
    assert got.shape == wanted.shape == (3, 128, 64)
    assert np.abs(got - wanted).max() <= 3e-5 * np.abs(wanted).max()


def test_bundle(tmp_path: Path, files: Files) -> None:
    manifest = bundle_of(tmp_path / "b", files.weights, files.options, tile=16, overlap=8)
    assert (manifest.family, manifest.tile.colour, manifest.tile.scale) == ("adcsr", STEPS["adcsr"], 4)
    assert set(manifest.weights.options) == {"decoder"}


def test_recognised_by_keys(files: Files) -> None:
    assert family_of(load_checkpoint(files.weights)) is FAMILY


def test_middle_block_is_not_the_decoder_files(tmp_path: Path, files: Files) -> None:
    """The mid block in halfDecoder.ckpt is the one before fine-tuning: poison there must not be seen."""
    state = {
        k: t * float("nan") if "mid_block" in k or "conv_in" in k else t for k, t in files.half["state_dict"].items()
    }
    torch.save({**files.half, "state_dict": state}, tmp_path / "d.ckpt")
    FAMILY.network(load_checkpoint(files.weights), {"decoder": tmp_path / "d.ckpt"})


def test_copies_are_ignored(tmp_path: Path, files: Files) -> None:
    params = {k: t * float("nan") if ".body.1.body." in k else t for k, t in files.params.items()}
    torch.save(params, tmp_path / "n.pkl")
    FAMILY.network(load_checkpoint(tmp_path / "n.pkl"), files.options)


def test_without_the_decoder(files: Files) -> None:
    with pytest.raises(UsageError, match=r"adcsr needs --decoder.*halfDecoder\.ckpt"):
        FAMILY.network(load_checkpoint(files.weights), {})


def test_swapped_files(files: Files) -> None:
    with pytest.raises(CheckpointError, match=r"not a checkpoint of adcsr.*net_params_200\.pkl"):
        FAMILY.network(load_checkpoint(files.decoder), files.options)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of AdcSR's decoder.*halfDecoder\.ckpt"):
        FAMILY.network(load_checkpoint(files.weights), {"decoder": files.weights})


@pytest.mark.parametrize("key", ["conv_out.bias", "down_blocks.1.resnets.0.conv1.weight"])
def test_missing_keys_are_named(tmp_path: Path, files: Files, key: str) -> None:
    torch.save({k: t for k, t in files.params.items() if k != f"module.body.1.{key}"}, tmp_path / "n.pkl")
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        FAMILY.network(load_checkpoint(tmp_path / "n.pkl"), files.options)
