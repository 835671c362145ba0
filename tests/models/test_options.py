"""What families have besides a checkpoint: refused where a family has it not, asked for where it is missing, hashed."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export import cache
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.families import FAMILIES, check, options_of
from zoomrt.models.options import Choice, File, Number, Option, Text, Values, Whole, fingerprint, given, stored_bytes

OPTIONS = options_of(None)


def test_given() -> None:
    assert given(base=Path(), coeff_t=0, prompt="", steps=None) == {"base": Path(), "coeff_t": 0, "prompt": ""}


def test_taken(tmp_path: Path) -> None:
    check(FAMILIES.named("hypir"), {"base": tmp_path, "coeff_t": 0})
    check(FAMILIES.named("edge"), {})
    check(None, {"base": tmp_path, "coeff_t": 0})


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("osediff", {"coeff_t": 0}, r"osediff does not take --coeff-t.*--base, --prompt, --prompt-embedding.*hypir\."),
        ("edge", {"steps": 2}, r"edge does not take --steps.*no options of its own.*jit-sr and resshift and skipdiff"),
        ("edge", {"prompt": ""}, r"does not take --prompt:"),
        ("edge", {"stesp": 2}, r"unknown option of a model: got '--stesp'"),
        ("hypir", {"coef_t": 2}, r"Did you mean --coeff-t"),
        (None, {"samplr": "heun"}, r"Did you mean --sampler"),
        (None, {"sampler": "huen"}, r"unknown sampler.*Did you mean heun"),
        ("hypir", {}, r"model hypir needs --base.*base, which the file's adapters change.*docs/models/hypir\.md"),
    ],
)
def test_refused(model: str | None, options: Values, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(None if model is None else FAMILIES.named(model), options)


def test_two_prompts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other: got --prompt-embedding and --prompt"):
        check(FAMILIES.named("osediff"), {"prompt": "", "prompt_embedding": tmp_path})


@pytest.mark.parametrize("option", [option for option in OPTIONS if isinstance(option.kind, File)], ids=str)
def test_paths_where_nothing_is(tmp_path: Path, option: Option) -> None:
    with pytest.raises(CheckpointError, match=rf"what {option.flag} names.*nothing at .*gone"):
        check(None, {option.key: tmp_path / "gone"})
    check(None, {option.key: tmp_path})


@pytest.mark.parametrize(
    ("kind", "fine", "wrong"),
    [
        (Text(), ["", "a"], [1, None, Path()]),
        (Choice(("a", "b")), ["a"], ["", "c", 1, None]),
        (Whole(1, 4), [1, 4], [0, 5, 1.5, "1", True, None]),
        (Number(0, 1), [0, 1, 0.5], [-0.1, 1.1, math.nan, math.inf, "0", True, None]),
        (Number(0, 1, above=True), [0.1, 1], [0]),
        (File(), [Path()], ["x", None]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds(kind: object, fine: list[object], wrong: list[object]) -> None:
    option = Option("an-option", "help", kind)
    for value in fine:
        option.check(value)
    for value in wrong:
        with pytest.raises(UsageError, match=r"--an-option|unknown an-option"):
            option.check(value)


def test_one_name_means_one_thing() -> None:
    """The command line takes it before the family is known, and the cache key hashes it."""
    kinds = {option.key: option.kind for option in OPTIONS}
    for family in FAMILIES.records():
        for option in family.options:
            assert option.kind == kinds[option.key], (family.name, option.name)


def base_folder(root: Path) -> Path:
    for name in ("unet", "vae", "text_encoder", "tokenizer", "safety_checker"):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text(name)
        (root / name / "model.safetensors").write_text(name)
        (root / name / "model.fp16.safetensors").write_text(name)
    (root / "tokenizer" / "merges.txt").write_text("m")
    return root


READ = ["unet/config.json", "unet/model.safetensors", "vae/model.safetensors"]
UNREAD = ["unet/model.fp16.safetensors", "safety_checker/model.safetensors"]
TEXT = ["text_encoder/model.safetensors", "tokenizer/merges.txt"]


@pytest.mark.parametrize("name", [*READ, *UNREAD, *TEXT])
@pytest.mark.parametrize("embedding", [False, True])
def test_fingerprint_follows_the_files_that_are_read(tmp_path: Path, name: str, embedding: bool) -> None:
    base = base_folder(tmp_path / "base")
    (tmp_path / "e.npy").write_text("e")
    more = {"prompt_embedding": tmp_path / "e.npy"} if embedding else {}
    before = fingerprint(OPTIONS, {"base": base, **more})
    (base / name).write_text("changed")
    matters = name in READ or (name in TEXT and not embedding)
    assert (fingerprint(OPTIONS, {"base": base, **more}) != before) == matters


def test_fingerprint_forgets_the_place(tmp_path: Path) -> None:
    prints = [fingerprint(OPTIONS, {"base": base_folder(tmp_path / name), "prompt": "a"}) for name in "ab"]
    assert prints[0] == prints[1] != fingerprint(OPTIONS, {"base": tmp_path / "a", "prompt": "b"})


def test_a_folder_counts_with_all_that_is_in_it(tmp_path: Path) -> None:
    """Where its kind does not say that less of it is read."""
    option = Option("parts", "help", File())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("1")
    before = fingerprint([option], {"parts": tmp_path})
    (tmp_path / "a" / "b").write_text("2")
    assert fingerprint([option], {"parts": tmp_path}) != before


def test_stored_bytes_are_those_of_the_files_that_are_read(tmp_path: Path) -> None:
    def write(name: str) -> int:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.randbytes(random.randrange(1, 257)))
        return path.stat().st_size

    weights, decoder, single = write("w"), write("d"), write("single")
    base = write("base/unet/diffusion_pytorch_model.safetensors") + write("base/vae/diffusion_pytorch_model.bin")
    write("base/unet/diffusion_pytorch_model.fp16.safetensors")
    write("base/text_encoder/model.safetensors")
    assert stored_bytes(None, OPTIONS, {}) == 0
    assert stored_bytes(tmp_path / "missing", OPTIONS, {}) == 0
    assert stored_bytes(tmp_path / "w", OPTIONS, {"base": tmp_path / "base"}) == weights + base
    both = {"base": tmp_path / "single", "decoder": tmp_path / "d"}
    assert stored_bytes(tmp_path / "w", OPTIONS, both) == weights + decoder + single


def test_content_key_carries_the_options(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []

    def record(key: str) -> None:
        keys.append(key)
        raise KeyboardInterrupt  # far enough

    monkeypatch.setattr(cache, "fetch", record)
    for options in ({}, {}, {"coeff_t": 1}, {"coeff_t": 2}):
        with pytest.raises(KeyboardInterrupt):
            build(BuildRequest(weights=tiny_edge_weights, tile=32, options=options), tmp_path / "b")
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_edge_takes_nothing(tmp_path: Path, tiny_edge_weights: Path) -> None:
    with pytest.raises(UsageError, match="edge does not take --base"):
        build(BuildRequest(weights=tiny_edge_weights, tile=32, options={"base": tmp_path}), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
