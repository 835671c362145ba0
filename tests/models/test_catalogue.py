"""The table of families against the networks: every family has a row, every figure is what a network of that size
has."""

from __future__ import annotations

from collections.abc import Callable

import published_files
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoomrt.cli.options.listing import models_table
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES
from zoomrt.models.family import Family, Variant
from zoomrt.models.networks import jit_sr, resshift
from zoomrt.models.networks.blocks.jit import Jit, JitConfig
from zoomrt.models.networks.blocks.sr3_unet import Sr3Config, Sr3UNet
from zoomrt.models.networks.blocks.swin_unet import SwinUNet, SwinUNetConfig
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder, VqConfig
from zoomrt.models.networks.edsr import EdsrConfig, EdsrNetwork
from zoomrt.models.networks.real_esrgan import DenseConfig, DenseNetwork
from zoomrt.models.networks.real_esrgan_compact import CompactConfig, CompactNetwork
from zoomrt.models.networks.swinir import SwinConfig, SwinNetwork

Figures = tuple[float, float]
"""Parameters, and billions of multiply-adds."""


def work(function: Callable[..., object], *shapes: tuple[int, ...]) -> float:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(*(torch.empty(shape) for shape in shapes))
    return counter.get_total_flops() / 2e9


def size(*networks: nn.Module) -> int:
    return sum({id(p): p.numel() for network in networks for p in network.parameters()}.values())


def one_tile(make: Callable[[], nn.Module], side: int = 128) -> Figures:
    with torch.device("meta"):
        network = make()
    return size(network), work(network, (1, 3, side, side))


def shipped() -> Figures:
    family = FAMILIES.named("edge")
    assert family.embedded_weights is not None
    return one_tile(lambda: family.network(load_checkpoint(family.embedded_weights)).to("meta"))


def stable_diffusion() -> Figures:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(published_files.unet_config(published_files.TRUE))
        vae = AutoencoderKL.from_config(published_files.vae_config(published_files.TRUE))
    step = work(lambda z, prompt: unet(z, torch.zeros(()), prompt), (1, 4, 64, 64), (1, 77, 1024))
    both = work(vae.encoder, (1, 3, 512, 512)) + work(vae.decoder, (1, 4, 64, 64))
    return size(unet, vae), step + both


def latent_chain(steps: int) -> Figures:
    with torch.device("meta"):
        vae, unet = VqAutoencoder(VqConfig()), SwinUNet(SwinUNetConfig())
        encode, step, decode = resshift.Encode(vae), resshift.Step(unet), resshift.Decode(vae)
    lr = (1, 3, 128, 128)
    once = work(encode, lr) + work(decode, lr)
    return size(encode, step, decode), once + steps * work(step, lr, (1, 160), lr)


def jit(config: JitConfig, steps: int) -> Figures:
    with torch.device("meta"):
        network = Jit(config)
        encode, step = jit_sr.Encode(network, "token", guided=False), jit_sr.Step(network, "token", 1.0)
    call = work(step, (1, 3, 256, 256), (1, 256), (1, 256, config.width), (1, config.width))
    evaluations = len(jit_sr.sampling_of(steps, "heun", 4)[0].evaluations)
    return size(network), 4 * (evaluations * call + work(encode, (1, 3, 64, 64)))


def two_stages() -> Figures:
    with torch.device("meta"):
        network = Sr3UNet(Sr3Config())
    picture = (1, 3, 256, 256)
    return size(network), 4 * FAMILIES.named("skipdiff").steps * work(network, picture, picture, (1, 64))


def swinir(scale: int, **config: object) -> Callable[[], Figures]:
    """One tile, of the fewest windows that give 512 pixels."""
    return lambda: one_tile(lambda: SwinNetwork(SwinConfig(scale=scale, **config)), -(-512 // (8 * scale)) * 8)


def edsr(scale: int, **config: int) -> Callable[[], Figures]:
    return lambda: one_tile(lambda: EdsrNetwork(EdsrConfig(scale=scale, **config)), -(-512 // scale))


SWINIR_SMALL = {"width": 60, "depths": (6,) * 4, "mlp": 120, "tail": "pixelshuffledirect", "features": 60}
SWINIR_LARGE = {"width": 240, "depths": (6,) * 9, "heads": 8, "mlp": 480, "long_end": True}

COUNTED: dict[tuple[str, str, int], Callable[[], Figures]] = {
    ("edge", "", 4): shipped,
    ("osediff", "", 4): stable_diffusion,
    ("hypir", "", 4): stable_diffusion,
    ("adcsr", "", 4): lambda: (456_073_683, 549.5),  # Guaishou74851/AdcSR, where both were counted
    ("sinsr", "v1, v2", 4): lambda: latent_chain(1),
    ("resshift", "s15 v1, v2", 4): lambda: latent_chain(15),
    ("resshift", "s4 v3, bicsr", 4): lambda: latent_chain(4),
    ("jit-sr", "B/16", 4): lambda: jit(JitConfig(), 50),
    ("jit-sr", "B/16 v2", 4): lambda: jit(JitConfig(width=1024, depth=16, heads=16, hidden=2730), 100),
    ("jit-sr", "L/16", 4): lambda: jit(JitConfig(width=1024, depth=24, heads=16, hidden=2730), 100),
    ("skipdiff", "no step skipped", 4): two_stages,
    ("real-esrgan", "x4plus", 4): lambda: one_tile(lambda: DenseNetwork(DenseConfig())),
    ("real-esrgan", "x2plus", 2): lambda: one_tile(lambda: DenseNetwork(DenseConfig(unshuffle=2)), 256),
    ("real-esrgan", "x4plus_anime_6B", 4): lambda: one_tile(lambda: DenseNetwork(DenseConfig(blocks=6))),
    ("real-esrgan-compact", "animevideov3", 4): lambda: one_tile(lambda: CompactNetwork(CompactConfig(middle=16))),
    ("real-esrgan-compact", "general-x4v3", 4): lambda: one_tile(lambda: CompactNetwork(CompactConfig())),
    **{("swinir", "classical M", scale): swinir(scale, tail="pixelshuffle") for scale in (2, 3, 4, 8)},
    **{("swinir", "lightweight S", scale): swinir(scale, **SWINIR_SMALL) for scale in (2, 3, 4)},
    **{("swinir", "real M", scale): swinir(scale) for scale in (2, 4)},
    ("swinir", "real L", 4): swinir(4, **SWINIR_LARGE),
    **{("edsr", "baseline", scale): edsr(scale) for scale in (2, 3, 4)},
    **{("edsr", "full", scale): edsr(scale, width=256, blocks=32) for scale in (2, 3, 4)},
}


ROWS = [(family, variant) for family in FAMILIES.records() for variant in family.variants]


@pytest.mark.parametrize(("family", "variant"), ROWS, ids=lambda one: one.name)
def test_figures(family: Family, variant: Variant) -> None:
    parameters, gmac = COUNTED[family.name, variant.name, variant.scale]()
    assert variant.parameters == parameters
    assert variant.gmac == pytest.approx(gmac, rel=0.02)


def test_every_count_has_a_row() -> None:
    assert set(COUNTED) == {(family.name, variant.name, variant.scale) for family, variant in ROWS}


@pytest.mark.parametrize("name", FAMILIES.names())
def test_facts(name: str) -> None:
    """A family's own facts are those of its first row; a licence that forbids something forbids it in both."""
    family = FAMILIES.named(name)
    assert (family.variants[0].scale, family.variants[0].steps) == (family.scale, family.steps)
    for row in family.variants:
        assert ("non-commercial" in row.licence) == ("non-commercial" in family.weights_licence)
        assert (row.status == "inside the package") == (family.embedded_weights is not None)
        assert (row.status == "no public weights") == ("no weights are published" in family.weights_licence)


def test_table_is_aligned() -> None:
    lines = models_table()
    assert len(lines) == 1 + len(ROWS)
    column = lines[0].index("licence")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)
