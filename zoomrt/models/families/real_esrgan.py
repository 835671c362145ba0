"""Real-ESRGAN (ICCVW 2021): residual-in-residual dense blocks. Three generations of names for the same network."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.published.records import Licence, one_file

_RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_LICENCE = Licence("BSD-3-Clause", "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE")

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
    published=(
        one_file(
            f"{_RELEASES}/v0.1.0/RealESRGAN_x4plus.pth",
            _LICENCE,
            67_040_989,
            "4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        ),
        one_file(
            f"{_RELEASES}/v0.2.1/RealESRGAN_x2plus.pth",
            _LICENCE,
            67_061_725,
            "49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        ),
        one_file(
            f"{_RELEASES}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth",
            _LICENCE,
            17_938_799,
            "f872d837d3c90ed2e05227bed711af5671a6fd1c9f7d7e91c911a61f155e99da",
        ),
        one_file(
            f"{_RELEASES}/v0.1.1/RealESRNet_x4plus.pth",
            _LICENCE,
            67_040_989,
        ),
    ),
)
