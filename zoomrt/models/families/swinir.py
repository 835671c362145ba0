"""SwinIR (ICCVW 2021): residual groups of window attention, in four published kinds."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.published.records import Licence, one_file

_RELEASE = "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0"
_LICENCE = Licence("Apache-2.0", "https://github.com/JingyunLiang/SwinIR/blob/main/LICENSE")
_OTHERS = (
    "003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x2_GAN",
    "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN",
    *(f"001_classicalSR_DF2K_s64w8_SwinIR-M_x{scale}" for scale in (2, 3, 4, 8)),
    *(f"002_lightweightSR_DIV2K_s64w8_SwinIR-S_x{scale}" for scale in (2, 3, 4)),
)

FAMILY = Family(
    name="swinir",
    module="zoomrt.models.networks.swinir",
    layout=Layout(
        model="swinir",
        namings=(Naming(("conv_first.weight", "layers.0.residual_group.blocks.0.attn.relative_position_bias_table")),),
        published="Use a super-resolution file (001, 002 or 003) of github.com/JingyunLiang/SwinIR/releases.",
        rebuilt=("relative_position_index", "attn_mask"),  # which files carry for one picture size
    ),
    variants=(
        Variant("classical M", 4, 11_900_199, 214.2, "Apache-2.0"),
        Variant("classical M", 2, 11_752_487, 816.9, "Apache-2.0"),
        Variant("classical M", 3, 11_937_127, 392.1, "Apache-2.0"),
        Variant("classical M", 8, 12_047_911, 63.6, "Apache-2.0"),
        Variant("lightweight S", 4, 929_628, 17.4, "Apache-2.0"),
        Variant("lightweight S", 2, 910_152, 68.5, "Apache-2.0"),
        Variant("lightweight S", 3, 918_267, 32.6, "Apache-2.0"),
        Variant("real M", 4, 11_715_559, 223.9, "Apache-2.0"),
        Variant("real M", 2, 11_678_631, 826.6, "Apache-2.0"),
        Variant("real L", 4, 28_013_059, 502.5, "Apache-2.0"),
    ),
    size=SizeRule(minimum=16, multiple_of=8),  # two windows, and one
    value_range=(0.0, 1.0),
    tiling=TilingAdvice(tile=128, overlap=32, context=8),  # the authors' overlap is 32
    weights_licence="SwinIR Apache-2.0",
    published=(
        one_file(
            f"{_RELEASE}/003_realSR_BSRGAN_DFO_s64w8_SwinIR-M_x4_GAN.pth",
            _LICENCE,
            67_129_861,
            "b9afb61e65e04eb7f8aba5095d070bbe9af28df76acd0c9405aeb33b814bcfc6",
        ),
        *(one_file(f"{_RELEASE}/{name}.pth", _LICENCE) for name in _OTHERS),
    ),
)
