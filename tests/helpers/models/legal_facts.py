"""Any tile facts that `check_tile` lets through."""

from __future__ import annotations

from hypothesis import strategies as st
from runtime_helpers import facts

from zoomrt.bundle import TileFacts
from zoomrt.bundle.manifest import check_tile


@st.composite
def legal_facts(draw: st.DrawFn, longest: int = 400) -> TileFacts:
    height, width = draw(st.integers(2, longest)), draw(st.integers(2, longest))
    overlap = draw(st.integers(1, min(height, width) - 1))
    context = draw(st.integers(0, (overlap - 1) // 2))
    tile = facts(height=height, width=width, overlap=overlap, context=context, scale=draw(st.integers(1, 4)))
    check_tile(tile)
    return tile
