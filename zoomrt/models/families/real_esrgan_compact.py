"""Real-ESRGAN's compact networks: a plain chain of convolutions at input size, on top of the repeated input pixels.

realesr-general-x4v3 comes as two files, of which one keeps noise (wdn): a mixture of both sets how much noise goes.
"""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import File, Number, Option
from zoomrt.models.published.records import Licence, one_file

_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_LICENCE = Licence("BSD-3-Clause", "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE")

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
    published=(
        one_file(
            f"{_RELEASES}/v0.2.5.0/realesr-general-x4v3.pth",
            _LICENCE,
            4_885_111,
            "8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        ),
        one_file(
            f"{_RELEASES}/v0.2.5.0/realesr-animevideov3.pth",
            _LICENCE,
            2_504_012,
            "b8a8376811077954d82ca3fcf476f1ac3da3e8a68a4f4d71363008000a18b75d",
        ),
        one_file(
            f"{_RELEASES}/v0.2.5.0/realesr-general-wdn-x4v3.pth",
            _LICENCE,
            4_885_111,
            "1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
            key="wdn_weights",
            when=("denoise_strength", None),
        ),
    ),
    options=(
        Option("wdn-weights", "second checkpoint, which keeps noise, to mix in", File()),
        Option("denoise-strength", "share of the first one in that mixture", Number(0, 1), default="0.5"),
    ),
)
