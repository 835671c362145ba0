"""Calibration tiles: crops of real pictures, chosen by a seed, in the value range of the network.

Tiles are kept as 8-bit pixels (3*h*w bytes each) and handed out one by one as float32. Which pictures they came from,
by SHA-256, and which were skipped and why, is kept beside them for the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from zoomrt.bundle import NoiseFacts
from zoomrt.errors import InputError, MissingDependency
from zoomrt.files import exists, is_folder, sha256_of, walk
from zoomrt.runtime.pictures.formats import READABLE
from zoomrt.runtime.pictures.images import read_rgb8
from zoomrt.runtime.tiles.noise import noise_at

SCALE = 4
BLUR_SIGMA = (0.2, 1.5)
"""Gaussian blur in HR pixels; Real-ESRGAN (arXiv 2107.10833, section 4.1) draws up to 3."""
NOISE_SIGMA = (0.0, 10.0)
"""Gaussian noise in 8-bit code values; Real-ESRGAN draws up to 30."""
JPEG_QUALITY = (60, 95)
"""Real-ESRGAN draws from 30 to 95."""
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@dataclass(frozen=True, eq=False)
class Tiles:
    """Low-resolution tiles for calibration; iterating gives (1, 3, h, w) float32 in `value_range`.

    pixels : (N, h, w, 3) RGB uint8.
    noise : of networks that start from noise: its channels follow the picture's, each tile from another place.
    sources : SHA-256 of each picture that gave a tile, by its path as given.
    skipped : why a picture was not used, by its path as given.
    """

    pixels: NDArray[np.uint8]
    value_range: tuple[float, float]
    sources: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    noise: NoiseFacts | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[Tensor]:
        low, high = self.value_range
        for index, tile in enumerate(self.pixels):
            values = torch.from_numpy(tile.transpose(2, 0, 1).astype(np.float32))[None]
            values = values * ((high - low) / 255.0) + low
            if self.noise is not None:
                start = noise_at(self.noise, index * tile.shape[0], 0, *tile.shape[:2])
                values = torch.cat([values, torch.from_numpy(start)[None]], 1)
            yield values

    def cropped(self, side: int) -> Tiles:
        """The upper left `side` x `side` pixels of each."""
        return replace(self, pixels=np.ascontiguousarray(self.pixels[:, :side, :side]))

    @property
    def digest(self) -> str:
        """SHA-256 over pixels, their shape, value range and noise: equal digests mean equal tiles."""
        head = f"{self.pixels.shape} {self.value_range} {self.noise}".encode()
        return hashlib.sha256(head + self.pixels.tobytes()).hexdigest()


def pictures_of(folder: Path) -> list[Path]:
    """The picture files of a folder and its subfolders, by ending, sorted. Raises InputError if there are none."""
    what = f"cannot calibrate with folder {str(folder)!r}"
    if not is_folder(folder):
        seen = "a file" if exists(folder) else "nothing there"
        raise InputError(what, seen=seen, needed="a folder of pictures", remedy="Name a folder.")
    found = [file for file in walk(folder) if file.suffix.lower() in READABLE]
    if not found:
        needed = "files ending in " + ", ".join(READABLE)
        raise InputError(what, seen="no pictures", needed=needed, remedy="Put pictures of your camera there.")
    return found


def tiles_from_pictures(
    pictures: Sequence[Path],
    *,
    count: int,
    height: int,
    width: int,
    value_range: tuple[float, float],
    seed: int,
    high_resolution: bool = False,
    noise: NoiseFacts | None = None,
) -> Tiles:
    """Cut `count` tiles of height x width pixels out of the pictures.

    Pictures are taken in an order drawn from `seed`, each once before any is used again; grey ones become RGB, deep
    ones 8 bits. One that cannot be read, is smaller than a tile or of a single colour is skipped and named.
    high_resolution : crops of four times the size, degraded to low resolution (see `degrade`).
    noise : of `Tiles`.

    The same files, arguments and versions of numpy and Pillow give the same tiles.
    Raises InputError if no picture can be used.
    """
    random = np.random.default_rng(seed)
    factor = SCALE if high_resolution else 1
    waiting = [pictures[index] for index in random.permutation(len(pictures))]
    usable: list[Path] = []
    sources: dict[str, str] = {}
    skipped: dict[str, str] = {}
    tiles: list[NDArray[np.uint8]] = []
    while len(tiles) < count and (waiting or usable):
        path = waiting.pop(0) if waiting else usable[len(tiles) % len(usable)]
        try:
            crop = _crop(read_rgb8(path), factor * height, factor * width, random, path)
        except (InputError, MissingDependency) as refusal:
            skipped[str(path)] = refusal.seen
            usable = [other for other in usable if other != path]  # it may be gone since
            continue
        if str(path) not in sources:
            usable.append(path)
            sources[str(path)] = sha256_of(path)
        tiles.append(degrade(crop, random) if high_resolution else crop)
    if not tiles:
        examples = "; ".join(f"{Path(name).name}: {why}" for name, why in list(skipped.items())[:3])
        raise InputError(
            "no picture can be used for calibration",
            seen=f"{len(pictures)} pictures, all skipped ({examples})" if pictures else "no pictures",
            needed=f"at least one photograph of {factor * width}x{factor * height} pixels",
            remedy="Name a folder with photographs like those that will be upscaled.",
        )
    return Tiles(np.stack(tiles), value_range, sources, skipped, noise)


def _crop(
    pixels: NDArray[np.uint8], height: int, width: int, random: np.random.Generator, path: Path
) -> NDArray[np.uint8]:
    what, remedy = f"cannot calibrate with picture {str(path)!r}", "Leave it out."
    spare = (pixels.shape[0] - height, pixels.shape[1] - width)
    if min(spare) < 0:
        seen = f"{pixels.shape[1]}x{pixels.shape[0]} pixels"
        raise InputError(what, seen=seen, needed=f"at least {width}x{height}", remedy=remedy)
    if pixels.min() == pixels.max():
        raise InputError(what, seen=f"a single value, {pixels.min()}", needed="a photograph", remedy=remedy)
    top, left = (int(random.integers(room + 1)) for room in spare)
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def degrade(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """(4h, 4w, 3) RGB uint8 -> (h, w, 3) RGB uint8, as a small sensor would have seen and stored it.

    Blur, downscale by 4, sensor noise, JPEG: one pass of the chain that BSRGAN and Real-ESRGAN train with, in a milder
    half of their ranges, as calibration wants typical pictures, not the worst ones.
    """
    height, width = picture.shape[0] // SCALE, picture.shape[1] // SCALE
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(random.uniform(*BLUR_SIGMA)))
    image = image.resize((width, height), FILTERS[random.integers(len(FILTERS))])
    noise = random.normal(0.0, random.uniform(*NOISE_SIGMA), (height, width, 3))
    noisy = np.rint(np.asarray(image, np.float64) + noise).clip(0, 255).astype(np.uint8)
    stored = BytesIO()
    Image.fromarray(noisy).save(stored, "JPEG", quality=int(random.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)))
    with Image.open(stored) as read:
        return np.asarray(read.convert("RGB"))
