"""OSEDiff (NeurIPS 2024): Stable Diffusion 2.1-base, one step at t=999, adapters on UNet and VAE encoder.

Facts: github.com/cswry/OSEDiff. The layouts that go by this name are told apart in `families/osediff.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoomrt.errors import CheckpointError
from zoomrt.files import shown
from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.families.osediff import ADAPTERS, MERGED, PASSIONSR
from zoomrt.models.family import Family
from zoomrt.models.layout import Layout
from zoomrt.models.lora import adapters_of, check_modules, merge
from zoomrt.models.networks.blocks.bicubic import PIL, Enlarge
from zoomrt.models.networks.blocks.one_step import OneStepLatentSR
from zoomrt.models.networks.blocks.prompt import Prompt, check_prompt, encoded_prompt
from zoomrt.models.networks.blocks.schedule import one_step
from zoomrt.models.networks.blocks.stable_diffusion import (
    Component,
    read_base,
    unet_config_of,
    unet_from,
    vae_config_of,
    vae_from,
)
from zoomrt.models.state_dicts import StateDict, find_state_dict

TIMESTEP = 999
LORA_ALPHA = 8
"""PEFT's default, which the authors leave (LoraConfig.lora_alpha). An adapter counts alpha / rank times."""

_INNER = {
    "state_dict_unet": ("conv_in.base_layer.weight",),
    "state_dict_vae": ("quant_conv.lora_A.default_encoder.weight",),
    "unet": ("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    "vae": ("encoder.conv_in.weight", "decoder.conv_in.weight"),
}
"""Keys that tell each state dict in the files."""
_MODULE_LISTS = {
    "unet": ("unet_lora_encoder_modules", "unet_lora_decoder_modules", "unet_lora_others_modules"),
    "vae": ("vae_lora_encoder_modules",),
}


def network(
    family: Family,
    checkpoint: Checkpoint,
    *,
    base: Path | None = None,
    prompt: str | None = None,
    prompt_embedding: Path | None = None,
) -> nn.Module:
    """See `Family.module`. base : for a file of adapters only."""
    given = Prompt(base, prompt, prompt_embedding)
    layout = family.layout
    if state := ADAPTERS.find(checkpoint):
        if base is None:
            raise family.lacks("base", "Stable Diffusion 2.1-base, which the file's adapters change")
        check_prompt(given, family.name)
        unet, vae = read_base(base)
        for part, name in ((unet, "unet"), (vae, "vae")):
            _adapt(part, name, state, layout, checkpoint)
    elif state := MERGED.find(checkpoint):
        tensors = [checkpoint.tensors(_inner(state, name, layout, checkpoint)) for name in ("unet", "vae")]
        with layout.reading(checkpoint):
            unet = Component(checkpoint.path, tensors[0], unet_config_of(tensors[0]))
            vae = Component(checkpoint.path, tensors[1], vae_config_of(tensors[1]))
    else:
        older = PASSIONSR.find(checkpoint) is not None
        seen = f"{checkpoint.described}: PassionSR's older layout" if older else checkpoint.described
        raise layout.misfit(checkpoint, seen)
    embedding = encoded_prompt(given, int(unet.config["cross_attention_dim"]), family.name)
    step = one_step(TIMESTEP)
    return OneStepLatentSR(
        Enlarge(4, PIL), unet_from(unet), vae_from(vae), timestep=TIMESTEP, step=step, prompt=embedding, clamp=True
    ).eval()


def _adapt(part: Component, name: str, state: StateDict, layout: Layout, checkpoint: Checkpoint) -> None:
    """Put weights that were retrained as a whole into UNet or VAE, then merge its adapters."""
    content, rank, path = state.values, state.values[f"rank_{name}"], checkpoint.path
    inner = _inner(state, f"state_dict_{name}", layout, checkpoint)
    tensors = checkpoint.tensors(inner)
    adapters = adapters_of(tensors, path)
    ranks = {adapter.rank for adapter in adapters.values()}
    if [*ranks] != [rank]:
        raise layout.misfit(checkpoint, f"adapters of rank {sorted(ranks)} with rank_{name} = {rank!r}")
    check_modules(adapters, _listed(content, name), path)
    for key, tensor in tensors.items():
        if ".lora_" not in key:
            _replace(part, key, tensor, path)
    merge(part.tensors, adapters, LORA_ALPHA / rank, path)


def _inner(state: StateDict, name: str, layout: Layout, checkpoint: Checkpoint) -> StateDict:
    """The state dict under a name, without what stands before its keys."""
    held = state.values[name]
    if not isinstance(held, Mapping):
        raise layout.misfit(checkpoint, f"a {type(held).__name__} under {name}")
    inner = StateDict({key: value for key, value in held.items() if isinstance(key, str)}, (*state.where, name))
    return find_state_dict([inner], *_INNER[name]) or inner


def _listed(content: Mapping[str, Any], name: str) -> set[str]:
    """The modules that have adapters, as the file says."""
    lists = (content.get(key) for key in _MODULE_LISTS[name])
    return {module for one in lists if isinstance(one, (list, tuple)) for module in one if isinstance(module, str)}


def _replace(part: Component, key: str, tensor: Tensor, path: Path) -> None:
    """A base weight that was trained in full takes the place of the base model's."""
    target = key.replace(".base_layer.", ".")
    if target not in part.tensors or part.tensors[target].shape != tensor.shape:
        raise CheckpointError(
            f"weights {shown(path)} do not fit the base model",
            seen=f"{key} {tuple(tensor.shape)}",
            needed="weights of modules that the base model has",
            remedy="Check that --base is Stable Diffusion 2.1-base.",
        )
    part.tensors[target] = tensor
