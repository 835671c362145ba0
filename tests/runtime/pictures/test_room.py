"""What a picture takes in memory, told before the work, against what it then takes; and the refusal of too much."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zoomrt.errors import OutOfMemory
from zoomrt.runtime.pictures import room as picture_room
from zoomrt.runtime.pictures.images import Picture, inspect_picture, write_picture
from zoomrt.runtime.pictures.room import available_bytes, check_room, needed_bytes
from zoomrt.runtime.pictures.source import PictureFacts

MEASURE = """
import sys
from pathlib import Path
from zoomrt.runtime.pictures.images import read_picture, upscale_picture, write_picture

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

class Upscaler:
    def upscale(self, pixels, size, on_tile):
        return pixels.copy()

small, large, output = sys.argv[1:]
for source in (small, large):  # the first for the libraries, and what they keep
    before = status("VmRSS")
    write_picture(upscale_picture(Upscaler(), read_picture(source)), output)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured by what Linux says of a process")
@pytest.mark.parametrize(
    ("name", "output"),
    [("a.jpg", "o.jpg"), ("a.jpg", "o.webp"), ("alpha.png", "o.png"), ("deep.tif", "o.png"), ("deep.tif", "o.jpg")],
)
def test_the_memory_that_is_told_is_the_memory_that_is_taken(tmp_path: Path, name: str, output: str) -> None:
    photo = np.zeros((2000, 3000, 3), np.uint8)
    photo[:] = np.linspace(0, 255, 2000)[:, None, None]
    deep = photo.astype(np.uint16) * 257
    picture = {"a": Picture(photo), "alpha": Picture(photo, photo[..., 0]), "deep": Picture(deep)}[Path(name).stem]
    small = Picture(picture.pixels[:64, :64], None if picture.alpha is None else picture.alpha[:64, :64])
    write_picture(small, tmp_path / f"small-{name}")
    write_picture(picture, tmp_path / name)
    words = [tmp_path / f"small-{name}", tmp_path / name, tmp_path / output]
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    taken = int(answer.stdout)
    told = needed_bytes(inspect_picture(tmp_path / name), photo.shape[:2], Path(output))
    print(f"told {told / 1e6:.0f} MB, taken {taken / 1e6:.0f} MB")
    assert 0.7 * told < taken < 1.1 * told + 50e6, "50 MB are bands, tiles and libvips"


FACTS = PictureFacts(12240, 16320, 3, False, False)


def test_200_megapixels_of_a_phone() -> None:
    """As measured on such a JPEG: 1.99 GB, and 1.42 while it is read."""
    assert needed_bytes(FACTS, (12240, 16320), Path("a.jpg")) == pytest.approx(1.998e9, rel=1e-3)
    assert needed_bytes(replace(FACTS, height=1, width=1), (12240, 16320), Path("a.jpg")) < 1.5e9


def test_what_there_is_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_room, "available_bytes", lambda: 8_000_000_000)
    check_room(FACTS, (24480, 32640), Path("a.jpg"), "cannot")
    with pytest.raises(OutOfMemory, match=r"got 8.0 GB of free memory, need 23.0 GB for 16320x12240 pixels") as caught:
        check_room(FACTS, (48960, 65280), Path("a.jpg"), "cannot")
    assert "smaller result" in caught.value.remedy
    monkeypatch.setattr(picture_room, "available_bytes", lambda: None)
    check_room(FACTS, (48960, 65280), Path("a.jpg"), "cannot")


def test_free_memory_is_the_least_of_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system with 8 GB, a container that may take 2 GB and has 1.5 GB of which 0.5 are a cache of files."""
    said = {
        "/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 7812500 kB\n",
        "/sys/fs/cgroup/memory.max": "2000000000\n",
        "/sys/fs/cgroup/memory.current": "1500000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 900000000\ninactive_file 500000000\n",
    }

    def read(path: Path) -> str:
        if str(path) not in said:
            raise FileNotFoundError(path)
        return said[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert available_bytes() == 1_000_000_000
    said["/sys/fs/cgroup/memory.max"] = "max\n"
    assert available_bytes() == 8_000_000_000
    said.clear()
    assert available_bytes() is None
