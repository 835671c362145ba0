"""JiT-SR: JiT's pixel transformer, shown the LR picture, sampled from noise in up to 199 evaluations."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import Choice, Number, Option, Whole

FAMILY = Family(
    name="jit-sr",
    module="zoomrt.models.networks.jit_sr",
    layout=Layout(
        model="jit-sr",
        namings=(Naming(("lr_posemb", "x_embedder_concat.proj1.weight")),),
        published="No weights are published; use checkpoint-last.pth of a run of github.com/flyingbucket/JiTSR.",
    ),
    variants=(
        Variant("B/16", 4, 131_124_480, 15_879.6, "MIT", 99, status="no public weights"),
        Variant("B/16 v2", 4, 307_681_344, 77_689.6, "MIT", 199, status="no public weights"),
        Variant("L/16", 4, 458_811_104, 122_106.4, "MIT", 199, status="no public weights"),
    ),
    size=SizeRule(minimum=64, multiple_of=64, fixed=True),
    value_range=(0.0, 1.0),
    steps=99,
    tiling=TilingAdvice(tile=64, overlap=16, context=4),
    weights_licence="JiT-SR MIT; no weights are published",
    options=(
        Option("steps", "steps of the sampler", Whole(1, 1000), default="50, or 100 for wide networks"),
        Option("sampler", "heun or euler", Choice(("heun", "euler")), default="heun"),
        Option(
            "conditioning",
            "how the network is shown the LR picture, token or concat, as it was trained",
            Choice(("token", "concat")),
            default="token",
        ),
        Option("guidance", "guidance scale", Number(0, 100), default="1, which is none,"),
    ),
)
