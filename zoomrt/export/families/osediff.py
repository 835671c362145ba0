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
from zoomrt.export.bicubic import PIL, Enlarge
from zoomrt.export.checkpoint import Checkpoint
from zoomrt.export.family import Family, FamilyFacts, SizeRule, TilingAdvice
from zoomrt.export.lora import adapters_of, merge
from zoomrt.export.one_step import OneStepLatentSR
from zoomrt.export.prompt import prompt_embedding
from zoomrt.export.schedule import one_step
from zoomrt.export.sources import NO_SOURCES, Sources
from zoomrt.export.stable_diffusion import (
    Component,
    read_base,
    unet_config_of,
    unet_from,
    vae_config_of,
    vae_from,
)

__all__ = ["FAMILY", "LORA_SCALE"]

TIMESTEP = 999
LORA_SCALE = 2.0  # alpha 8, PEFT's default, over rank 4 (osediff.md section 3)

_ADAPTERS = ("rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae")
_MERGED = ("unet", "vae")
_PASSIONSR = ("unet_state_dict", "vae_state_dict")
_MODULE_LISTS = ("unet_lora_encoder_modules", "unet_lora_decoder_modules", "unet_lora_others_modules")


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

    def recognises(self, checkpoint: Checkpoint) -> bool:
        content = checkpoint.content
        return any(all(key in content for key in layout) for layout in (_ADAPTERS, _MERGED, _PASSIONSR))

    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> nn.Module:
        content, path = checkpoint.content, checkpoint.path
        if all(key in content for key in _ADAPTERS):
            base = sources.required("base", "osediff", "Stable Diffusion 2.1-base, which the file's adapters change")
            unet, vae = read_base(base)
            _adapt(unet, vae, content, path)
        elif all(key in content for key in _MERGED):
            unet, vae = _merged(content, path)
        elif all(key in content for key in _PASSIONSR):
            seen = "keys unet_state_dict, vae_state_dict: PassionSR's older layout"
            raise _unusable(path, seen, "osediff.pkl of the OSEDiff authors, or of AdcSR's repository")
        else:
            raise _unusable(path, "keys like " + (", ".join(list(content)[:4]) or "none"), ", ".join(_ADAPTERS))
        prompt = prompt_embedding(sources, int(unet.config["cross_attention_dim"]), "osediff")
        step = one_step(TIMESTEP)
        return OneStepLatentSR(
            Enlarge(4, PIL), unet_from(unet), vae_from(vae), timestep=TIMESTEP, step=step, prompt=prompt, clamp=True
        ).eval()


def _adapt(unet: Component, vae: Component, content: Mapping[str, Any], path: Path) -> None:
    """Put the retrained conv_in into the UNet, then merge the adapters into UNet and VAE encoder."""
    for name, part, rank in (("state_dict_unet", unet, "rank_unet"), ("state_dict_vae", vae, "rank_vae")):
        tensors = content[name]
        if not isinstance(tensors, Mapping):
            raise _unusable(path, f"a {type(tensors).__name__} under {name}", "a state dict")
        adapters = adapters_of(tensors, path)
        odd = {adapter.rank for adapter in adapters.values()} - {content[rank]}
        if odd:
            raise _unusable(path, f"adapters of rank {sorted(odd)} in {name}", f"{rank} = {content[rank]}")
        _check_modules(set(adapters), _listed(content, name), name, path)
        bases = {key: t for key, t in tensors.items() if ".lora_" not in key}
        for key, tensor in bases.items():
            _replace(part, key, tensor, path)
        merge(part.tensors, adapters, LORA_SCALE, path)


def _listed(content: Mapping[str, Any], name: str) -> set[str]:
    lists = _MODULE_LISTS if name == "state_dict_unet" else ("vae_lora_encoder_modules",)
    return {module for key in lists for module in content.get(key, ())}


def _check_modules(found: set[str], listed: set[str], name: str, path: Path) -> None:
    if found != listed:
        example = ", ".join(sorted(found ^ listed)[:4])
        seen = f"{len(found)} adapters in {name} for {len(listed)} listed modules (differing: {example})"
        raise _unusable(path, seen, "one adapter for each listed module")


def _replace(part: Component, key: str, tensor: Tensor, path: Path) -> None:
    """A base weight that was trained in full takes the place of the base model's."""
    target = key.replace(".base_layer.", ".")
    if target not in part.tensors or part.tensors[target].shape != tensor.shape:
        raise _unusable(path, f"{key} {tuple(tensor.shape)}", "weights of modules that the base model has")
    part.tensors[target] = tensor


def _merged(content: Mapping[str, Any], path: Path) -> tuple[Component, Component]:
    try:
        unet, vae = dict(content["unet"]), dict(content["vae"])
        return Component(path, unet, unet_config_of(unet)), Component(path, vae, vae_config_of(vae))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as cause:
        raise _unusable(path, f"no {cause} under unet or vae", "whole state dicts with diffusers names") from cause


def _unusable(path: Path, seen: str, needed: str) -> CheckpointError:
    return CheckpointError(
        f"weights {str(path)!r} are not an osediff checkpoint that can be built",
        seen=seen,
        needed=needed,
        remedy="Use preset/models/osediff.pkl of github.com/cswry/OSEDiff; docs/models/osediff.md tells them apart.",
    )


FAMILY = Osediff()
