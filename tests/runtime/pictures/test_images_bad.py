"""Picture files that are not sound, and places that cannot be written: one line each, and nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import png_of_size
from PIL import Image
from runtime_helpers import photograph

from zoomrt.errors import InputError, OutOfMemory, StorageError, ZoomrtError
from zoomrt.files import shown
from zoomrt.runtime.pictures.images import Picture, PictureFacts, inspect_picture, read_picture, write_picture


def encoded(kind: str, path: Path, **options: object) -> bytes:
    Image.fromarray(photograph(64, 64)).save(path, kind, **options)
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_picture(path)
    text = str(caught.value)
    assert shown(path) in text
    assert "\n" not in text
    assert caught.value.remedy
    return text


def test_missing_empty_folder_and_pipe(tmp_path: Path) -> None:
    assert "nothing there" in refusal(tmp_path / "none.png")
    assert "a folder" in refusal(tmp_path)
    (tmp_path / "empty.png").touch()
    assert "an empty file" in refusal(tmp_path / "empty.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refusal(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    assert "nothing there" in refusal(tmp_path / "dangling.png")
    assert "name too long" in refusal(tmp_path / ("x" * 300)).lower()


def test_text_renamed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("this is a shopping list\n" * 50)
    assert "no known format" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("head", "seen"),
    [
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\0\0\0\x14ftypqt  ", "a video"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"\x1a\x45\xdf\xa3\x01", "a video"),
        (b"RIFF\xff\xff\0\0AVI LIST", "a video"),
        (b"\x47" + b"\xff" * 187 + b"\x47", "a video"),
        (b"\0\0\0\x18ftypcrx ", "no known format"),
        (b"\0\0\0\x18ftypavif", "no known format"),
        (b"%PDF-1.7", "no known format"),
        (b"SIMPLE  =                    T", "no known format"),
        (b"8BPS\0\1", "no known format"),
        (b"\0\0\1\0\1\0", "no known format"),
    ],
)
def test_what_is_no_picture_for_us(tmp_path: Path, head: bytes, seen: str) -> None:
    (tmp_path / "a.png").write_bytes(head + b"\0" * 1000)
    text = refusal(tmp_path / "a.png")
    assert seen in text
    assert ("trt-zoom" in text) == (seen == "a video")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(kind, tmp_path / "whole")
    (tmp_path / "a").write_bytes(data[: int(len(data) * share)])
    text = refusal(tmp_path / "a")
    assert "damaged data" in text or "no known format" in text


@settings(max_examples=60)
@given(st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP", "GIF"]), st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks on damaged metadata
def test_random_damage_is_an_input_error_or_a_picture(
    tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.getbasetemp() / "damaged"
    data = bytearray(encoded(kind, path))
    for place in rng.integers(0, min(len(data), 400), 8):  # headers and tables are where decoders trip
        data[place] = rng.integers(0, 256)
    path.write_bytes(data)
    with contextlib.suppress(InputError, OutOfMemory):
        assert read_picture(path).pixels.size


@pytest.mark.parametrize(
    ("width", "height"),
    [(16400, 16400), (20000, 20000), (60000, 60000), (70000, 1), (2**31 - 1, 2**31 - 1)],
)
def test_bombs_are_refused_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    """Around Pillow's limit, lifted to ours, and far beyond."""
    (tmp_path / "bomb.png").write_bytes(png_of_size(width, height))
    text = refusal(tmp_path / "bomb.png")
    assert "damaged" not in text
    assert "Cut the picture into parts first" in text


def test_a_bomb_is_an_error_and_not_also_a_warning(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of_size(20000, 20000))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")  # as outside of tests; pytest's own setting makes them errors
        refusal(tmp_path / "bomb.png")
    assert seen == []


@pytest.mark.parametrize("size", [(8192, 4320), (16320, 12240)])
def test_large_pictures_pass_the_size_check(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(png_of_size(*size))
    assert inspect_picture(tmp_path / "a.png") == PictureFacts(*size[::-1], 3, False, False)
    assert Image.MAX_IMAGE_PIXELS < 100_000_000, "Pillow's limit is back"


def test_zero_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_of_size(0, 5))
    refusal(tmp_path / "a.png")
    (tmp_path / "a.ppm").write_bytes(b"P6\n0 5\n255\n")
    refusal(tmp_path / "a.ppm")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animated_and_paged(tmp_path: Path, kind: str) -> None:
    first, second = Image.fromarray(photograph(20, 20)), Image.fromarray(255 - photograph(20, 20))
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second])
    assert re.search("got several (frames|pages), need one", refusal(tmp_path / "a"))


def test_32_bits_a_channel(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    assert "pixel format F" in refusal(tmp_path / "a.tif")
    Image.fromarray(np.array([[-5, 70000]], np.int32)).save(tmp_path / "b.tif")
    assert "grey from -5 to 70000" in refusal(tmp_path / "b.tif")


def test_no_permission_and_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded("PNG", tmp_path / "a.png")

    def failing(error: BaseException) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise error

        return fail

    with monkeypatch.context() as patch:  # root may read everything, so the refusal itself is put in
        patch.setattr(Image, "open", failing(PermissionError(errno.EACCES, "Permission denied")))
        assert "Permission denied" in refusal(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing(MemoryError()))
        with pytest.raises(OutOfMemory):
            read_picture(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            read_picture(tmp_path / "a.png")


GREY = np.zeros((4, 4), np.uint8)
COLOUR = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("picture", "name", "words"),
    [
        (Picture(COLOUR), "a.bmp", r"got ending '.bmp', need one of .*\.png"),
        (Picture(COLOUR), "a", "got ending ''"),
        (Picture(COLOUR, GREY), "a.jpg", "got an alpha channel"),
        (Picture(np.zeros((1, 65501), np.uint8)), "a.jpg", "got side 65501"),
        (Picture(np.zeros((17000, 1), np.uint8)), "a.webp", "got side 17000"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, picture: Picture, name: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        write_picture(picture, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for place in (tmp_path / "none" / "a.png", tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(StorageError, match="cannot write"):
            write_picture(Picture(COLOUR), place)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (ValueError("encoder"), StorageError),
        (MemoryError(), OutOfMemory),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_write_that_fails_halfway_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: type[BaseException]
) -> None:
    target = tmp_path / "a.png"
    write_picture(Picture(COLOUR), target)
    before = target.read_bytes()

    def half(_image: Image.Image, stream: object, *_: object, **_options: object) -> None:
        stream.write(b"half a picture")  # type: ignore[attr-defined]
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(expected) as caught:
        write_picture(Picture(COLOUR), target)
    if isinstance(caught.value, ZoomrtError):
        assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == before


def test_a_full_disk_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="got No space left on device"):
        write_picture(Picture(COLOUR), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_permissions_that_the_user_set(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_picture(Picture(COLOUR), tmp_path / "a.png")
    finally:
        os.umask(old)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640
