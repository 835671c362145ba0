"""ResShift (NeurIPS 2023): a diffusion from the LR picture to the sharp one in 15 or 4 steps, in a VQ latent.

Two files: a UNet, whose keys are also SinSR's, and the autoencoder. No file says for how many steps it is.
"""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import File, Option, Whole
from zoomrt.models.published.records import Licence, one_file

UNET = Naming(("input_blocks.1.1.patch_embed.proj.weight", "middle_block.1.patch_embed.proj.weight"))
REBUILT = ("relative_position_index", "attn_mask")
AUTOENCODER = Option("autoencoder", "the autoencoder's file", File(), required="autoencoder_vq_f4.pth")

_RELEASE = "https://github.com/zsyOAOA/ResShift/releases/download/v2.0"
_LICENCE = Licence("NTU S-Lab 1.0", "https://github.com/zsyOAOA/ResShift/blob/master/LICENSE", commercial=False)
PUBLISHED_AUTOENCODER = one_file(f"{_RELEASE}/autoencoder_vq_f4.pth", _LICENCE, key="autoencoder")

FAMILY = Family(
    name="resshift",
    module="zoomrt.models.networks.resshift",
    layout=Layout(
        model="resshift",
        namings=(UNET,),
        published="Use resshift_realsrx4_s15_v2.pth or _s4_v3.pth of github.com/zsyOAOA/ResShift/releases.",
        rebuilt=REBUILT,
    ),
    variants=(
        Variant("s15 v1, v2", 4, 173_916_365, 5482.9, "non-commercial", 15),
        Variant("s4 v3, bicsr", 4, 173_916_365, 3254.3, "non-commercial", 4),
    ),
    size=SizeRule(minimum=64, multiple_of=64),
    value_range=(-1.0, 1.0),
    steps=15,
    tiling=TilingAdvice(tile=128, overlap=32, context=8),
    weights_licence="ResShift NTU S-Lab 1.0: non-commercial only",
    published=(
        one_file(f"{_RELEASE}/resshift_realsrx4_s15_v2.pth", _LICENCE, when=("steps", 15)),
        one_file(f"{_RELEASE}/resshift_realsrx4_s15_v1.pth", _LICENCE, when=("steps", 15)),
        one_file(f"{_RELEASE}/resshift_realsrx4_s4_v3.pth", _LICENCE, when=("steps", 4)),
        one_file(f"{_RELEASE}/resshift_bicsrx4_s4.pth", _LICENCE, when=("steps", 4)),
        PUBLISHED_AUTOENCODER,
    ),
    options=(AUTOENCODER, Option("steps", "15 or 4, as trained; has to be given", Whole(1, 1000))),
)
