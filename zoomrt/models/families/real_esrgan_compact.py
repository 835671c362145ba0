"""Real-ESRGAN's compact networks: a plain chain of convolutions at input size, on top of the repeated input pixels.

realesr-general-x4v3 comes as two files, of which one keeps noise (wdn): a mixture of both sets how much noise goes.
"""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import File, Number, Option

FAMILY = Family(
    name="real-esrgan-compact",
    module="zoomrt.models.networks.real_esrgan_compact",
    layout=Layout(
        model="real-esrgan-compact",
        # a convolution, a PReLU, which has no bias, a convolution
        namings=(Naming(("body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight"), without="body.1.bias"),),
        published="Use realesr-general-x4v3.pth or realesr-animevideov3.pth of github.com/xinntao/Real-ESRGAN.",
    ),
    variants=(
        Variant("animevideov3", 4, 621_424, 10.1, "BSD-3-Clause"),
        Variant("general-x4v3", 4, 1_213_296, 19.8, "BSD-3-Clause"),
    ),
    size=SizeRule(minimum=16, multiple_of=1),
    value_range=(0.0, 1.0),
    tiling=TilingAdvice(tile=192, overlap=32, context=10),  # the authors' tile_pad is 10
    weights_licence="Real-ESRGAN BSD-3-Clause",
    options=(
        Option("wdn-weights", "second checkpoint, which keeps noise, to mix in", File()),
        Option("denoise-strength", "share of the first one in that mixture", Number(0, 1), default="0.5"),
    ),
)
