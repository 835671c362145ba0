"""`trt-build --model NAME`, and nothing else to type: from what a server publishes to a bundle that runs."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import FileServer

import zoomrt
from zoomrt.cli import build
from zoomrt.cli._common import run
from zoomrt.errors import BuildError
from zoomrt.export.request import BuildRequest
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.published.records import Licence, one_file

torch = pytest.importorskip("torch")


def saved(content: object, folder: Path) -> bytes:
    torch.save(content, folder / "content")
    return (folder / "content").read_bytes()


@pytest.fixture
def real_esrgan(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """A small network of the published layout, at the place of the family's second file; its first is not there."""
    from small_checkpoints import EXAMPLES

    server.files["/x2.pth"] = saved(EXAMPLES["real-esrgan"]().content, tmp_path)
    module = import_module("zoomrt.models.families.real_esrgan")
    licence = Licence("Research only", "https://licence.example", commercial=False)
    files = tuple(one_file(f"{server.url}/{name}.pth", licence) for name in ("x4", "x2"))
    monkeypatch.setattr(module, "FAMILY", replace(module.FAMILY, published=files))
    monkeypatch.chdir(tmp_path)
    return server


WORDS = [
    "--model",
    "real-esrgan",
    "--published",
    "x2.pth",
    "--tile",
    "16",
    "--overlap",
    "4",
    "--backend",
    "onnxruntime",
]


def test_from_the_server_to_pixels(real_esrgan: FileServer, tmp_path: Path, capfd: Any) -> None:
    assert run(build.cli, WORDS) == 2
    assert "x2.pth may not be used commercially" in capfd.readouterr().err
    assert real_esrgan.requests == []
    assert run(build.cli, [*WORDS, "--accept-licence"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "licence of x2.pth: Research only, no commercial use, https://licence.example" in out
    assert "fetch x2.pth (size unknown) ..." in out
    assert real_esrgan.asked() == ["/x2.pth"]
    with zoomrt.load(tmp_path / "real-esrgan-fp32-cpu") as upscaler:
        assert upscaler.upscale(np.zeros((16, 16, 3), np.uint8)).shape == (64, 64, 3)
    assert run(build.cli, [*WORDS, "--offline"]) == 0
    assert "from the cache" in capfd.readouterr().out
    assert real_esrgan.asked() == ["/x2.pth"]


def test_a_list_says_what_is_here(real_esrgan: FileServer, capfd: Any) -> None:
    assert run(build.cli, ["--list"]) == 0
    assert real_esrgan.requests == []
    lines = [line.split() for line in capfd.readouterr().out.splitlines() if line.startswith("real-esrgan  ")]
    assert [line[-2:] for line in lines if line[1] == "--weights"] == [["be", "fetched"], ["with", "--published"]]
    (cache := Path(zoomrt.files.cache_path("weights") or "")).mkdir(parents=True)
    (cache / "x2.pth").write_bytes(real_esrgan.files["/x2.pth"])
    assert run(build.cli, ["--list"]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines() if line.startswith("real-esrgan  ")]
    assert [line[-1] for line in lines if line[1] == "--weights"] == ["fetched", "here"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--offline"], 16, "Download by hand: http"),
        ([], 16, "HTTP status 404"),
        (["--published", "x3.pth"], 2, "unknown published file"),
        (["--published", "x2.pth", "--weights", "x2.pth"], 2, "nothing published can be chosen"),
        (["--offline", "--tile", "15"], 16, "without a network"),
        (["--offline", "--precision", "fp61"], 2, "unknown precision"),
    ],
)
def test_refusals(real_esrgan: FileServer, words: list[str], code: int, said: str, capfd: Any) -> None:
    assert run(build.cli, ["--model", "real-esrgan", "--accept-licence", *words]) == code
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert said in err
    assert not real_esrgan.asked() or code == 16
    assert not Path("real-esrgan-fp32-cpu").exists()


def test_osediff_from_the_hub(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Adapters from a web server; UNet, VAE, text encoder and tokenizer of the base model from the hub: a network."""
    for name in ("diffusers", "transformers"):
        pytest.importorskip(name)
    from published_files import (
        SMALL,
        osediff_layout,
        random_state,
        unet_shapes,
        vae_shapes,
        write_base,
        write_text_encoder,
    )

    base = write_base(tmp_path / "b", SMALL, unet=random_state(unet_shapes(SMALL)), vae=random_state(vae_shapes(SMALL)))
    write_text_encoder(base, SMALL.text_width)
    module = import_module("zoomrt.models.families.osediff")
    weights, published = module.FAMILY.published
    files = tuple(replace(file, size=None, sha256="") for file in published.files if (base / file.place).is_file())
    here = {file.place: (base / file.place).read_bytes() for file in files}
    server.repositories[published.repositories[0].name] = here
    server.files["/osediff.pkl"] = saved(osediff_layout(SMALL).content(), tmp_path)
    small = (one_file(f"{server.url}/osediff.pkl", weights.licence), replace(published, files=files))
    monkeypatch.setattr(module, "FAMILY", replace(module.FAMILY, published=small))
    monkeypatch.chdir(tmp_path)
    requests: list[BuildRequest] = []

    def stop(request: BuildRequest, *_: object, **__: object) -> None:
        requests.append(request)
        raise BuildError("enough", seen="a request", needed="no more", remedy="See what it holds.")

    monkeypatch.setattr(build, "build_with_progress", stop)
    assert run(build.cli, ["--model", "osediff"]) == BuildError.exit_code
    assert "RAIL++-M" in capfd.readouterr().out
    assert len(server.asked()) == 1 + len(files)
    (request,) = requests
    assert request.weights == tmp_path / "cache" / "weights" / "osediff.pkl"
    network = module.FAMILY.network(load_checkpoint(request.weights), request.options)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 64, 64)
