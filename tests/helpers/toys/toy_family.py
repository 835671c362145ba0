"""Another package's model family, as its entry point brings it: the record, and the network in a module of its own."""

from __future__ import annotations

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.options import Number, Option

FAMILY = Family(
    name="toy",
    module="toy_network",
    layout=Layout("toy", (Naming(("toy.weight",)),), "Save it as the test of the toy family does."),
    variants=(Variant("tiny", 2, 324, 0.1, "CC0", status="made in a test"),),
    scale=2,
    size=SizeRule(minimum=8, multiple_of=1),
    value_range=(0.0, 1.0),
    tiling=TilingAdvice(tile=16, overlap=4, context=1),
    weights_licence="CC0",
    options=(Option("gain", "what the residual is multiplied with", Number(0, 4), default="1"),),
)
