"""The C++ header's probe, and what compiles it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_helpers import facts

from zoomrt.runtime.frames.pixel_formats import CameraFrame, empty_like
from zoomrt.runtime.frames.yuv import write_view

ROOT = Path(__file__).parents[2]


EMBED, HERE = ROOT / "embed", ROOT / "tests" / "embed"


SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


MATRICES, SITINGS = ("bt601", "bt709", "bt2020"), ("left", "center", "top-left")


TILE = facts(height=24, width=32, overlap=10, context=2, batches=(1, 2), value_range=(0.0, 2.0))


FRAME, VIEW = (90, 70), (120, 64)
"""(width, height) of the largest frame and view that the probe has room for."""


def tool(*names: str) -> str:
    """The first of these programs that is here; without one the test is skipped, and says so."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"needs {' or '.join(names)}")


class Probe:
    """The probe at work: a line in, a line out."""

    def __init__(self, program: Path, folder: Path) -> None:
        settings = {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        self.folder, self._errors = folder, (folder / "stderr").open("w+")
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **settings},
        )

    def __call__(self, *words: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().rstrip("\n")
        assert answer, f"the probe died:\n{(self.folder / 'stderr').read_text()[-4000:]}"
        return answer

    def load(self, bundle: Path, *more: object) -> str:
        return self("load", bundle, *FRAME, *VIEW, 1, 1, *more)

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()
        assert self._process.returncode == 0, (self.folder / "stderr").read_text()[-4000:]


def compiled(compiler: str, library: Path, program: Path, *flags: str) -> Path:
    include = [f"-I{EMBED / 'include'}", f"-I{HERE / 'include'}"]
    link = [f"-L{library}", "-Wl,--no-as-needed", "-lonnxruntime", "-ldl", f"-Wl,-rpath,{library}"]
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", *flags, *include, HERE / "probe.cpp"]
    done = subprocess.run([*command, "-o", program, *link], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def needs_json(compiler: str) -> None:
    source = "#include <nlohmann/json.hpp>\n"
    command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-DJSON_NO_IO", "-M", "-"]
    if subprocess.run(command, input=source, capture_output=True, text=True, check=False).returncode:
        pytest.skip("needs nlohmann/json.hpp (apt install nlohmann-json3-dev)")


def camera(rng: np.random.Generator, format: Any, width: int, height: int, **meaning: Any) -> CameraFrame:
    """Smooth colours with noise, so that neither the network's range nor the codes' is only hit at its ends."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    rgb = np.stack(waves) * 0.6 + 0.5 + rng.normal(0, 0.1, (3, height, width))
    frame = CameraFrame((np.zeros((height, width, 3), np.uint8),), "rgb", **meaning)
    frame = empty_like(frame, (height, width), format)
    write_view(rgb.clip(0, 1).astype(np.float32), frame)
    return frame
