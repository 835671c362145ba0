"""What a family may need besides a checkpoint: refused where it is not taken, asked for where it is missing, hashed."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export import cache
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.sources import NO_SOURCES, Sources


def test_given_and_taken() -> None:
    sources = Sources(base=Path(), coeff_t=0)
    assert sources.given() == {"base": Path(), "coeff_t": 0}
    sources.check("hypir", ("base", "coeff_t"))
    NO_SOURCES.check("edge", ())


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (Sources(coeff_t=0), r"osediff does not take --coeff-t.*--base, --prompt-embedding"),
        (Sources(decoder=Path("x")), r"does not take --decoder"),
        (Sources(prompt=""), r"does not take --prompt:"),
    ],
)
def test_refused(sources: Sources, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sources.check("osediff", ("base", "prompt_embedding"))


def test_two_prompts() -> None:
    with pytest.raises(UsageError, match="two prompts"):
        Sources(prompt="", prompt_embedding=Path()).check("m", ("prompt", "prompt_embedding"))


def test_paths_where_nothing_is(tmp_path: Path) -> None:
    for name in ("base", "decoder", "autoencoder", "prompt_embedding"):
        with pytest.raises(CheckpointError, match=rf"what --{name.replace('_', '-')} names.*nothing at .*gone"):
            Sources(**{name: tmp_path / "gone"}).check("m", (name,))
    Sources(base=tmp_path).check("m", ("base",))


def test_required() -> None:
    assert Sources(base=Path("x")).required("base", "m", "a base") == Path("x")
    with pytest.raises(UsageError, match=r"model hypir needs --base.*a base.*docs/models/hypir\.md"):
        NO_SOURCES.required("base", "hypir", "a base")


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
    before = Sources(base=base, **more).fingerprint
    (base / name).write_text("changed")
    matters = name in READ or (name in TEXT and not embedding)
    assert (Sources(base=base, **more).fingerprint != before) == matters


def test_fingerprint_forgets_the_place(tmp_path: Path) -> None:
    prints = [Sources(base=base_folder(tmp_path / name), prompt="a").fingerprint for name in "ab"]
    assert prints[0] == prints[1] != Sources(base=tmp_path / "a", prompt="b").fingerprint


def test_content_key_carries_the_sources(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []

    def record(key: str) -> None:
        keys.append(key)
        raise KeyboardInterrupt  # far enough

    monkeypatch.setattr(cache, "fetch", record)
    for sources in (NO_SOURCES, NO_SOURCES, Sources(coeff_t=1), Sources(coeff_t=2)):
        with pytest.raises(KeyboardInterrupt):
            build(BuildRequest(weights=tiny_edge_weights, tile=32, sources=sources), tmp_path / "b")
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_edge_takes_nothing(tmp_path: Path, tiny_edge_weights: Path) -> None:
    with pytest.raises(UsageError, match="edge does not take --base"):
        build(BuildRequest(weights=tiny_edge_weights, tile=32, sources=Sources(base=tmp_path)), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
