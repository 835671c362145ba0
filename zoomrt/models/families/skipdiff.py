"""SkipDiff (AAAI 2024): a few large denoising steps, then small ones that a policy may skip, per tile."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import Option, Whole

FAMILY = Family(
    name="skipdiff",
    module="zoomrt.models.networks.skipdiff",
    layout=Layout(
        model="skipdiff",
        namings=(Naming(("noise_level.0.weight", "conv_in.weight", "down.0.conv1.weight")),),
        published="Save your own training as docs/models/skipdiff.md says; no weights are published.",
    ),
    variants=(
        Variant("no step skipped", 4, 94_217_539, 14_243.7, "your own training", 20, status="no public weights"),
    ),
    size=SizeRule(minimum=16, multiple_of=4),
    value_range=(-1.0, 1.0),
    steps=20,  # of the paper's table for natural pictures
    tiling=TilingAdvice(tile=64, overlap=16, context=4),
    weights_licence="no weights are published; those of your own training",
    options=(Option("steps", "coarse and fine steps together", Whole(1, 1000), default="20"),),
)
