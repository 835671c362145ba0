"""The families as a table, for people who choose: size, work, steps, licence, and whether there are weights.

Plain data, so that listing needs no torch; tests/models/test_catalogue.py holds every figure against the networks.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "Entry", "table"]

_PUBLISHED = "published weights"
_NONE = "no public weights"


@dataclass(frozen=True)
class Entry:
    """One variant of a family.

    parameters : of encoder, network and decoder together, as far as they run.
    gmac : billions of multiply-adds for a 512 x 512 output (x3: 513, SwinIR 528) in as few tiles as its tile
        allows, all steps taken.
    steps : network evaluations per tile. status : whether weights exist, and where.
    """

    family: str
    variant: str
    scale: int
    parameters: int
    gmac: float
    steps: int
    licence: str
    status: str


CATALOGUE = (
    Entry("edge", "", 4, 2_118_016, 10.1, 1, "research, evaluation", "inside the package"),
    Entry("osediff", "", 4, 949_564_587, 2217.7, 1, "Apache-2.0 on RAIL++-M", _PUBLISHED),
    Entry("hypir", "", 4, 949_564_587, 2217.7, 1, "non-commercial", _PUBLISHED),
    Entry("adcsr", "", 4, 456_073_683, 549.5, 1, "Apache-2.0 on RAIL++-M", _PUBLISHED),
    Entry("sinsr", "v1, v2", 4, 173_916_365, 2646.5, 1, "non-commercial", _PUBLISHED),
    Entry("resshift", "s15 v1, v2", 4, 173_916_365, 5482.9, 15, "non-commercial", _PUBLISHED),
    Entry("resshift", "s4 v3, bicsr", 4, 173_916_365, 3254.3, 4, "non-commercial", _PUBLISHED),
    Entry("jit-sr", "B/16", 4, 131_124_480, 15_879.6, 99, "MIT", _NONE),
    Entry("jit-sr", "B/16 v2", 4, 307_681_344, 77_689.6, 199, "MIT", _NONE),
    Entry("jit-sr", "L/16", 4, 458_811_104, 122_106.4, 199, "MIT", _NONE),
    Entry("skipdiff", "no step skipped", 4, 94_217_539, 14_243.7, 20, "your own training", _NONE),
    Entry("real-esrgan", "x4plus", 4, 16_697_987, 293.7, 1, "BSD-3-Clause", _PUBLISHED),
    Entry("real-esrgan", "x2plus", 2, 16_703_171, 293.8, 1, "BSD-3-Clause", _PUBLISHED),
    Entry("real-esrgan", "x4plus_anime_6B", 4, 4_467_779, 93.5, 1, "BSD-3-Clause", _PUBLISHED),
    Entry("real-esrgan-compact", "animevideov3", 4, 621_424, 10.1, 1, "BSD-3-Clause", _PUBLISHED),
    Entry("real-esrgan-compact", "general-x4v3", 4, 1_213_296, 19.8, 1, "BSD-3-Clause", _PUBLISHED),
    Entry("swinir", "classical M", 4, 11_900_199, 214.2, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "classical M", 2, 11_752_487, 816.9, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "classical M", 3, 11_937_127, 392.1, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "classical M", 8, 12_047_911, 63.6, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "lightweight S", 4, 929_628, 17.4, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "lightweight S", 2, 910_152, 68.5, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "lightweight S", 3, 918_267, 32.6, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "real M", 4, 11_715_559, 223.9, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "real M", 2, 11_678_631, 826.6, 1, "Apache-2.0", _PUBLISHED),
    Entry("swinir", "real L", 4, 28_013_059, 502.5, 1, "Apache-2.0", _PUBLISHED),
    Entry("edsr", "baseline", 4, 1_517_595, 32.5, 1, "MIT", _PUBLISHED),
    Entry("edsr", "baseline", 2, 1_369_883, 90.0, 1, "MIT", _PUBLISHED),
    Entry("edsr", "baseline", 3, 1_554_523, 45.8, 1, "MIT", _PUBLISHED),
    Entry("edsr", "full", 4, 43_089_947, 823.3, 1, "MIT", _PUBLISHED),
    Entry("edsr", "full", 2, 40_729_627, 2669.4, 1, "MIT", _PUBLISHED),
    Entry("edsr", "full", 3, 43_680_027, 1278.3, 1, "MIT", _PUBLISHED),
)


def table() -> list[str]:
    """The catalogue as lines of text, columns aligned."""
    head = ("model", "variant", "scale", "parameters", "GMAC at 512", "steps", "licence", "status")
    rows = [
        (
            e.family,
            e.variant,
            f"x{e.scale}",
            f"{e.parameters / 1e6:.1f} M",
            f"{e.gmac:,.1f}",
            str(e.steps),
            e.licence,
            e.status,
        )
        for e in CATALOGUE
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numbers = {2, 3, 4, 5}  # columns that are set flush right
    return [
        "  ".join(
            cell.rjust(w) if i in numbers else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
