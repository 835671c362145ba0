"""TIFFs of 8 bits and fewer, of every layout, against tifffile; and those that are refused, each in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from runtime_helpers import photograph

from zoomrt.errors import InputError
from zoomrt.runtime.pictures.images import read_picture

PHOTO = photograph(40, 56)
APART = np.ascontiguousarray(PHOTO.transpose(2, 0, 1))
RGBA = np.dstack([PHOTO, PHOTO[..., ::-1][..., 0]])

# options of tifffile, what is written, what must be read: pixels, and alpha or None
LAYOUTS: dict[str, tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray | None]] = {
    "strips": ({"photometric": "rgb", "rowsperstrip": 7}, PHOTO, PHOTO, None),
    "tiles": ({"photometric": "rgb", "tile": (16, 16)}, PHOTO, PHOTO, None),
    "apart in strips": ({"photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 7}, APART, PHOTO, None),
    "apart in tiles": ({"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)}, APART, PHOTO, None),
    "white is 0": ({"photometric": "miniswhite"}, PHOTO[..., 0], 255 - PHOTO[..., 0], None),
    "bits": ({"photometric": "minisblack"}, PHOTO[..., 0] > 90, np.where(PHOTO[..., 0] > 90, 255, 0), None),
    "grey and alpha": (
        {"photometric": "minisblack", "extrasamples": ["unassalpha"]},
        PHOTO[..., :2], PHOTO[..., 0], PHOTO[..., 1],
    ),
    "alpha": ({"photometric": "rgb", "extrasamples": ["unassalpha"]}, RGBA, PHOTO, RGBA[..., 3]),
    "a fourth channel": ({"photometric": "rgb", "extrasamples": ["unspecified"]}, RGBA, PHOTO, None),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packing", [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}])
def test_layouts(tmp_path: Path, name: str, order: str, packing: dict[str, Any]) -> None:
    options, values, pixels, alpha = LAYOUTS[name]
    if values.dtype == bool:
        packing = {}  # tifffile does not compress bits
    for big in (False, order == "<"):
        tifffile.imwrite(tmp_path / "a.tif", values, byteorder=order, bigtiff=big, metadata=None, **options, **packing)
        read = read_picture(tmp_path / "a.tif")
        assert np.array_equal(read.pixels, pixels)
        assert (read.alpha is None) if alpha is None else np.array_equal(read.alpha, alpha)


def test_premultiplied_alpha_is_divided_out(tmp_path: Path, rng: np.random.Generator) -> None:
    alpha = rng.integers(30, 256, (40, 56, 1), np.uint8)
    product = np.rint(PHOTO * (alpha / 255.0)).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([product, alpha]), photometric="rgb", extrasamples=["assocalpha"], metadata=None
    )
    read = read_picture(tmp_path / "a.tif")
    assert np.array_equal(read.alpha, alpha[..., 0])
    assert np.abs(read.pixels - np.minimum(product * (255.0 / alpha), 255)).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes(tmp_path: Path, rng: np.random.Generator, bits: int) -> None:
    palette = rng.integers(0, 256, (2**bits, 3), np.uint8)
    indices = rng.integers(0, 2**bits, (9, 8), np.uint8)
    packed = np.packbits(np.unpackbits(indices[..., None], axis=2)[..., 8 - bits :].reshape(9, -1), axis=1)
    colours = np.zeros((3, 2**bits), "<u2")
    colours[:] = palette.T.astype(np.uint16) * 257
    place = 8 + packed.size
    tags = [(256, 3, 1, 8), (257, 3, 1, 9), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 3), (273, 4, 1, 8)]
    tags += [(277, 3, 1, 1), (278, 3, 1, 9), (279, 4, 1, packed.size), (320, 3, colours.size, place)]
    entries = b"".join(np.array(tag[:2], "<u2").tobytes() + np.array(tag[2:], "<u4").tobytes() for tag in tags)
    start = place + colours.nbytes
    data = b"II*\0" + start.to_bytes(4, "little") + packed.tobytes() + colours.tobytes()
    (tmp_path / "a.tif").write_bytes(data + len(tags).to_bytes(2, "little") + entries + b"\0\0\0\0")
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, palette[indices])


def by_pillow(mode: str, **options: Any) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(PHOTO).convert(mode).save(path, **options)


def by_tifffile(values: np.ndarray, **options: Any) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, values, metadata=None, **options)


@pytest.mark.parametrize(
    ("make", "largest"),
    [
        (by_pillow("RGB", compression="tiff_lzw"), 0),
        (by_pillow("RGB", compression="packbits"), 0),
        (by_pillow("RGB", compression="jpeg", quality=100), 4),
        (by_pillow("YCbCr"), 3),
        (by_pillow("RGBX"), 0),
    ],
)
def test_packings_and_colour_codings(tmp_path: Path, make: Callable[[Path], object], largest: int) -> None:
    make(tmp_path / "a.tif")
    assert np.abs(read_picture(tmp_path / "a.tif").pixels.astype(int) - PHOTO).max() <= largest


def lacking_channels(path: Path) -> None:
    """16-bit grey whose header says that it is RGB."""
    tifffile.imwrite(path, PHOTO[..., 0].astype(np.uint16), photometric="minisblack", metadata=None)
    grey, rgb = (struct.pack("<HHII", 262, 3, 1, photometric) for photometric in (1, 2))
    path.write_bytes(path.read_bytes().replace(grey, rgb))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (by_pillow("F"), "pixel format F"),
        (by_tifffile(PHOTO.astype(np.float32) / 255, photometric="rgb"), "of a rare kind"),
        (by_tifffile(PHOTO.astype(np.float16) / 255, photometric="rgb"), "of a rare kind"),
        (by_tifffile(PHOTO.astype(np.uint32), photometric="rgb"), "of a rare kind"),
        (by_tifffile(PHOTO[..., 0].astype(np.float64)), "of a rare kind"),
        (by_tifffile(PHOTO[..., 0].astype(np.int8)), "signed 8-bit pixels"),
        (by_tifffile(PHOTO[..., 0].astype(np.int16) - 200), "grey from -"),
        (by_tifffile(PHOTO, photometric="rgb", bigtiff=True, byteorder=">"), "a big-endian BigTIFF"),
        (by_tifffile(np.stack([PHOTO, PHOTO]), photometric="rgb"), "several pages"),
        (by_tifffile(PHOTO, photometric="rgb", subfiletype=1), "preview of a camera's RAW"),
        (by_tifffile(PHOTO, photometric="rgb", extratags=[(50706, 1, 4, (1, 4, 0, 0), True)]), "camera's RAW"),
        (lacking_channels, "1 channels of 3"),
        (by_tifffile(PHOTO.astype(np.complex64)[..., 0]), "of a rare kind"),
    ],
)
def test_kinds_that_are_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "a.tif")
    with pytest.raises(InputError, match=words) as caught:
        read_picture(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
