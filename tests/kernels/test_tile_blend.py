"""Frames blended by the kernel are the runtime's own bytes, and values that are not finite are counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError
from zoomrt.kernels.tile_blend import axis_table, cost, programs, reference, tile_blend
from zoomrt.runtime.tiles import pixels
from zoomrt.runtime.tiles.blend import Blender
from zoomrt.runtime.tiles.plan import AxisPlan, TilePlan, plan


def facts(tile: tuple[int, int], scale: int, value_range: tuple[float, float]) -> TileFacts:
    return TileFacts(
        height=tile[0], width=tile[1], overlap=5, context=1, scale=scale, batches=(1,), value_range=value_range,
        dtype="float32",
    )  # fmt: skip


def tiles_of(generator: torch.Generator, tiles: TilePlan, kind: TileFacts, dtype: torch.dtype) -> Tensor:
    """Random tiles, (rows, columns, 3, height, width), some values beyond black and white."""
    grid = (len(tiles.rows.spans), len(tiles.columns.spans))
    shape = (*grid, 3, kind.height * kind.scale, kind.width * kind.scale)
    low, high = kind.value_range
    return (low + (torch.rand(shape, generator=generator) * 1.2 - 0.1) * (high - low)).to(dtype)


def by_the_runtime(tiles: TilePlan, values: Tensor, kind: TileFacts) -> Tensor:
    scale = kind.scale
    frame = np.empty((tiles.rows.size * scale, tiles.columns.size * scale, 3), np.uint8)
    blender = Blender(tiles)
    for index, tile in enumerate(values.flatten(0, 1).numpy()):
        rows, columns, block = blender.add(index, tile)
        pixels.store(pixels.values_of(block, kind, 3, 255.0), frame[rows, columns], 255.0)
    return torch.from_numpy(frame)


def table(axis: AxisPlan) -> tuple[Tensor, Tensor]:
    return axis_table(axis.spans, axis.ramp)  # type: ignore[arg-type]


CASES = [
    ((17, 29), (9, 12), 2, (-1.0, 1.0), torch.float16),
    ((9, 31), (9, 8), 3, (0.0, 1.0), torch.float32),
    ((5, 7), (9, 12), 2, (0.0, 1.0), torch.float16),
    ((23, 1), (7, 7), 1, (-0.5, 2.0), torch.float32),
]


@pytest.mark.parametrize(("size", "tile", "scale", "value_range", "dtype"), CASES)
def test_the_runtimes_bytes(
    generator: torch.Generator,
    size: tuple[int, int],
    tile: tuple[int, int],
    scale: int,
    value_range: tuple[float, float],
    dtype: torch.dtype,
) -> None:
    """One tile, one row of tiles, both axes; last tiles flush with the edge; a picture smaller than its tile."""
    kind = facts(tile, scale, value_range)
    tiles = plan(*size, kind)
    values = tiles_of(generator, tiles, kind, dtype)
    expected = by_the_runtime(tiles, values, kind)
    frame = torch.full((size[0] * scale, size[1] * scale, 4), 9, dtype=torch.uint8)
    faults = torch.full((programs(*frame.shape[:2]),), torch.nan)
    rows, columns = table(tiles.rows), table(tiles.columns)
    tile_blend(values, rows, columns, frame, value_range, faults=faults)
    assert torch.equal(frame[..., :3], expected)
    assert (frame[..., 3] == 9).all()
    exact = reference(values, rows, columns, value_range)
    assert (exact - frame[..., :3].permute(2, 0, 1)).abs().max() <= 0.5 + 255 * 2.0**-20
    assert (faults == 0).all()

    again = torch.empty((*frame.shape[:2][::-1], 3), dtype=torch.uint8).permute(1, 0, 2)
    assert torch.equal(tile_blend(values, rows, columns, again, value_range), expected)


def test_halves_round_to_even() -> None:
    """As numpy.rint: every code and a half, which FP16 holds exactly in a value range of 0 to 255."""
    kind = facts((16, 16), 1, (0.0, 255.0))
    tiles = plan(16, 16, kind)
    values = (torch.arange(256).reshape(1, 1, 1, 16, 16).expand(1, 1, 3, 16, 16) + 0.5).half()
    frame = torch.zeros(16, 16, 3, dtype=torch.uint8)
    tile_blend(values, table(tiles.rows), table(tiles.columns), frame, (0.0, 255.0))
    assert frame[..., 0].flatten().tolist() == [min(255, k + k % 2) for k in range(256)]


def test_in_bands_from_few_rows_of_tiles(generator: torch.Generator) -> None:
    """As a long frame is finished while two rows of tiles are held."""
    kind = facts((9, 9), 2, (0.0, 1.0))
    tiles = plan(30, 11, kind)
    values = tiles_of(generator, tiles, kind, torch.float32)
    expected = by_the_runtime(tiles, values, kind)
    frame = torch.zeros(60, 22, 3, dtype=torch.uint8)
    held = torch.full((2, *values.shape[1:]), torch.nan)
    done = 0
    for index, span in enumerate(tiles.rows.spans):
        held[index % 2] = values[index]
        tile_blend(held, table(tiles.rows), table(tiles.columns), frame, band=(done, span.done))
        done = span.done
    assert torch.equal(frame, expected)


def test_values_that_are_not_finite_are_counted(generator: torch.Generator) -> None:
    kind = facts((9, 12), 1, (0.0, 1.0))
    tiles = plan(9, 12, kind)
    values = tiles_of(generator, tiles, kind, torch.float16)
    values[0, 0, 1, 2, 3], values[0, 0, 2, 4, 4], values[0, 0, 0, 0, 0] = torch.nan, torch.inf, -torch.inf
    frame, faults = torch.zeros(9, 12, 3, dtype=torch.uint8), torch.zeros(programs(9, 12))
    tile_blend(values, table(tiles.rows), table(tiles.columns), frame, faults=faults)
    assert faults.sum() == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frame": torch.zeros(9, 12, 3)}, "frame torch.float32"),
        ({"frame": torch.zeros(9, 11, 3, dtype=torch.uint8)}, "Use axis_table"),
        ({"tiles": torch.zeros(1, 1, 4, 9, 12)}, "tiles"),
        ({"faults": torch.zeros(2)}, r"float32 \(3,\)"),
        ({"band": (3, 10)}, "rows 3 to 10"),
    ],
)
def test_wrong_arguments_are_told_so(change: dict[str, object], words: str) -> None:
    tiles = plan(9, 12, facts((9, 12), 1, (0.0, 1.0)))
    given = {
        "tiles": torch.zeros(1, 1, 3, 9, 12),
        "rows": table(tiles.rows),
        "columns": table(tiles.columns),
        "frame": torch.zeros(9, 12, 3, dtype=torch.uint8),
    }
    with pytest.raises(InputError, match=words):
        tile_blend(**given | change)  # type: ignore[arg-type]


def test_the_cost_counts_bytes() -> None:
    tiles, frame = torch.empty(6, 3, 8, 8, dtype=torch.float16), torch.empty(20, 12, 3, dtype=torch.uint8)
    assert cost(20, 12, 6, 8, 8).bytes == tiles.nbytes + frame.nbytes + 4 * 4 * (20 + 12)
