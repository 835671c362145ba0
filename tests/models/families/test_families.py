"""The family contract, held by every file in families/ alike; and recognition by keys."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES, family_of
from zoomrt.models.family import SizeRule


@pytest.mark.parametrize("name", FAMILIES.names())
def test_facts_are_consistent(name: str) -> None:
    facts = FAMILIES.named(name)
    assert facts.name == name
    assert facts.scale >= 1
    assert facts.steps >= 1
    assert facts.value_range[0] < facts.value_range[1]
    assert facts.weights_licence
    facts.size.check(facts.tiling.tile)
    assert 0 <= 2 * facts.tiling.context < facts.tiling.overlap <= facts.tiling.tile // 2
    assert facts.embedded_weights is None or facts.embedded_weights.is_file()


@pytest.mark.parametrize("name", FAMILIES.names())
def test_the_builder_takes_the_options_of_the_record(name: str) -> None:
    """By their keys, and no other; one that has to be given has no default."""
    family = FAMILIES.named(name)
    arguments = inspect.signature(import_module(family.module).network).parameters
    own = {key: argument for key, argument in arguments.items() if argument.kind is argument.KEYWORD_ONLY}
    assert [*arguments][:2] == ["family", "checkpoint"]
    assert set(arguments) - {"family", "checkpoint"} == set(own) == {option.key for option in family.options}
    for option in family.options:
        assert (own[option.key].default is inspect.Parameter.empty) == bool(option.required)


def test_records_need_no_torch() -> None:
    code = (
        "import sys; from zoomrt.models.families import FAMILIES; print(FAMILIES.records());"
        "assert not {'torch', 'numpy'} & set(sys.modules), sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'edge'" in run.stdout


def test_unknown_name_suggests() -> None:
    with pytest.raises(UsageError, match=r"Did you mean edge\b"):
        FAMILIES.named("egde")


def test_recognised_by_keys_never_by_name(tmp_path: Path, tiny_edge_weights: Path) -> None:
    renamed = tmp_path / "osediff.pkl"
    torch.save(load_file(tiny_edge_weights), renamed)
    assert family_of(load_checkpoint(renamed)).name == "edge"


def test_foreign_keys_are_named(tmp_path: Path) -> None:
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "edge.safetensors")
    checkpoint = load_checkpoint(tmp_path / "edge.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.weight"):
        family_of(checkpoint)
    with pytest.raises(
        CheckpointError, match=r"not a checkpoint of edge.*got keys like model\.weight, need keys like time_embedding"
    ):
        FAMILIES.named("edge").network(checkpoint)


@pytest.mark.parametrize("tile", [1, 30, 33, 130])
def test_size_rule_offers_legal_sides(tile: int) -> None:
    rule = SizeRule(minimum=32, multiple_of=4)
    with pytest.raises(UsageError) as caught:
        rule.check(tile)
    offered = [int(word.rstrip(".")) for word in caught.value.remedy.split() if word.rstrip(".").isdigit()]
    assert len(offered) == 2
    for side in offered:
        rule.check(side)
