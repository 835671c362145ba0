"""Calibration tiles: cut where the picture says, the same for the same seed, and bad pictures named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoomrt.bundle import NoiseFacts
from zoomrt.calibration import data
from zoomrt.calibration.data import Tiles, degrade, pictures_of, tiles_from_pictures
from zoomrt.errors import InputError
from zoomrt.runtime.tiles.noise import noise_map


def tiles_of(folder: Path, count: int = 6, seed: int = 3, height: int = 24, width: int = 40, **more: bool) -> Tiles:
    return tiles_from_pictures(
        pictures_of(folder), count=count, height=height, width=width, value_range=(-1.0, 1.0), seed=seed, **more
    )


def windows(folder: Path, height: int, width: int) -> set[bytes]:
    """Every window of every picture."""
    found = set()
    for path in folder.iterdir():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        for top in range(pixels.shape[0] - height + 1):
            for left in range(pixels.shape[1] - width + 1):
                found.add(pixels[top : top + height, left : left + width].tobytes())
    return found


def test_tiles_are_windows_of_the_pictures(pictures: Path) -> None:
    tiles = tiles_of(pictures)
    assert len(tiles) == 6
    assert {tile.tobytes() for tile in tiles.pixels} <= windows(pictures, 24, 40)
    assert len({tile.tobytes() for tile in tiles.pixels}) == 6
    assert {Path(name).name for name in tiles.sources} == {
        "0.png",
        "1.png",
        "2.png",
        "grey.PNG",
    }  # each, before any twice
    for name, digest in tiles.sources.items():
        assert hashlib.sha256(Path(name).read_bytes()).hexdigest() == digest


def test_values(pictures: Path) -> None:
    tiles = tiles_of(pictures)
    for pixels, tensor in zip(tiles.pixels, tiles, strict=True):
        assert (tensor.shape, tensor.dtype) == ((1, 3, 24, 40), torch.float32)
        wanted = pixels.astype(np.float64).transpose(2, 0, 1) / 255 * 2 - 1
        np.testing.assert_allclose(tensor[0].numpy(), wanted, atol=1e-6)


def test_seed_decides(pictures: Path) -> None:
    assert tiles_of(pictures).digest == tiles_of(pictures).digest
    assert tiles_of(pictures).digest != tiles_of(pictures, seed=4).digest
    tiles = tiles_of(pictures)
    assert tiles.digest != Tiles(tiles.pixels, (0.0, 1.0)).digest
    assert tiles.digest != Tiles(tiles.pixels.reshape(6, 40, 24, 3), tiles.value_range).digest


def test_high_resolution_pictures_are_degraded(pictures: Path) -> None:
    tiles = tiles_of(pictures, height=12, width=16, high_resolution=True)
    assert tiles.pixels.shape == (6, 12, 16, 3)
    assert tiles.digest == tiles_of(pictures, height=12, width=16, high_resolution=True).digest


def test_degraded_is_the_small_picture_with_faults(rng: np.random.Generator) -> None:
    """A smooth picture comes out close to its own block means, but never equal: blur, noise and JPEG were at work."""
    y, x = np.mgrid[0:128, 0:160] / 20.0
    smooth = (127 + 100 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], 2)).astype(np.uint8)
    wanted = smooth.reshape(32, 4, 40, 4, 3).mean((1, 3))
    results = [degrade(smooth, rng).astype(np.float64) for _ in range(8)]
    for result in results:
        assert result.shape == (32, 40, 3)
        assert 0.1 < np.abs(result - wanted).mean() < 16
    assert len({result.tobytes() for result in results}) == 8


def test_noise_is_as_strong_as_it_says(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a flat picture, nearly uncompressed; JPEG stores colour at half resolution, so some of it is lost."""
    monkeypatch.setattr(data, "NOISE_SIGMA", (10.0, 10.0))
    monkeypatch.setattr(data, "JPEG_QUALITY", (95, 95))
    flat = np.full((256, 256, 3), 127, np.uint8)
    assert 5 < degrade(flat, rng).std() < 11
    monkeypatch.setattr(data, "NOISE_SIGMA", (0.0, 0.0))
    assert np.ptp(degrade(flat, rng)) <= 1


def test_a_picture_that_disappears(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first tile it cannot be read again: the others go on."""
    real, seen = data.read_rgb8, set()

    def once(path: Path) -> np.ndarray:
        if path.name == "1.png" and path in seen:
            raise InputError("cannot read it", seen="nothing there", needed="a picture", remedy="Look.")
        seen.add(path)
        return real(path)

    monkeypatch.setattr(data, "read_rgb8", once)
    tiles = tiles_of(pictures, count=20)
    assert len(tiles) == 20
    assert {Path(name).name: why for name, why in tiles.skipped.items()} == {"1.png": "nothing there"}


def test_bad_pictures_among_good_ones_are_named(pictures: Path) -> None:
    (pictures / "a.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 64)).save(pictures / "black.png")
    Image.new("RGB", (8, 64), "red").save(pictures / "narrow.png")
    (pictures / "notes.txt").write_text("no picture, and not taken for one")
    tiles = tiles_of(pictures, count=12)
    why = {Path(name).name: reason for name, reason in tiles.skipped.items()}
    assert why == {
        "a.png": "content of no known format",
        "black.png": "a single value, 0",
        "narrow.png": "8x64 pixels",
    }
    assert len(tiles) == 12
    assert len(tiles.sources) == 4


def test_one_picture_is_enough(tmp_path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "only.png")
    assert len(tiles_of(tmp_path, count=5)) == 5


def test_sixteen_bit_grey(tmp_path: Path) -> None:
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    tile = tiles_of(tmp_path, count=1, height=256, width=256).pixels[0]
    np.testing.assert_allclose(tile[..., 1], grey / 257.0, atol=1)
    assert tile.min() == 0
    assert tile.max() == 255


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "black", "small"])
def test_nothing_usable(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "f"
    if kind == "file":
        folder.write_text("x")
    elif kind != "missing":
        folder.mkdir()
    if kind in ("black", "small"):
        Image.new("RGB", (64, 64) if kind == "black" else (8, 8)).save(folder / "p.png")
    said = {"missing": "nothing there", "file": "a file", "empty": "no pictures", "black": "single", "small": "8x8"}
    with pytest.raises(InputError, match=said[kind]):
        tiles_of(folder)


def test_start_noise_follows_the_picture(rng: np.random.Generator) -> None:
    """Channels of the one map, from another place for each tile; crops are those of the pixels."""
    noise = NoiseFacts(channels=4, seed=int(rng.integers(1 << 30)))
    pixels = rng.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    plain, noisy = Tiles(pixels, (0.0, 1.0)), Tiles(pixels, (0.0, 1.0), noise=noise)
    for index, (tile, with_noise) in enumerate(zip(plain, noisy, strict=True)):
        assert torch.equal(with_noise[:, :3], tile)
        start = noise_map(noise)[:, index * 24 : (index + 1) * 24, :24]
        assert np.array_equal(with_noise[0, 3:].numpy(), start)
    assert noisy.digest != plain.digest
    assert np.array_equal(noisy.cropped(8).pixels, pixels[:, :8, :8])
    assert next(iter(noisy.cropped(8))).shape == (1, 7, 8, 8)
