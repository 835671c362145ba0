"""OSEDiff (NeurIPS 2024): Stable Diffusion 2.1-base, one step at t=999, adapters on UNet and VAE encoder.

Three layouts go by this name and are told apart by their keys: the authors' file (adapters; needs --base), AdcSR's file
(whole merged networks; needs no base), PassionSR's older one (recognised, to be refused).
"""

from __future__ import annotations

from zoomrt.bundle import ColourFacts
from zoomrt.models.base_model import BASE, PROMPT, PROMPT_EMBEDDING, PUBLISHED_BASE
from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.published.records import Licence, one_file

ADAPTERS = Naming(("rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae"))
MERGED = Naming(("unet", "vae"))
PASSIONSR = Naming(("unet_state_dict", "vae_state_dict"))

FAMILY = Family(
    name="osediff",
    module="zoomrt.models.networks.osediff",
    layout=Layout(
        model="osediff",
        namings=(ADAPTERS, MERGED, PASSIONSR),
        published="Use preset/models/osediff.pkl of github.com/cswry/OSEDiff; docs/models/osediff.md tells them apart.",
    ),
    variants=(Variant("", 4, 949_564_587, 2217.7, "Apache-2.0 on RAIL++-M"),),
    size=SizeRule(minimum=16, multiple_of=16),
    value_range=(-1.0, 1.0),
    colour=ColourFacts(method="adain", clamp="first", reference="pillow_bicubic", epsilon=1e-5),
    tiling=TilingAdvice(tile=128, overlap=32, context=8),
    weights_licence="OSEDiff Apache-2.0 on Stable Diffusion 2.1-base, CreativeML Open RAIL++-M (limits of use)",
    published=(
        one_file(
            "https://github.com/cswry/OSEDiff/raw/main/preset/models/osediff.pkl",
            Licence("Apache-2.0", "https://github.com/cswry/OSEDiff/blob/main/LICENSE"),
        ),
        PUBLISHED_BASE,
    ),
    options=(BASE, PROMPT, PROMPT_EMBEDDING),
)
