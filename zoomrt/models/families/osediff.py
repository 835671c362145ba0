"""The `osediff` family (NeurIPS 2024): Stable Diffusion 2.1-base, one step at t=999, adapters on UNet and VAE encoder.

Facts: osediff.md. Three layouts go by this name and are told apart by their keys:
the authors' file (adapters; needs --base), AdcSR's file (whole merged networks; needs no base), PassionSR's (refused).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoomrt.bundle import ColourFacts
from zoomrt.errors import CheckpointError
from zoomrt.files import shown
from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.family import Family, FamilyFacts, SizeRule, TilingAdvice
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.lora import adapters_of, check_modules, merge
from zoomrt.models.networks.bicubic import PIL, Enlarge
from zoomrt.models.networks.one_step import OneStepLatentSR
from zoomrt.models.networks.schedule import one_step
from zoomrt.models.networks.stable_diffusion import (
    Component,
    read_base,
    unet_config_of,
    unet_from,
    vae_config_of,
    vae_from,
)
from zoomrt.models.prompt import check_prompt, prompt_embedding
from zoomrt.models.sources import NO_SOURCES, Sources
from zoomrt.models.state_dicts import StateDict, find_state_dict

__all__ = ["FAMILY"]

TIMESTEP = 999
LORA_ALPHA = 8
"""PEFT's default, which the authors leave (LoraConfig.lora_alpha). An adapter counts alpha / rank times."""

_ADAPTERS = Naming(("rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae"))
_MERGED = Naming(("unet", "vae"))
_PASSIONSR = Naming(("unet_state_dict", "vae_state_dict"))
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


class Osediff(Family):
    facts = FamilyFacts(
        name="osediff",
        scale=4,
        size=SizeRule(minimum=16, multiple_of=16),
        value_range=(-1.0, 1.0),
        steps=1,
        colour=ColourFacts(method="adain", clamp="first", reference="pillow_bicubic", epsilon=1e-5),
        tiling=TilingAdvice(tile=128, overlap=32, context=8),
        weights_licence="OSEDiff Apache-2.0 on Stable Diffusion 2.1-base, CreativeML Open RAIL++-M (limits of use)",
        takes=("base", "prompt", "prompt_embedding"),
    )

    layout = Layout(
        model=facts.name,
        namings=(_ADAPTERS, _MERGED, _PASSIONSR),
        published="Use preset/models/osediff.pkl of github.com/cswry/OSEDiff; docs/models/osediff.md tells them apart.",
    )

    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> nn.Module:
        if state := _ADAPTERS.find(checkpoint):
            base = sources.required("base", "osediff", "Stable Diffusion 2.1-base, which the file's adapters change")
            check_prompt(sources, "osediff")
            unet, vae = read_base(base)
            for part, name in ((unet, "unet"), (vae, "vae")):
                self._adapt(part, name, state, checkpoint)
        elif state := _MERGED.find(checkpoint):
            tensors = [checkpoint.tensors(_inner(state, name, self.layout, checkpoint)) for name in ("unet", "vae")]
            with self.layout.reading(checkpoint):
                unet = Component(checkpoint.path, tensors[0], unet_config_of(tensors[0]))
                vae = Component(checkpoint.path, tensors[1], vae_config_of(tensors[1]))
        else:
            older = _PASSIONSR.find(checkpoint) is not None
            seen = f"{checkpoint.described}: PassionSR's older layout" if older else checkpoint.described
            raise self.layout.misfit(checkpoint, seen)
        prompt = prompt_embedding(sources, int(unet.config["cross_attention_dim"]), "osediff")
        step = one_step(TIMESTEP)
        return OneStepLatentSR(
            Enlarge(4, PIL), unet_from(unet), vae_from(vae), timestep=TIMESTEP, step=step, prompt=prompt, clamp=True
        ).eval()

    def _adapt(self, part: Component, name: str, state: StateDict, checkpoint: Checkpoint) -> None:
        """Put weights that were retrained as a whole into UNet or VAE, then merge its adapters."""
        content, rank, path = state.values, state.values[f"rank_{name}"], checkpoint.path
        inner = _inner(state, f"state_dict_{name}", self.layout, checkpoint)
        tensors = checkpoint.tensors(inner)
        adapters = adapters_of(tensors, path)
        ranks = {adapter.rank for adapter in adapters.values()}
        if [*ranks] != [rank]:
            raise self.layout.misfit(checkpoint, f"adapters of rank {sorted(ranks)} with rank_{name} = {rank!r}")
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


FAMILY = Osediff()
