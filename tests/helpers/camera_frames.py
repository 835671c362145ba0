"""Camera frames of random codes in awkward memory, and what they mean by the standards, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from zoomrt.runtime.pixel_formats import CameraFrame

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
SITINGS = {"left": (0.5, 0.0), "center": (0.5, 0.5), "top-left": (0.0, 0.0)}
MEANING = st.fixed_dictionaries(
    {"matrix": st.sampled_from([*WEIGHTS]), "full_range": st.booleans(), "siting": st.sampled_from([*SITINGS])}
)


def camera(rng: np.random.Generator, format: Any, height: int, width: int, gap: int = 0, **meaning: Any) -> CameraFrame:
    """gap : odd ones give rows an odd stride; from 1 on luma is also stored upside down. Every code may occur."""

    def plane(*shape: int) -> NDArray[Any]:
        codes = rng.integers(0, 1024 if format == "p010" else 256, (shape[0], shape[1] + gap, *shape[2:]))
        whole = (codes << 6).astype(np.uint16) if format == "p010" else codes.astype(np.uint8)
        return whole[:, : shape[1]]

    if format in ("rgb", "bgr"):
        return CameraFrame((plane(height, width, 3),), format)
    half = (height // 2, width // 2)
    chroma = [plane(*half), plane(*half)] if format == "i420" else [plane(*half, 2)]
    luma = plane(height, width)
    return CameraFrame((luma[:: -1 if gap else 1], *chroma), format, **meaning)


def exact_rgb(frame: CameraFrame) -> NDArray[np.float64]:
    """(H, W, 3) in [0, 1], by the definitions: Y = Kr R + Kg G + Kb B, Cb = (B - Y) / (2 - 2 Kb), Cr likewise."""
    if frame.format in ("rgb", "bgr"):
        return frame.planes[0][:, :, :: 1 if frame.format == "rgb" else -1] / 255
    planes = [plane.astype(np.float64) for plane in frame.planes]
    luma = planes[0]
    u, v = planes[1:] if frame.format == "i420" else planes[1].transpose(2, 0, 1)
    if frame.format == "nv21":
        u, v = v, u
    bits = 1
    if frame.format == "p010":
        luma, u, v, bits = luma / 64, u / 64, v / 64, 4
    if frame.full_range:
        black, luma_codes, chroma_codes = 0, 256 * bits - 1, 256 * bits - 1
    else:
        black, luma_codes, chroma_codes = 16 * bits, 219 * bits, 224 * bits
    y = (luma - black) / luma_codes
    cb, cr = ((_at_luma(plane, frame) - 128 * bits) / chroma_codes for plane in (u, v))
    kr, kb = WEIGHTS[frame.matrix]
    red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.stack([red, green, blue], axis=2).clip(0, 1)


def _at_luma(plane: NDArray[np.float64], frame: CameraFrame) -> NDArray[np.float64]:
    """Chroma at each luma pixel: one row, then one column at a time, linear between samples."""
    height, width = frame.size
    down, right = SITINGS[frame.siting]
    samples = [np.arange(side) for side in plane.shape]
    rows = [np.interp((np.arange(height) - down) / 2, samples[0], column) for column in plane.T]
    return np.stack([np.interp((np.arange(width) - right) / 2, samples[1], row) for row in np.stack(rows, axis=1)])
