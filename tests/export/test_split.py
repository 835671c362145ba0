"""The split form of osediff: against a slow float64 run of the authors' tiling, against one pass, end to end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

import slow_reference as slow
from PIL import Image
from published_files import SMALL, random_state, unet_shapes, vae_shapes

import zoomrt
from zoomrt.bundle import open_bundle
from zoomrt.cli import _common, upscale
from zoomrt.cli import build as build_command
from zoomrt.errors import RuntimeFault, UsageError
from zoomrt.export.checkpoint import load_checkpoint
from zoomrt.export.families.osediff import FAMILY
from zoomrt.export.pipeline import BuildRequest, build
from zoomrt.export.schedule import one_step
from zoomrt.export.sources import Sources
from zoomrt.runtime.split_session import SplitSession

EIGHT = replace(SMALL, vae_widths=(32, 32, 32, 64))
"""Eight pixels to a latent, as published."""
TILE, OVERLAP = 8, 4
"""In latents; 16 and 8 LR pixels."""


class Files:
    """A base, an osediff.pkl of whole networks and a prompt, and the split bundle of them."""

    def __init__(self, root: Path) -> None:
        self.unet, self.vae = random_state(unet_shapes(EIGHT)), random_state(vae_shapes(EIGHT))
        self.prompt = torch.randn(1, 77, EIGHT.text_width)
        self.weights, self.embedding = root / "osediff.pkl", root / "prompt.pt"
        torch.save({"unet": self.unet, "vae": self.vae}, self.weights)
        torch.save(self.prompt, self.embedding)
        self.bundle = root / "split"
        build(self.request(form="split"), self.bundle)

    def request(self, **changes: object) -> BuildRequest:
        fields = {"weights": self.weights, "tile": 16, "overlap": 8, "colour": "none"}
        return BuildRequest(**{**fields, "sources": Sources(prompt_embedding=self.embedding), **changes})  # type: ignore[arg-type]

    def reference(self, lr: np.ndarray) -> np.ndarray:
        """(3, h, w) in [-1, 1] -> (3, 4h, 4w) float64, as the authors run it, with the posterior's mean."""
        picture = np.clip(slow.bicubic_x4(lr.astype(np.float64), -0.5), -1, 1)
        high, wide = picture.shape[1:]
        padded = np.zeros((3, math.ceil(high / 8) * 8, math.ceil(wide / 8) * 8))
        padded[:, :high, :wide] = picture
        vae, unet = slow.Weights(self.vae), slow.Weights(self.unet)
        latent = slow.encode(vae, padded) * 0.18215
        prompt = self.prompt[0].double().numpy()
        noise = tiled_noise(latent, lambda z: slow.unet(unet, z, 999, prompt, EIGHT.heads.__getitem__))
        abar = slow.abar(999)
        clean = (latent - math.sqrt(1 - abar) * noise) / math.sqrt(abar)
        return slow.decode(vae, clean / 0.18215)[:, :high, :wide]


def tiled_noise(latent: np.ndarray, predict) -> np.ndarray:
    """osediff.md section 4.1, in float64."""
    high, wide = latent.shape[1:]
    if high * wide <= TILE * TILE:
        return predict(latent)
    side = min(TILE, high, wide)
    total, weights = np.zeros_like(latent), np.zeros((high, wide))
    for j in range(math.ceil((high - side) / (side - OVERLAP)) + 1):
        for i in range(math.ceil((wide - side) / (side - OVERLAP)) + 1):
            top, left = min(j * (side - OVERLAP), high - side), min(i * (side - OVERLAP), wide - side)
            noise = predict(latent[:, top : top + side, left : left + side])
            for y in range(side):
                for x in range(side):
                    weight = math.exp(-((y - side / 2) ** 2 + (x - (side - 1) / 2) ** 2) / (side * side * 0.02))
                    total[:, top + y, left + x] += weight * noise[:, y, x]
                    weights[top + y, left + x] += weight
    return total / weights


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("split"))


@pytest.mark.parametrize("size", [(17, 33), (10, 36), (16, 16), (16, 11)], ids=str)
def test_against_a_slow_run_of_the_authors_tiling(files: Files, size: tuple[int, int]) -> None:
    lr = np.random.default_rng().uniform(-1, 1, (3, *size)).astype(np.float32)
    parts: list[tuple[int, int]] = []
    with zoomrt.load(files.bundle) as upscaler:
        assert isinstance(upscaler._session, SplitSession)
        got = upscaler._session.run(lr[None], lambda *counts: parts.append(counts))
    wanted = files.reference(lr)
    assert got.shape == wanted.shape == (3, 4 * size[0], 4 * size[1])
    # eps multiplied by 14.6 on its way, the peak taken as the value range although random weights exceed it
    psnr = 10 * math.log10(4 / np.mean((got - wanted) ** 2))
    print(f"{psnr:.1f} dB, worst relative difference {np.abs(got - wanted).max() / np.abs(wanted).max():.1e}")
    assert psnr >= 80
    assert parts == [(n + 1, len(parts)) for n in range(len(parts))]
    assert (len(parts) == 3) == (size in [(16, 16), (16, 11)])


def test_one_tile_equals_the_network_of_the_one_graph_form(files: Files) -> None:
    network = FAMILY.network(load_checkpoint(files.weights), Sources(prompt_embedding=files.embedding))
    frame = np.random.default_rng().random((16, 16, 3), np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(frame * 2 - 1).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy() / 2 + 0.5
    assert ((wanted > 0) & (wanted < 1)).mean() > 0.3
    with zoomrt.load(files.bundle) as split:
        assert np.abs(split(frame) - np.clip(wanted, 0, 1)).max() <= 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 33), (5, 7)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("grey", [False, True])
def test_any_size_comes_out_four_times_as_large(files: Files, size: tuple[int, int], dtype: type, grey: bool) -> None:
    values = np.random.default_rng().random(size if grey else (*size, 3))
    frame = values.astype(np.float32) if dtype is np.float32 else np.rint(values * 255).astype(np.uint8)
    with zoomrt.load(files.bundle) as upscaler:
        result = upscaler(frame)
    assert result.shape == (4 * size[0], 4 * size[1], *frame.shape[2:])
    assert result.dtype == frame.dtype


def test_manifest(files: Files) -> None:
    manifest = open_bundle(files.bundle).manifest
    step = one_step(999)
    assert manifest.split is not None
    assert (manifest.split.pixels_per_latent, manifest.split.latent_gain) == (8, step.latent)
    assert manifest.split.noise_gain == step.noise
    assert manifest.graphs == {part: f"fp32-{part}.onnx" for part in ("encoder", "unet", "decoder")}
    assert set(manifest.graphs.values()) <= set(manifest.files)
    assert manifest.parity["split"]["results"][0]["psnr_db"] >= 80
    assert (manifest.tile.height, manifest.tile.overlap, manifest.tile.context) == (16, 8, 0)


def test_closed_while_it_runs(files: Files) -> None:
    upscaler = zoomrt.load(files.bundle)
    with pytest.raises(RuntimeFault, match="closed upscaler"):
        upscaler(np.zeros((20, 20, 3), np.uint8), on_tile=lambda *_: upscaler.close())


def test_commands(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--weights", str(files.weights), "--prompt-embedding", str(files.embedding), "--tile", "16"]
    seen: list[BuildRequest] = []
    monkeypatch.setattr(build_command, "build_with_progress", lambda request, *_, **__: seen.append(request))
    assert _common.run(build_command.cli, [*words, "--form", "split", "--colour", "wavelet", "--quiet"]) == 0
    assert (seen[0].form, seen[0].colour) == ("split", "wavelet")
    pixels = np.random.default_rng().integers(0, 256, (18, 25, 3), np.uint8)
    Image.fromarray(pixels).save("in.png")
    assert _common.run(upscale.cli, [str(files.bundle), "in.png", "-o", "out.png", "--quiet"]) == 0
    with zoomrt.load(files.bundle) as upscaler, Image.open("out.png") as written:
        assert np.array_equal(np.asarray(written), upscaler(pixels))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "fp16"}, r"split form.*precision fp16.*target cpu, precision fp32, batch 1"),
        ({"target": "sm89"}, r"split form.*target sm89"),
        ({"batches": (1, 2)}, r"split form.*batch 1,2"),
        ({"form": "spilt"}, r"unknown form.*split"),
        ({"colour": "wavelt"}, r"unknown colour policy.*Did you mean wavelet"),
    ],
)
def test_requests_that_cannot_be_met(tmp_path: Path, files: Files, changes: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build(files.request(**{"form": "split", **changes}), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_family_without_parts_says_so(tmp_path: Path, tiny_edge_weights: Path) -> None:
    with pytest.raises(UsageError, match=r"no split form.*osediff or hypir"):
        build(BuildRequest(weights=tiny_edge_weights, tile=32, overlap=8, form="split"), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
