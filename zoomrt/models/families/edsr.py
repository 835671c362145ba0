"""EDSR (CVPRW 2017): residual blocks without normalisation; x2, x3 and x4, baseline and full width."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import Number, Option
from zoomrt.models.published.records import Licence, one_file

FAMILY = Family(
    name="edsr",
    module="zoomrt.models.networks.edsr",
    layout=Layout(
        model="edsr",
        namings=(
            Naming(("sub_mean.bias", "head.0.weight", "body.0.body.0.weight", "tail.0.0.weight", "tail.1.weight")),
            Naming(
                ("conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight", "upsample.0.weight"),
                "zoomrt.models.networks.edsr.from_basicsr",
            ),
        ),
        published="Use a file such as edsr_x4-4f62e9ef.pt or edsr_baseline_x4-6b446fab.pt of EDSR-PyTorch.",
    ),
    variants=(
        Variant("baseline", 4, 1_517_595, 32.5, "MIT"),
        Variant("baseline", 2, 1_369_883, 90.0, "MIT"),
        Variant("baseline", 3, 1_554_523, 45.8, "MIT"),
        Variant("full", 4, 43_089_947, 823.3, "MIT"),
        Variant("full", 2, 40_729_627, 2669.4, "MIT"),
        Variant("full", 3, 43_680_027, 1278.3, "MIT"),
    ),
    size=SizeRule(minimum=16, multiple_of=1),
    value_range=(0.0, 1.0),
    tiling=TilingAdvice(tile=128, overlap=32, context=10),  # the authors shave 10 output pixels
    weights_licence="EDSR-PyTorch MIT",
    published=tuple(
        one_file(
            f"https://cv.snu.ac.kr/research/EDSR/models/edsr_{name}.pt",
            Licence("MIT", "https://github.com/sanghyun-son/EDSR-PyTorch/blob/master/LICENSE"),
        )
        for name in (
            "baseline_x4-6b446fab",
            "baseline_x2-1bc95232",
            "baseline_x3-abf2a44e",
            "x4-4f62e9ef",
            "x2-0edfb8a3",
            "x3-ea3ef2c6",
        )
    ),
    options=(
        Option(
            "residual-scale",
            "res_scale of training",
            Number(0, 10, above=True),
            default="1 for 64 channels, 0.1 for 256",
        ),
    ),
)
