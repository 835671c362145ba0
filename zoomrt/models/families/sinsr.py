"""SinSR (CVPR 2024): ResShift's diffusion distilled to one step, in the latent space of the same VQ autoencoder."""

from __future__ import annotations

from zoomrt.bundle import NoiseFacts
from zoomrt.models.families.resshift import AUTOENCODER, PUBLISHED_AUTOENCODER, REBUILT, UNET
from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout
from zoomrt.models.published.records import Licence, one_file

_RELEASE = "https://github.com/wyf0912/SinSR/releases/download/v1.0"
_LICENCE = Licence("CC BY-NC-SA 4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/", commercial=False)

FAMILY = Family(
    name="sinsr",
    module="zoomrt.models.networks.sinsr",
    layout=Layout(
        model="sinsr",
        namings=(UNET,),
        published="Use SinSR_v1.pth or SinSR_v2.pth of github.com/wyf0912/SinSR/releases.",
        rebuilt=REBUILT,
    ),
    variants=(Variant("v1, v2", 4, 173_916_365, 2646.5, "non-commercial"),),
    size=SizeRule(minimum=64, multiple_of=64),
    value_range=(-1.0, 1.0),
    tiling=TilingAdvice(tile=128, overlap=32, context=8),
    weights_licence="SinSR CC BY-NC-SA 4.0, autoencoder of ResShift NTU S-Lab 1.0: non-commercial only",
    published=(
        one_file(f"{_RELEASE}/SinSR_v2.pth", _LICENCE),
        one_file(f"{_RELEASE}/SinSR_v1.pth", _LICENCE),
        PUBLISHED_AUTOENCODER,
    ),
    options=(AUTOENCODER,),
    noise=NoiseFacts(channels=3, seed=12345),  # the authors' default
    parity_loss_db=20.0,
)
