"""HYPIR (the public SD2 weights): Stable Diffusion 2.1-base, one step at t=200, adapters on the UNet."""

from __future__ import annotations

from dataclasses import replace

from zoomrt.bundle import ColourFacts
from zoomrt.models.base_model import BASE, PROMPT, PROMPT_EMBEDDING, PUBLISHED_BASE
from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import Option, Whole
from zoomrt.models.published.records import Licence, one_file

FAMILY = Family(
    name="hypir",
    module="zoomrt.models.networks.hypir",
    layout=Layout(
        model="hypir",
        namings=(
            Naming(
                ("mid_block.resnets.0.conv1.lora_A.default.weight", "mid_block.resnets.0.conv1.lora_B.default.weight")
            ),
        ),
        published="Use HYPIR_sd2.pth of huggingface.co/lxq007/HYPIR (not the discriminator's file).",
    ),
    variants=(Variant("", 4, 949_564_587, 2217.7, "non-commercial"),),
    size=SizeRule(minimum=16, multiple_of=16),
    value_range=(-1.0, 1.0),
    colour=ColourFacts(method="wavelet", clamp="last", reference="torch_bicubic"),
    tiling=TilingAdvice(tile=128, overlap=32, context=8),
    weights_licence="HYPIR: non-commercial use only; Stable Diffusion 2.1-base: CreativeML Open RAIL++-M",
    published=(
        one_file(
            "HYPIR_sd2.pth",
            Licence("HYPIR", "https://github.com/XPixelGroup/HYPIR/blob/main/LICENSE", commercial=False),
            repository="lxq007/HYPIR",
        ),
        PUBLISHED_BASE,
    ),
    options=(
        replace(BASE, required="Stable Diffusion 2.1-base, which the file's adapters change"),
        PROMPT,
        PROMPT_EMBEDDING,
        Option("coeff-t", "strength, as a timestep: lower changes less", Whole(0, 999), default="200"),
    ),
    warnings=("HYPIR's code and weights are for non-commercial use only",),
)
