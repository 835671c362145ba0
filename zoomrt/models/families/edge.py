"""edge: our one-step x4 student, small enough to ship inside the package; described in `edge.md` beside this file."""

from __future__ import annotations

from pathlib import Path

from zoomrt.models.family import Family, SizeRule, TilingAdvice, Variant
from zoomrt.models.layout import Layout, Naming

FAMILY = Family(
    name="edge",
    module="zoomrt.models.networks.edge",
    layout=Layout(
        model="edge",
        namings=(
            Naming(("time_embedding.0.weight", "down_coarse.weight", "attention.0.to_q.weight", "conv_out.weight")),
        ),
        published="Leave --weights out to use the weights that ship with zoomrt, or name the right --model.",
    ),
    variants=(Variant("", 4, 2_118_016, 10.1, "research, evaluation", status="inside the package"),),
    size=SizeRule(minimum=32, multiple_of=4),
    value_range=(-1.0, 1.0),
    # tiles of 128 suit small frames, but fall below 50 dB to one untiled pass (benchmarks/tile_agreement.py)
    tiling=TilingAdvice(tile=192, overlap=16, context=4),
    weights_licence="research and evaluation only: trained on DRealSR crops (research licence); code Apache-2.0",
    embedded_weights=Path(__file__).with_suffix(".safetensors"),
)
