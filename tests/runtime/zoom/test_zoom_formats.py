"""Formats that go into a zoom session and come out of it, and where results are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from zoom_sessions import FRAME, OUTPUT, fake_zoom

from zoomrt.errors import InputError
from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame, empty_like
from zoomrt.runtime.frames.yuv import read_window, write_view
from zoomrt.runtime.upscaler import Upscaler
from zoomrt.runtime.zoom.session import ZoomSession


@pytest.mark.parametrize("given", LAYOUTS)
@pytest.mark.parametrize("asked", [None, "rgb", "nv12"])
def test_every_format_in_and_out(upscaler: Upscaler, frame: NDArray[np.uint8], given: Any, asked: Any) -> None:
    """Against the view of the RGB that the planes stand for, rounded to 8 bits, converted to the same format."""
    source = empty_like(CameraFrame((frame,)), FRAME, given)
    write_view(frame.transpose(2, 0, 1).astype(np.float32) / 255, source)
    with ZoomSession(upscaler, OUTPUT, output_format=asked) as session:
        view = session.process(source, 3.0).frame
        assert view is not None
        assert view.format == (asked or given)
        assert view.shape == (120, 160)
        out = empty_like(view, view.shape)
        again = session.process(source, 3.0, out=out)
        assert again.frame is out
        assert all(np.array_equal(one, two) for one, two in zip(out.planes, view.planes, strict=True))
    whole = slice(0, FRAME[0]), slice(0, FRAME[1])
    rgb = np.rint(read_window(source, *whole).transpose(1, 2, 0) * 255).astype(np.uint8)
    with ZoomSession(upscaler, OUTPUT) as session:
        direct = session.process(rgb, 3.0).pixels
    expected = empty_like(view, view.shape)
    write_view(direct.transpose(2, 0, 1).astype(np.float32) / 255, expected)
    pictures = [read_window(picture, slice(0, 120), slice(0, 160)) * 255 for picture in (view, expected)]
    assert np.abs(pictures[0] - pictures[1]).mean() <= 1.0


@pytest.mark.parametrize("format", ["p010", "i010", "i210", "i410", "rgb48"])
def test_every_level_of_more_than_8_bits_comes_out(format: Any, rng: np.random.Generator) -> None:
    """Through an engine that repeats pixels, in a view of its size: each code comes back, wherever it is."""
    bits = 16 if format == "rgb48" else 10
    codes = rng.permutation(1 << bits)[:1024].repeat(4).reshape(64, 64)  # all of 10 bits
    source = empty_like(CameraFrame((np.zeros((1, 1, 3), np.uint8),), full_range=True), codes.shape, format)
    for plane in source.planes:
        plane[...] = 512 << (6 if format == "p010" else 0)  # no chroma
    shift = 6 if format == "p010" else 0
    source.pixels[...] = (codes << shift)[..., None] if bits == 16 else codes << shift
    session, _ = fake_zoom((4 * codes.shape[1], 4 * codes.shape[0]))
    with session:
        result = session.process(source, 1.0)
    assert result.mode == "full"
    assert result.tiles > 1
    expected = source.pixels.repeat(4, 0).repeat(4, 1)
    assert result.pixels.dtype == np.uint16
    np.testing.assert_array_equal(result.pixels, expected)


@pytest.mark.parametrize("aspect", [4 / 3, 16 / 15, 0.5])
def test_a_view_of_pixels_that_are_not_square_shows_circles_as_circles(aspect: float) -> None:
    """A picture of smooth rings, sampled at the frame's pixels, against the same rings at the view's."""

    def rings(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """In [0, 1], at positions in frame rows from the middle."""
        return 0.5 + 0.4 * np.cos(np.hypot(x[None], y[:, None]) / 5)

    height, width, zoom = 90, 100, 3.0
    columns, rows = ((np.arange(side) + 0.5 - side / 2) for side in (width, height))
    pixels = (rings(columns * aspect, rows) * 65535).round().astype(np.uint16)[:, :, None].repeat(3, 2)
    step = min(height / OUTPUT[1], width * aspect / OUTPUT[0]) / zoom
    columns, rows = ((np.arange(side) + 0.5 - side / 2) * step for side in OUTPUT)
    expected = rings(columns, rows)
    session, _ = fake_zoom()
    with session:
        plain = session.bicubic(CameraFrame((pixels,), "rgb48", pixel_aspect=aspect), zoom)
        result = session.process(CameraFrame((pixels,), "rgb48", pixel_aspect=aspect), zoom)
    assert result.frame is not None
    assert result.frame.pixel_aspect == plain.pixel_aspect == 1
    assert np.abs(plain.pixels[:, :, 1] / 65535 - expected).max() < 0.01
    assert np.abs(result.pixels[:, :, 1] / 65535 - expected).mean() < 0.03, "an engine that repeats pixels"


def test_an_output_that_does_not_fit_is_refused(frame: NDArray[np.uint8]) -> None:
    session, _ = fake_zoom()
    locked = np.zeros((120, 160, 3), np.uint8)
    locked.flags.writeable = False
    with session:
        for out in (np.zeros((60, 80, 3), np.uint8), locked):
            with pytest.raises(InputError, match="writable"):
                session.process(frame, 2.0, out=CameraFrame((out,)))
        for alien in (bytearray(3 * 120 * 160), [1], np.zeros((120, 160, 3)), np.zeros((120, 160), np.uint8)):
            with pytest.raises(InputError, match=r"view|planes"):
                session.process(frame, 2.0, out=alien)  # type: ignore[arg-type]


def test_an_array_is_an_output_too(frame: NDArray[np.uint8]) -> None:
    session, _ = fake_zoom()
    whole = np.zeros((120, 320, 3), np.uint8)
    out = whole[:, 160:]
    with session:
        result = session.process(frame, 3.0, out=out)
        assert result.pixels is out
        np.testing.assert_array_equal(out, session.process(frame, 3.0).pixels)
        np.testing.assert_array_equal(out, session.submit(frame, 3.0, out=np.zeros_like(out)).result(20).pixels)
    assert not whole[:, :160].any()


def test_frames_are_read_only_and_in_place(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    """A buffer that must not be written to, with gaps between its rows, gives the view of its copy."""
    wide = np.zeros((FRAME[0], 2 * FRAME[1], 3), np.uint8)
    strided = wide[:, 10 : 10 + FRAME[1]]
    strided[...] = frame
    wide.flags.writeable = False
    with ZoomSession(upscaler, OUTPUT) as session:
        view = session.process(strided, 3.0).pixels
        np.testing.assert_array_equal(view, session.process(frame, 3.0).pixels)
        np.testing.assert_array_equal(view, session.process(frame[::-1][::-1], 3.0).pixels)
