"""The table of docs/kernels.md is what the script writes, and floors are arithmetic."""

from __future__ import annotations

import pytest

from benchmarks import kernel_costs
from zoomrt.kernels.configuration import KERNELS, all_configurations, cdiv
from zoomrt.kernels.cost import Cost


def test_the_page_holds_the_scripts_table() -> None:
    assert kernel_costs.render() in kernel_costs.PAGE.read_text(encoding="utf-8")


def test_every_kernel_has_its_cost() -> None:
    assert {kernel for kernel, _, _ in kernel_costs.CASES} == set(KERNELS)


def test_floors() -> None:
    cost = Cost(bytes=2_000_000, operations=3_000_000_000)
    assert cost.floor_us(1000, 1) == 3000
    assert cost.floor_us(1000, 100) == pytest.approx(30)
    assert cost.floor_us(10, 100) == pytest.approx(200)
    assert cost.bound(10, 100) == "memory"
    assert cost.bound(1000, 100) == "arithmetic"


def test_configurations_are_launchable_records() -> None:
    """Names are unique, every parameter has a type or a value, and the grid needs nothing else."""
    found = all_configurations()
    assert len({c.name for c in found}) == len(found)
    for c in found:
        given = set(c.signature) | set(c.constants)
        assert given == set(c.function.arg_names), c.name
        assert not set(c.signature) & set(c.constants), c.name
        assert set(c.aligned) <= set(c.signature), c.name
        # ascending, as first_row and last_row have to be
        integers = {name: 5 + i for i, (name, kind) in enumerate(c.signature.items()) if kind == "i32"}
        integers |= dict.fromkeys(c.extents, 3)
        assert all(side >= 1 for side in c.grid_of(integers)), c.name


def test_rounding_up() -> None:
    assert [cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
