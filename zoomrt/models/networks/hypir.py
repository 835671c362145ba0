"""HYPIR (the public SD2 weights): Stable Diffusion 2.1-base, one step at t=200, adapters on the UNet.

Facts: github.com/XPixelGroup/HYPIR (arXiv 2507.20590). Stock VAE, no noise, prompt empty by default. `coeff_t` sets how
much is changed; the network always sees t=200.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.family import Family
from zoomrt.models.lora import adapters_of, check_modules, merge
from zoomrt.models.networks.blocks.bicubic import TORCH, Enlarge
from zoomrt.models.networks.blocks.one_step import OneStepLatentSR
from zoomrt.models.networks.blocks.prompt import Prompt, check_prompt, encoded_prompt
from zoomrt.models.networks.blocks.schedule import one_step
from zoomrt.models.networks.blocks.stable_diffusion import read_base, unet_from, vae_from

TIMESTEP = 200
COEFF_T = 200
LORA_SCALE = 1.0  # alpha 256 over rank 256, as the authors' configuration has it
_CONVOLUTIONS = (".conv", ".conv1", ".conv2", ".conv_shortcut", ".conv_out")
_MATRICES = (".to_q", ".to_k", ".to_v", ".to_out.0", ".proj_in", ".proj_out", ".ff.net.0.proj", ".ff.net.2")
_TARGETS = (*_CONVOLUTIONS, *_MATRICES)


def network(
    family: Family,
    checkpoint: Checkpoint,
    *,
    base: Path,
    prompt: str | None = None,
    prompt_embedding: Path | None = None,
    coeff_t: int = COEFF_T,
) -> nn.Module:
    """See `Family.module`. coeff_t : the timestep whose coefficients turn the predicted noise into a picture."""
    tensors = family.layout.tensors(checkpoint)
    if other := [key for key in tensors if ".lora_" not in key]:
        raise family.layout.misfit(checkpoint, f"{other[0]} beside the adapters")
    step = one_step(coeff_t)
    adapters = adapters_of(tensors, checkpoint.path)
    given = Prompt(base, prompt, prompt_embedding)
    check_prompt(given, family.name)
    unet, vae = read_base(base)
    check_modules(adapters, _trained(unet.tensors), checkpoint.path)
    merge(unet.tensors, adapters, LORA_SCALE, checkpoint.path)
    embedding = encoded_prompt(given, int(unet.config["cross_attention_dim"]), family.name)
    return OneStepLatentSR(
        Enlarge(4, TORCH), unet_from(unet), vae_from(vae), timestep=TIMESTEP, step=step, prompt=embedding, clamp=False
    ).eval()


def _trained(unet: Iterable[str]) -> list[str]:
    """The modules of a UNet that have adapters: its convolutions but the first, and the matrices of its attention."""
    modules = [key.removesuffix(".weight") for key in unet if key.endswith(".weight")]
    return [module for module in modules if f".{module}".endswith(_TARGETS)]
