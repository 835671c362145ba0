"""Real-ESRGAN (ICCVW 2021): residual-in-residual dense blocks. Three generations of names for the same network."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming

FAMILY = Family(
    name="real-esrgan",
    module="zoomrt.models.networks.real_esrgan",
    layout=Layout(
        model="real-esrgan",
        namings=(
            Naming(("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_hr.weight")),
            Naming(
                ("conv_first.weight", "RRDB_trunk.0.RDB1.conv1.weight", "HRconv.weight"),
                "zoomrt.models.networks.real_esrgan.from_bsrgan",
            ),
            Naming(
                ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
                "zoomrt.models.networks.real_esrgan.from_esrgan",
            ),
        ),
        published="Use RealESRGAN_x4plus.pth, _x2plus.pth or _x4plus_anime_6B.pth of github.com/xinntao/Real-ESRGAN.",
    ),
    variants=(
        Variant("x4plus", 4, 16_697_987, 293.7, "BSD-3-Clause"),
        Variant("x2plus", 2, 16_703_171, 293.8, "BSD-3-Clause"),
        Variant("x4plus_anime_6B", 4, 4_467_779, 93.5, "BSD-3-Clause"),
    ),
    size=SizeRule(minimum=16, multiple_of=1),
    value_range=(0.0, 1.0),
    tiling=TilingAdvice(tile=128, overlap=32, context=10),  # the authors' tile_pad is 10
    weights_licence="Real-ESRGAN BSD-3-Clause",
)
