"""The memory plan: its sums, its table, and refusals that come before the work."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn, randn

from zoomrt.bundle import TileFacts
from zoomrt.bundle.records import MemoryPlan, Stage
from zoomrt.errors import OutOfMemory
from zoomrt.export.memory import plan as memory
from zoomrt.export.memory.plan import check_budget, check_files, memory_table, plan_memory
from zoomrt.export.precisions import PRECISIONS
from zoomrt.runtime.backends import BACKENDS

WIDTH = 64
WEIGHTS = 4 * (3 * WIDTH * 9 + WIDTH + WIDTH * 3 * 9 + 3)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 3, padding=1)).eval()


def tile(side: int, batches: tuple[int, ...] = (1,)) -> TileFacts:
    return TileFacts(
        scale=1,
        height=side,
        width=side,
        batches=batches,
        overlap=2,
        context=0,
        value_range=(-1.0, 1.0),
        dtype="float32",
    )


def plan(side: int = 128, batches: tuple[int, ...] = (1,), precision: str = "fp32", backend: str = "onnxruntime"):
    facts = tile(side, batches)
    return plan_memory(
        network(),
        facts,
        probe=48,
        precision=PRECISIONS.named(precision),
        backend=BACKENDS.named(backend),
        stored=WEIGHTS,
    )


def stages(found: MemoryPlan) -> dict[str, Stage]:
    return {stage.name: stage for stage in found.stages}


def test_stages_of_each_kind_of_build() -> None:
    assert list(stages(plan())) == ["weights", "reference", "export", "parity"]
    names = ["weights", "reference", "fp16", "export", "parity", "engine"]
    assert list(stages(plan(precision="fp16", backend="tensorrt_rtx"))) == names
    quantised = stages(plan(precision="int8", backend="tensorrt_rtx"))
    assert list(quantised) == ["weights", "reference", "calibrate", *names[2:]]
    assert quantised["engine"].weights == WEIGHTS // 4
    assert "fp16" not in stages(plan(precision="int8"))


def test_weights_and_activations_are_counted() -> None:
    found = stages(plan(128, (1, 2, 5), precision="fp16"))
    assert found["weights"].weights == found["reference"].weights == WEIGHTS
    assert found["export"].weights == found["parity"].weights == WEIGHTS // 2
    assert found["reference"].activations == 5 * 128 * 128 * 4 * (3 + WIDTH + 3)  # the largest batch
    assert found["fp16"].activations == 5 * 48 * 48 * 4 * (3 + WIDTH + 3)  # the small tiles together
    assert found["weights"].activations == found["export"].activations == 0


def test_files_beside_the_weights() -> None:
    def workspace(stored: int) -> int:
        made = plan_memory(
            network(),
            tile(32),
            probe=32,
            precision=PRECISIONS.named("fp32"),
            backend=BACKENDS.named("onnxruntime"),
            stored=stored,
        )
        return stages(made)["weights"].workspace - 600_000_000

    assert workspace(WEIGHTS) == 0  # FP32, and the tensors of the file become the network's
    assert workspace(WEIGHTS + 1000) == 1000  # adapters
    assert workspace(WEIGHTS // 2) == WEIGHTS // 2  # FP16, widened


def test_json_is_plain_and_the_peak_is_the_largest() -> None:
    found = plan(256, precision="fp16", backend="tensorrt_rtx")
    totals = {stage.name: stage.total for stage in found.stages}
    assert found.peak.total == max(totals.values()) == totals[found.peak.name]
    assert all(s.total == s.weights + s.activations + s.workspace for s in found.stages)
    assert list(found.parts) == ["0", "1"]
    assert msgspec.json.decode(msgspec.json.encode(found), type=MemoryPlan) == found


def test_table() -> None:
    made = MemoryPlan(
        (Stage("weights", 3_800_000_000, 0, 500_000_000), Stage("parity", 999_400_000, 1_000_000, 0)),
        {"encoder": 674_000_000, "to_mean": 4_000_000, "unet": 140_000_000, "decoder": 809_000_000},
    )
    assert memory_table(made) == [
        "memory           weights  activations   workspace     total",
        "  weights        3.80 GB         0 MB      500 MB   4.30 GB",
        "  parity          999 MB         1 MB        0 MB   1.00 GB",
        "  peak 4.30 GB in weights; activations by part: decoder 809 MB, encoder 674 MB, unet 140 MB",
    ]


@given(st.lists(st.tuples(*[st.integers(0, 10**11)] * 3), min_size=1, max_size=6), st.integers(1, 10**12))
def test_budget(rows: list[tuple[int, int, int]], limit: int) -> None:
    made = MemoryPlan(tuple(Stage(f"stage{i}", *row) for i, row in enumerate(rows)), {})
    above = [f"stage{i}" for i, row in enumerate(rows) if sum(row) > limit]
    if not above:
        check_budget(made, limit)
        return
    with pytest.raises(OutOfMemory) as caught:
        check_budget(made, limit)
    assert [part.split()[0] for part in caught.value.seen.split("; ")] == above
    assert memory.size(max(map(sum, rows))) in caught.value.remedy
    weight_bound = any(row[0] + row[2] > limit for row in rows)
    assert ("smaller --tile" in caught.value.remedy) != weight_bound


def test_what_the_system_allows_is_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tighter one of both is named."""
    made = MemoryPlan((Stage("reference", 600, 300, 100),), {})
    monkeypatch.setattr(memory, "address_space", lambda: 999.0)
    for allowed in (None, 1000, 10**9):
        with pytest.raises(OutOfMemory, match=r"address space of this process \(ulimit -v\).*allow"):
            check_budget(made, allowed)
        with pytest.raises(OutOfMemory, match="ulimit -v"):
            check_files(0, allowed)
    with pytest.raises(OutOfMemory, match="--max-memory"):
        check_budget(made, 998)
    monkeypatch.setattr(memory, "address_space", lambda: 1000.0)
    check_budget(made, None)


def test_no_budget_is_no_limit() -> None:
    check_budget(plan(), None)
    check_files(10**15, None)


def test_files_alone_can_be_too_much(tmp_path: Path) -> None:
    save_file({"w": randn(250_000)}, tmp_path / "w")
    stored = (tmp_path / "w").stat().st_size
    assert stored == pytest.approx(1_000_000, rel=0.01)
    check_files(stored, 600_000_000 + stored)
    with pytest.raises(
        OutOfMemory, match=r"--max-memory: got weights files of 1 MB, and \d+ MB .* need \d+ MB or less"
    ):
        check_files(stored, 600_000_000 + stored - 1)
