"""The `hypir` family (the public SD2 weights): Stable Diffusion 2.1-base, one step at t=200, adapters on the UNet.

Facts: hypir.md. Stock VAE, no noise, prompt empty by default. `coeff_t` sets how much is changed; the network always
sees t=200.
"""

from __future__ import annotations

from torch import nn

from zoomrt.bundle import ColourFacts
from zoomrt.errors import CheckpointError
from zoomrt.export.bicubic import TORCH, Enlarge
from zoomrt.export.checkpoint import Checkpoint
from zoomrt.export.family import Family, FamilyFacts, SizeRule, TilingAdvice
from zoomrt.export.lora import adapters_of, merge
from zoomrt.export.one_step import OneStepLatentSR
from zoomrt.export.prompt import prompt_embedding
from zoomrt.export.schedule import one_step
from zoomrt.export.sources import NO_SOURCES, Sources
from zoomrt.export.stable_diffusion import read_base, unet_from, vae_from

__all__ = ["FAMILY", "LORA_SCALE"]

TIMESTEP = 200
COEFF_T = 200
LORA_SCALE = 1.0  # alpha 256 over rank 256 (hypir.md section 3)
_ENDINGS = (".lora_A.default.weight", ".lora_B.default.weight")


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

    def recognises(self, checkpoint: Checkpoint) -> bool:
        keys = list(checkpoint.content)
        return bool(keys) and all(key.endswith(_ENDINGS) for key in keys)

    def network(self, checkpoint: Checkpoint, sources: Sources = NO_SOURCES) -> nn.Module:
        if not self.recognises(checkpoint):
            raise CheckpointError(
                f"weights {str(checkpoint.path)!r} are not a hypir checkpoint",
                seen="keys like " + (", ".join(list(checkpoint.content)[:4]) or "none"),
                needed="only keys like mid_block.resnets.0.conv1.lora_A.default.weight",
                remedy="Use HYPIR_sd2.pth of huggingface.co/lxq007/HYPIR (not the discriminator's file).",
            )
        step = one_step(COEFF_T if sources.coeff_t is None else sources.coeff_t)
        adapters = adapters_of(checkpoint.tensors(), checkpoint.path)
        base = sources.required("base", "hypir", "Stable Diffusion 2.1-base, which the file's adapters change")
        unet, vae = read_base(base)
        merge(unet.tensors, adapters, LORA_SCALE, checkpoint.path)
        prompt = prompt_embedding(sources, int(unet.config["cross_attention_dim"]), "hypir")
        return OneStepLatentSR(
            Enlarge(4, TORCH), unet_from(unet), vae_from(vae), timestep=TIMESTEP, step=step, prompt=prompt, clamp=False
        ).eval()


FAMILY = Hypir()
