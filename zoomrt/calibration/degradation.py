"""Real-world low resolution from high resolution: blur, downscale by 4, sensor noise, JPEG, drawn from a seed.

One pass of the chain that BSRGAN and Real-ESRGAN train with, in a milder half of their ranges: calibration wants
typical pictures, not the worst ones.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

SCALE = 4
BLUR_SIGMA = (0.2, 1.5)
"""Gaussian blur in HR pixels; Real-ESRGAN (arXiv 2107.10833, section 4.1) draws up to 3."""
NOISE_SIGMA = (0.0, 10.0)
"""Gaussian noise in 8-bit code values; Real-ESRGAN draws up to 30."""
JPEG_QUALITY = (60, 95)
"""Real-ESRGAN draws from 30 to 95."""
FILTERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def degrade(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """(4h, 4w, 3) RGB uint8 -> (h, w, 3) RGB uint8, as a small sensor would have seen and stored it."""
    height, width = picture.shape[0] // SCALE, picture.shape[1] // SCALE
    image = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(random.uniform(*BLUR_SIGMA)))
    image = image.resize((width, height), FILTERS[random.integers(len(FILTERS))])
    noise = random.normal(0.0, random.uniform(*NOISE_SIGMA), (height, width, 3))
    noisy = np.rint(np.asarray(image, np.float64) + noise).clip(0, 255).astype(np.uint8)
    stored = BytesIO()
    Image.fromarray(noisy).save(stored, "JPEG", quality=int(random.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)))
    with Image.open(stored) as read:
        return np.asarray(read.convert("RGB"))
