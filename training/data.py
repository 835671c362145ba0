"""Training data for `edge`: camera zoom pairs mixed with photographs under a real-world degradation.

A batch is a pure function of (seed, step), so a resumed run sees exactly the crops it would have seen.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SCALE = 4
Pixels = NDArray[np.uint8]  # (H, W, 3) RGB

# Held out of training: the first 15 of every sixth camera pair in name order, so every camera is among them.
HELD_OUT_PAIRS = (
    "Canon_10_x1", "DSC_1045_x1", "DSC_1265_x1", "DSC_1454_x1", "DSC_1603_x1", "IMG_140_x1", "IMG_210_x1",
    "P1140177_x1", "P1140434_x1", "P1171031_x1", "panasonic_145_x1", "panasonic_197_x1", "panasonic_57_x1",
    "sony_116_x1", "sony_169_x1",
)  # fmt: skip
HELD_OUT_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png")
PHOTOGRAPHS = (
    "brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip

# How a training sample is drawn; what is left goes to degraded photographs.
SHARE_CAMERA_PAIR = 0.6
SHARE_CAMERA_HR_DEGRADED = 0.625  # of the other samples
SHARE_PLAIN_BICUBIC = 0.4  # of the degraded samples, those that are only shrunk
SETTLING_SHARE_CAMERA_PAIR = 0.8  # at the end of the training, with `_recoloured`


def read_rgb(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def photograph(name: str) -> Pixels:
    """A photograph that ships inside the scikit-image wheel."""
    return read_rgb(Path(skimage.__file__).parent / "data" / name)


def camera_pairs(root: Path, held_out: bool) -> list[tuple[Pixels, Pixels]]:
    """(lr, hr) pairs under root/lr and root/hr with equal names, either the held-out ones or the others."""
    names = sorted(p.stem for p in (root / "lr").glob("*.png"))
    if missing := sorted(set(HELD_OUT_PAIRS) - set(names)):
        raise FileNotFoundError(
            f"{root}/lr lacks the held-out pairs {missing}; this recipe needs the DRealSR test crops"
        )
    chosen = [name for name in names if (name in HELD_OUT_PAIRS) == held_out]
    return [(read_rgb(root / "lr" / f"{n}.png"), read_rgb(root / "hr" / f"{n}.png")) for n in chosen]


def shrink(hr: Pixels) -> Pixels:
    height, width = hr.shape[0] // SCALE, hr.shape[1] // SCALE
    return np.asarray(Image.fromarray(hr).resize((width, height), Image.Resampling.BICUBIC))


def degrade(hr: Pixels, rng: Generator) -> Pixels:
    """A real-world degradation x4: blur, resize, sensor noise, JPEG, each of random strength or absent."""
    image = Image.fromarray(hr)
    if rng.random() < 0.7:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.2)))
    kernel = (Image.Resampling.BICUBIC, Image.Resampling.BOX, Image.Resampling.BILINEAR)[rng.integers(3)]
    image = image.resize((image.width // SCALE, image.height // SCALE), kernel)
    lr = np.asarray(image).astype(np.float32)
    if rng.random() < 0.5:
        lr = lr + rng.normal(0.0, rng.uniform(0.5, 4.0), lr.shape)  # standard deviation in 8-bit code values
    pixels = lr.round().clip(0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
        pixels = np.asarray(Image.open(buffer))
    return pixels


def _dihedral(lr: Pixels, hr: Pixels, rng: Generator) -> tuple[Pixels, Pixels]:
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))

    def turn(a: Pixels) -> Pixels:
        a = np.rot90(a, turns)
        return a[:, ::-1] if flip else a

    return turn(lr), turn(hr)


@dataclass
class Sampler:
    """Draws batches of aligned (lr, hr) crops."""

    pairs: list[tuple[Pixels, Pixels]]
    photographs: list[Pixels]
    seed: int

    def batch(
        self, step: int, size: int, count: int, *, settling: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(count, 3, size, size) and (count, 3, 4*size, 4*size) float32 in [-1, 1].

        settling : more camera pairs, in other colours and mixed with each other, so that they are not learnt by heart.
        """
        rng = np.random.default_rng((self.seed, step))
        share = SETTLING_SHARE_CAMERA_PAIR if settling else SHARE_CAMERA_PAIR
        samples = [self._sample(size, rng, share) for _ in range(count)]
        lr, hr = _stack([lr for lr, _ in samples]), _stack([hr for _, hr in samples])
        return _recoloured(lr, hr, rng) if settling else (lr, hr)

    def _sample(self, size: int, rng: Generator, share_camera_pair: float) -> tuple[Pixels, Pixels]:
        draw = rng.random()
        if draw < share_camera_pair:
            lr, hr = self.pairs[rng.integers(len(self.pairs))]
            y, x = (int(rng.integers(side - size + 1)) for side in lr.shape[:2])
            lr = lr[y : y + size, x : x + size]
            hr = hr[SCALE * y : SCALE * (y + size), SCALE * x : SCALE * (x + size)]
        else:
            if draw < share_camera_pair + (1 - share_camera_pair) * SHARE_CAMERA_HR_DEGRADED:
                picture = self.pairs[rng.integers(len(self.pairs))][1]
            else:
                picture = self.photographs[rng.integers(len(self.photographs))]
            hr = _random_crop(picture, SCALE * size, rng)
            method: Callable[[Pixels], Pixels] = shrink
            if rng.random() >= SHARE_PLAIN_BICUBIC:
                method = lambda pixels: degrade(pixels, rng)  # noqa: E731
            lr = method(hr)
        return _dihedral(lr, hr, rng)


def _recoloured(
    lr: NDArray[np.float32], hr: NDArray[np.float32], rng: Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The same linear change of colours on both: channels swapped, each dimmed and shifted; some crops mixed.

    Shrinking is linear, so the changed pictures are a valid pair again.
    """
    lr, hr = lr.copy(), hr.copy()
    for index in range(len(lr)):
        if rng.random() < 0.25:
            share, other = np.float32(rng.uniform(0.3, 0.7)), int(rng.integers(len(lr)))
            for stack in (lr, hr):
                stack[index] = share * stack[index] + (1 - share) * stack[other]
        order = rng.permutation(3)
        gain = rng.uniform(0.6, 1.0, (3, 1, 1)).astype(np.float32)
        shift = ((1 - gain) * rng.uniform(-1.0, 1.0, (3, 1, 1))).astype(np.float32)
        for stack in (lr, hr):
            stack[index] = stack[index][order] * gain + shift
    return lr, hr


def _random_crop(picture: Pixels, side: int, rng: Generator) -> Pixels:
    """A square crop; pictures smaller than it are mirrored first."""
    pad = [(0, max(0, side - extent)) for extent in picture.shape[:2]]
    picture = np.pad(picture, [*pad, (0, 0)], mode="symmetric")
    y, x = (int(rng.integers(extent - side + 1)) for extent in picture.shape[:2])
    return picture[y : y + side, x : x + side]


def _stack(pictures: list[Pixels]) -> NDArray[np.float32]:
    batch = np.stack(pictures).astype(np.float32).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch / 127.5 - 1.0)
