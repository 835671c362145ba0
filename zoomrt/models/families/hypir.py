"""The `hypir` family (the public SD2 weights): Stable Diffusion 2.1-base, one step at t=200, adapters on the UNet.

Facts: hypir.md. Stock VAE, no noise, prompt empty by default. `coeff_t` sets how much is changed; the network always
sees t=200.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from zoomrt.bundle import ColourFacts
from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.family import Family, FamilyFacts, SizeRule, TilingAdvice
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.lora import adapters_of, check_modules, merge
from zoomrt.models.networks.bicubic import TORCH, Enlarge
from zoomrt.models.networks.one_step import OneStepLatentSR
from zoomrt.models.networks.schedule import one_step
from zoomrt.models.networks.stable_diffusion import read_base, unet_from, vae_from
from zoomrt.models.prompt import check_prompt, prompt_embedding
from zoomrt.models.sources import NO_SOURCES, Sources

__all__ = ["FAMILY", "LORA_SCALE"]

TIMESTEP = 200
COEFF_T = 200
LORA_SCALE = 1.0  # alpha 256 over rank 256 (hypir.md section 3)
_CONVOLUTIONS = (".conv", ".conv1", ".conv2", ".conv_shortcut", ".conv_out")
_MATRICES = (".to_q", ".to_k", ".to_v", ".to_out.0", ".proj_in", ".proj_out", ".ff.net.0.proj", ".ff.net.2")
_TARGETS = (*_CONVOLUTIONS, *_MATRICES)


class Hypir(Family):
    facts = FamilyFacts(
        name="hypir",
        scale=4,
        size=SizeRule(minimum=16, multiple_of=16),
        value_range=(-1.0, 1.0),
        steps=1,
        colour=ColourFacts(method="wavelet", clamp="last", reference="torch_bicubic"),
        tiling=TilingAdvice(tile=128, overlap=32, context=8),
        weights_licence="HYPIR: non-commercial use only; Stable Diffusion 2.1-base: CreativeML Open RAIL++-M",
        takes=("base", "prompt", "prompt_embedding", "coeff_t"),
        warnings=("HYPIR's code and weights are for non-commercial use only",),
    )

    layout = Layout(
        model=facts.name,
        namings=(
            Naming(
                ("mid_block.resnets.0.conv1.lora_A.default.weight", "mid_block.resnets.0.conv1.lora_B.default.weight")
            ),
        ),
        published="Use HYPIR_sd2.pth of huggingface.co/lxq007/HYPIR (not the discriminator's file).",
    )

    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> nn.Module:
        tensors = self.layout.tensors(checkpoint)
        if other := [key for key in tensors if ".lora_" not in key]:
            raise self.layout.misfit(checkpoint, f"{other[0]} beside the adapters")
        step = one_step(COEFF_T if sources.coeff_t is None else sources.coeff_t)
        adapters = adapters_of(tensors, checkpoint.path)
        base = sources.required("base", "hypir", "Stable Diffusion 2.1-base, which the file's adapters change")
        check_prompt(sources, "hypir")
        unet, vae = read_base(base)
        check_modules(adapters, _trained(unet.tensors), checkpoint.path)
        merge(unet.tensors, adapters, LORA_SCALE, checkpoint.path)
        prompt = prompt_embedding(sources, int(unet.config["cross_attention_dim"]), "hypir")
        return OneStepLatentSR(
            Enlarge(4, TORCH), unet_from(unet), vae_from(vae), timestep=TIMESTEP, step=step, prompt=prompt, clamp=False
        ).eval()


def _trained(unet: Iterable[str]) -> list[str]:
    """The modules of a UNet that have adapters: its convolutions but the first, and the matrices of its attention."""
    modules = [key.removesuffix(".weight") for key in unet if key.endswith(".weight")]
    return [module for module in modules if f".{module}".endswith(_TARGETS)]


FAMILY = Hypir()
