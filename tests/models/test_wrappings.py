"""Every family's file in every wrapping that training code puts around a state dict: the same network comes out."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import DIFFUSION, EXAMPLES
from torch import Tensor, nn

from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES, family_of

Content = dict[str, Any]


def poison(content: Any) -> Any:
    """The same with other numbers, as the weights are of which an average was taken."""
    if isinstance(content, Tensor):
        return torch.full_like(content, float("nan")) if content.is_floating_point() else content
    return {key: poison(value) for key, value in content.items()} if isinstance(content, dict) else content


def prefixed(prefix: str) -> Callable[[Content], Content]:
    return lambda content: {f"{prefix}{key}": value for key, value in content.items()}


def under(name: str, **beside: Any) -> Callable[[Content], Content]:
    return lambda content: {**beside, name: content}


class Callback:
    """Stands for `ModelCheckpoint` and others while a file is written."""

    def __init__(self, best: float) -> None:
        self.best, self.compare = best, torch.lt


class AttributeDict(dict):
    """Stands for Lightning's, in which hyperparameters are."""


def lightning(content: Content) -> Content:
    """A checkpoint of Lightning 1.x: callbacks by class, hyperparameters, the optimiser's state."""
    parameters = {0: {"step": 3, "exp_avg": torch.rand(2)}, 1: {"step": torch.tensor(3)}}
    return {
        "epoch": 3,
        "global_step": 7,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {Callback: {"best_model_score": torch.tensor(0.5), "monitor": None, "self": Callback(0.5)}},
        "optimizer_states": [{"state": parameters, "param_groups": [{"params": [0, 1]}]}],
        "lr_schedulers": [],
        "state_dict": OrderedDict(prefixed("model.")(content)),
        "hyper_parameters": AttributeDict(ckpt=Path("x"), seen=defaultdict(list, a=[1])),
        "loss.discriminator.main.3.num_batches_tracked": torch.tensor(4),
    }


WRAPPINGS: dict[str, Callable[[Content], Content]] = {
    "bare": dict,
    "state_dict": under("state_dict", epoch=3),
    "params": under("params"),
    "params_ema": lambda c: {"params": poison(c), "params_ema": c},
    "model": under("model", optimizer={"state": {0: {"exp_avg": torch.ones(2)}}}),
    "generator": under("generator"),
    "two averages": lambda c: {"model": poison(c), "model_ema1": c, "model_ema2": poison(c)},
    "module.": prefixed("module."),
    "model.": prefixed("model."),
    "compiled": prefixed("module._orig_mod."),
    "mmagic": lambda c: {
        "state_dict": {
            "step_counter": torch.tensor([9]),
            **prefixed("generator.")(poison(c)),
            **prefixed("generator_ema.")(c),
        },
        "meta": {"epoch": 1},
    },
    "averaged model": lambda c: {"n_averaged": torch.tensor(4), **prefixed("module.")(c)},
    "lightning": lightning,
}


@pytest.fixture
def absent_classes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The stand-ins' classes can be imported while the file is written, and no longer after the call."""
    module = types.ModuleType("a_library_that_is_not_here.callbacks")
    for kind in (Callback, AttributeDict):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "a_library_that_is_not_here", types.ModuleType("a_library_that_is_not_here"))
    return lambda: sys.modules.pop(module.__name__) and None


@pytest.mark.parametrize(
    ("wrapping", "form"), [*((one, "zip") for one in WRAPPINGS), ("bare", "pickles"), ("lightning", "pickles")]
)
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_tensors(tmp_path: Path, absent_classes, name: str, wrapping: str, form: str) -> None:
    if name in DIFFUSION:
        pytest.importorskip("diffusers")
    example = EXAMPLES[name]()
    path = tmp_path / "w.pth"
    torch.save(WRAPPINGS[wrapping](example.content), path, _use_new_zipfile_serialization=form == "zip")
    absent_classes()
    checkpoint, family = load_checkpoint(path), FAMILIES.named(example.family)
    assert family.recognises(checkpoint)
    if example.family not in ("sinsr", "resshift"):  # whose keys are the same
        assert family_of(checkpoint) is family
    for inner in (example.content, *(one for one in example.content.values() if isinstance(one, dict))):
        rebuilt = family.layout.rebuilt
        wanted = {k: t for k, t in inner.items() if isinstance(t, Tensor) and not (rebuilt and k.endswith(rebuilt))}
        state = checkpoint.find(*inner)
        assert state is not None
        got = checkpoint.tensors(state, rebuilt)
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("wrapping", ["mmagic", "lightning"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_same_network(tmp_path: Path, absent_classes, name: str, wrapping: str) -> None:
    """The two hardest, to the end: what is built computes with the same numbers."""
    if name in DIFFUSION:
        pytest.importorskip("diffusers")
    example = EXAMPLES[name]()
    family, options = FAMILIES.named(example.family), example.options_in(tmp_path)
    torch.save(example.content, tmp_path / "bare.pth")
    torch.save(WRAPPINGS[wrapping](example.content), tmp_path / "w.pth")
    absent_classes()
    networks: list[nn.Module] = []
    for file in ("bare.pth", "w.pth"):
        checkpoint = load_checkpoint(tmp_path / file)
        family.fitted(checkpoint)
        networks.append(family.network(checkpoint, options))
    one, other = (network.state_dict() for network in networks)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
