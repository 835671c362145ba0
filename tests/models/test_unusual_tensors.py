"""Tensors that are no dense floating-point numbers, in every family and file: refused by name, never computed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoints import DIFFUSION, EXAMPLES
from torch import Tensor

from zoomrt.errors import CheckpointError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES

KINDS = {
    "int8": lambda t: t.to(torch.int8),
    "uint8": lambda t: t.to(torch.uint8),
    "int64": lambda t: t.to(torch.int64),
    "bool": lambda t: t > 0,
    "complex64": lambda t: t.to(torch.complex64),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t, t[:1]]),
}
IN_SAFETENSORS = ("int8", "uint8", "int64", "bool", "complex64")
FORMS = [("zip", kind) for kind in KINDS] + [("pickles", "int8"), ("pickles", "sparse")]
FLAT = [name for name in EXAMPLES if name not in ("osediff", "skipdiff")]  # the others are mappings in a mapping


def replaced(content: dict[str, Any], names: tuple[str, ...], kind: str) -> dict[str, Any]:
    """The content with one tensor of another kind."""
    name, *inner = names
    value = content[name]
    return {**content, name: replaced(value, tuple(inner), kind) if inner else KINDS[kind](value.detach().float())}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "form", "kind"),
    [
        *((name, form, kind) for name in EXAMPLES for form, kind in FORMS),
        *((name, "safetensors", kind) for name in FLAT for kind in IN_SAFETENSORS),
    ],
)
def test_refused_by_name(tmp_path: Path, name: str, form: str, kind: str) -> None:
    if name in DIFFUSION:
        pytest.importorskip("diffusers")
    example = EXAMPLES[name]()
    content, path = replaced(example.content, example.tensor, kind), tmp_path / "w"
    if form == "safetensors":
        save_file({key: tensor.contiguous().clone() for key, tensor in content.items()}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    family = FAMILIES.named(example.family)
    checkpoint = load_checkpoint(path)
    with pytest.raises(CheckpointError, match=rf"tensor '\S*{example.tensor[-1]}'.*got {kind}") as caught:
        family.network(checkpoint, example.options_in(tmp_path))
    assert "need dense floating-point numbers" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_float_is_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    example = EXAMPLES["real-esrgan"]()
    state = {key: tensor.to(dtype) for key, tensor in example.content.items()}
    for write in (torch.save, save_file):
        write(state, tmp_path / "w")
        network = FAMILIES.named("real-esrgan").network(load_checkpoint(tmp_path / "w"))
        assert all(torch.equal(tensor, state[key].float()) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("which", ["decoder", "autoencoder", "wdn_weights", "base", "prompt_embedding"])
def test_second_files_too(tmp_path: Path, which: str) -> None:
    name = {"decoder": "adcsr", "autoencoder": "sinsr", "wdn_weights": "real-esrgan-compact"}.get(which, "hypir")
    if name in DIFFUSION:
        pytest.importorskip("diffusers")
    example = EXAMPLES[name]()
    torch.save(example.content, tmp_path / "w")
    if which == "wdn_weights":
        torch.save(example.content, tmp_path / "wdn")
        options = {"wdn_weights": tmp_path / "wdn"}
    else:
        options = example.options_in(tmp_path)
    path = options[which]
    rounded(path / "vae" / "diffusion_pytorch_model.safetensors" if which == "base" else path)
    with pytest.raises(CheckpointError, match=r"tensor '.*got int8, need dense floating-point numbers"):
        FAMILIES.named(name).network(load_checkpoint(tmp_path / "w"), options)


def rounded(path: Path) -> None:
    """Every tensor of a file becomes int8."""

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(torch.int8)
        return {key: of(one) for key, one in value.items()} if isinstance(value, dict) else value

    if path.suffix == ".safetensors":
        save_file(of(load_file(path)), path)
    else:
        torch.save(of(torch.load(path)), path)
