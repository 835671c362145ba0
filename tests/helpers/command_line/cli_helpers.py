"""What the tests of the commands share: pictures whose results are known, and what a proper failure looks like."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from seeds import rng_for

SCALE = 4
TILE = 16


def write_noise(path: Path, size: tuple[int, int] = (17, 21)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng_for(path.name).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def repeated(path: Path) -> NDArray[Any]:
    """What `nearest_bundle` must make of a picture file."""
    return np.asarray(Image.open(path)).repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def failure_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of a failed command, after checking that it is one line and the exit code."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.strip()


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden files included: to prove that nothing was left behind."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
