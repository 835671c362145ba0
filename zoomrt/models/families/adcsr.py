"""AdcSR (CVPR 2025): OSEDiff compressed to one network without time, text, noise or VAE encoder; a decoder in a file of
its own."""

from __future__ import annotations

from zoomrt.bundle import ColourFacts
from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import File, Option
from zoomrt.models.published.records import Licence, one_file

_REPOSITORY = "Guaishou74851/AdcSR"
_LICENCE = Licence(
    "Apache-2.0; made from Stable Diffusion 2.1, so RAIL++-M limits of use may apply",
    "https://github.com/Guaishou74851/AdcSR/blob/main/LICENSE",
)

FAMILY = Family(
    name="adcsr",
    module="zoomrt.models.networks.adcsr",
    layout=Layout(
        model="adcsr",
        namings=(Naming(("body.1.conv_in.weight", "body.2.resnets.0.conv1.weight")),),
        published="Use weight/net_params_200.pkl of huggingface.co/Guaishou74851/AdcSR.",
    ),
    variants=(Variant("", 4, 456_073_683, 549.5, "Apache-2.0 on RAIL++-M"),),
    size=SizeRule(minimum=16, multiple_of=16),
    value_range=(-1.0, 1.0),
    colour=ColourFacts(method="adain", clamp="last", reference="input", epsilon=1e-10),
    tiling=TilingAdvice(tile=128, overlap=32, context=8),
    weights_licence="AdcSR Apache-2.0; derived from Stable Diffusion 2.1-base, so RAIL++-M limits may still apply",
    published=(
        one_file("weight/net_params_200.pkl", _LICENCE, repository=_REPOSITORY),
        one_file("weight/pretrained/halfDecoder.ckpt", _LICENCE, key="decoder", repository=_REPOSITORY),
    ),
    options=(Option("decoder", "the decoder's file", File(), required="halfDecoder.ckpt, the decoder's tail"),),
)
