"""Camera frames of random codes in awkward memory, and what they mean by the standards, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame, plane_shapes

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
SITINGS = {
    f"{down}-{right}".strip("-").replace("-middle", "").replace("middle-", "").replace("middle", "center"): (y, x)
    for down, y in (("top", 0.0), ("middle", 0.5), ("bottom", 1.0))
    for right, x in (("left", 0.0), ("middle", 0.5), ("right", 1.0))
}
MEANING = st.fixed_dictionaries(
    {"matrix": st.sampled_from([*WEIGHTS]), "full_range": st.booleans(), "siting": st.sampled_from([*SITINGS])}
)


def camera(rng: np.random.Generator, format: Any, height: int, width: int, gap: int = 0, **meaning: Any) -> CameraFrame:
    """gap : odd ones give rows an odd stride; from 1 on luma is also stored upside down. Every code may occur."""

    def plane(*shape: int) -> NDArray[Any]:
        codes = rng.integers(0, 1 << layout.bits, (shape[0], shape[1] + gap, *shape[2:]))
        return (codes << layout.shift).astype(layout.dtype)[:, : shape[1]]

    layout = LAYOUTS[format]
    luma, *chroma = (plane(*shape) for shape in plane_shapes(format, height, width))
    return CameraFrame((luma[:: -1 if gap else 1], *chroma), format, **meaning)


def exact_rgb(frame: CameraFrame) -> NDArray[np.float64]:
    """(H, W, 3) in [0, 1], by the definitions: Y = Kr R + Kg G + Kb B, Cb = (B - Y) / (2 - 2 Kb), Cr likewise."""
    if frame.format == "rgb48":
        return frame.planes[0] / 65535
    if frame.format in ("rgb", "bgr"):
        return frame.planes[0][:, :, :: 1 if frame.format == "rgb" else -1] / 255
    planes = [plane / (64 if frame.format == "p010" else 1) for plane in frame.planes]
    luma = planes[0]
    u, v = planes[1:] if frame.format.startswith("i") else planes[1].transpose(2, 0, 1)
    if frame.format == "nv21":
        u, v = v, u
    step = 4 if frame.format.endswith("10") else 1  # of 8 bits, in codes
    if frame.full_range:
        black, luma_codes, chroma_codes = 0, 256 * step - 1, 256 * step - 1
    else:
        black, luma_codes, chroma_codes = 16 * step, 219 * step, 224 * step
    y = (luma - black) / luma_codes
    cb, cr = ((_at_luma(plane, frame) - 128 * step) / chroma_codes for plane in (u, v))
    kr, kb = WEIGHTS[frame.matrix]
    red, blue = y + (2 - 2 * kr) * cr, y + (2 - 2 * kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.stack([red, green, blue], axis=2).clip(0, 1)


def _at_luma(plane: NDArray[np.float64], frame: CameraFrame) -> NDArray[np.float64]:
    """Chroma at each luma pixel: one row, then one column at a time, linear between samples."""
    subsampled = {"i422": (1, 2), "i210": (1, 2), "i444": (1, 1), "i410": (1, 1)}.get(frame.format, (2, 2))
    for axis, (side, step, offset) in enumerate(zip(frame.shape, subsampled, SITINGS[frame.siting], strict=True)):
        if step == 2:
            places = (np.arange(side) - offset) / 2
            plane = np.apply_along_axis(lambda line, at: np.interp(at, np.arange(len(line)), line), axis, plane, places)
    return plane
