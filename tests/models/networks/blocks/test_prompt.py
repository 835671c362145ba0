"""Prompts: read from a file of any plain kind, or encoded; padded as Stable Diffusion 2 pads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import transformers
from published_files import write_text_encoder
from safetensors.torch import save_file

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.models.networks.blocks.prompt import Prompt, check_prompt, encoded_prompt

WIDTH = 48


@pytest.mark.parametrize("kind", ["safetensors", "pt", "pt-dict", "npy"])
@pytest.mark.parametrize("shape", [(1, 77, WIDTH), (77, WIDTH)])
def test_from_a_file(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    path = tmp_path / f"e.{kind.split('-')[0]}"
    if kind == "safetensors":
        save_file({"any": tensor}, path)
    elif kind == "npy":
        np.save(path, tensor.numpy())
    else:
        torch.save({"any": tensor} if kind == "pt-dict" else tensor, path)
    got = encoded_prompt(Prompt(embedding=path), WIDTH, "m")
    torch.testing.assert_close(got, tensor.reshape(1, 77, WIDTH), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(1, 77, WIDTH + 1), r"shape \(1, 77, 49\)"),
        (torch.zeros(2, 77, WIDTH), r"shape \(2, 77, 48\)"),
        (torch.full((77, WIDTH), float("nan")), r"non-finite"),
        ({"a": torch.zeros(1), "b": torch.zeros(1)}, r"2 tensors"),
        ({"a": 3}, r"0 tensors"),
        ([1], r"0 tensors"),
        (torch.zeros(77, WIDTH, dtype=torch.int8), r"int8"),
        (torch.zeros(77, WIDTH).to_sparse(), r"sparse"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, value: object, said: str) -> None:
    torch.save(value, tmp_path / "e.pt")
    with pytest.raises(CheckpointError, match=said):
        encoded_prompt(Prompt(embedding=tmp_path / "e.pt"), WIDTH, "m")


def test_npy_that_is_a_pickle(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", np.array([Path("x")], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="cannot be used"):
        encoded_prompt(Prompt(embedding=tmp_path / "e.npy"), WIDTH, "m")


@pytest.mark.parametrize("array", [np.zeros((77, WIDTH), np.int8), np.zeros((77, WIDTH), complex), np.zeros((77, 1))])
def test_npy_of_other_numbers(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "e.npy", array)
    with pytest.raises(CheckpointError, match=r"cannot be used|shape \(77, 1\)"):
        encoded_prompt(Prompt(embedding=tmp_path / "e.npy"), WIDTH, "m")


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 77)}", "{'a" * 9]
)
def test_npy_that_lies(tmp_path: Path, header: str) -> None:
    text = header.ljust(118) + "\n"
    (tmp_path / "e.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64))
    with pytest.raises(CheckpointError, match="cannot be used"):
        encoded_prompt(Prompt(embedding=tmp_path / "e.npy"), WIDTH, "m")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_encoder(tmp_path_factory.mktemp("base"), WIDTH)


@pytest.mark.parametrize("text", [None, "", "ab"])
def test_encoded_with_hand_made_tokens(base: Path, text: str | None) -> None:
    """transformers' own loading of the folder, and token numbers counted by hand: start, words, end, then pad = 0."""
    vocabulary = 1 + 26 + 26 + 1
    start, end = vocabulary, vocabulary + 1
    letters = {None: [], "": [], "ab": [1, 27 + 1]}[text]  # "a" and "b</w>": no merges, so letters stand alone
    ids = [start, *letters, end]
    ids += [0] * (77 - len(ids))
    model = transformers.CLIPTextModel.from_pretrained(str(base / "text_encoder"), local_files_only=True).eval()
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).last_hidden_state
    got = encoded_prompt(Prompt(base=base, text=text), WIDTH, "m")
    assert got.shape == (1, 77, WIDTH)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_prompt_matters(base: Path) -> None:
    texts = [encoded_prompt(Prompt(base=base, text=text), WIDTH, "m") for text in ("a", "b")]
    assert (texts[0] - texts[1]).abs().max() > 0.01


def test_long_prompts_are_cut(base: Path) -> None:
    assert encoded_prompt(Prompt(base=base, text="a " * 200), WIDTH, "m").shape == (1, 77, WIDTH)


def test_nothing_to_make_it_from(tmp_path: Path) -> None:
    for options in (Prompt(), Prompt(base=tmp_path), Prompt(base=tmp_path / "one.ckpt", text="a")):
        with pytest.raises(UsageError, match=r"--prompt-embedding FILE with a \(1, 77, C\) tensor"):
            encoded_prompt(options, WIDTH, "osediff")


@pytest.mark.parametrize("gone", ["text_encoder", "tokenizer"])
def test_subfolder_that_is_missing(tmp_path: Path, gone: str) -> None:
    base = write_text_encoder(tmp_path, WIDTH)
    shutil.rmtree(base / gone)
    with pytest.raises(UsageError, match=rf"no --prompt-embedding, and no {gone}/ in --base"):
        check_prompt(Prompt(base=base), "osediff")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("text_encoder/config.json", '{"hidden_size": "wide"}'),
        ("text_encoder/config.json", '{"num_hidden_layers": 1000000000}'),
        ("text_encoder/config.json", '{"vocab_size": 1000000000000}'),
        ("tokenizer/vocab.json", "[" * 100_000),
        ("tokenizer/vocab.json", '{"a": "b"}'),
        ("tokenizer/merges.txt", "\0"),
    ],
)
def test_damaged_subfolders(tmp_path: Path, file: str, content: str) -> None:
    base = write_text_encoder(tmp_path, WIDTH)
    if content == "\0":
        (base / file).write_bytes(b"\xff\xfe" * 100)
    else:
        (base / file).write_text(content)
    with pytest.raises(CheckpointError):
        encoded_prompt(Prompt(base=base), WIDTH, "m")


def test_encoder_without_weights(tmp_path: Path) -> None:
    folder = write_text_encoder(tmp_path, WIDTH)
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        encoded_prompt(Prompt(base=folder), WIDTH, "m")
