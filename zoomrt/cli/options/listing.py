"""What trt-build --list prints: the models there are, and which of their published files are here."""

from __future__ import annotations

from zoomrt.cli._common import lined_up
from zoomrt.models.families import FAMILIES
from zoomrt.models.published.cache import found
from zoomrt.models.published.records import fitting, size_text


def models_table() -> list[str]:
    """What there is to choose from: size, work, steps, licence, and whether there are weights."""
    head = ("model", "variant", "scale", "parameters", "GMAC at 512", "steps", "licence", "status")
    rows = [
        (
            family.name,
            variant.name,
            f"x{variant.scale}",
            f"{variant.parameters / 1e6:.1f} M",
            f"{variant.gmac:,.1f}",
            str(variant.steps),
            variant.licence,
            variant.status,
        )
        for family in FAMILIES.records()
        for variant in family.variants
    ]
    return lined_up(head, rows, left=(0, 1, 6, 7))


def published_table() -> list[str]:
    """A line for each published file: for what, how large, whether it is here, and when it would be fetched."""
    rows = []
    for family in FAMILIES.records():
        by_default = fitting(family.published, {})
        for one in family.published:
            asked = "would be fetched" if one in by_default else f"with {one.condition or '--published'}"
            state = "here" if found(one, {}) is not None else asked
            rows.append((family.name, f"--{one.key.replace('_', '-')}", one.name, size_text(one.files), state))
    return lined_up(("model", "for", "published file", "size", ""), rows, left=range(5))
