"""trt-upscale in an address space that is too small, wherever it ends: memory is what it says, and one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoomrt.errors import OutOfMemory, TileTooLarge

resource = pytest.importorskip("resource", reason="no such limits on Windows")


@pytest.mark.parametrize("megabytes", [100, 150, 200, 250, 300, 400, 600])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_small_address_space(
    backend: str, megabytes: int, nearest_bundle: Path, picture: Path, tmp_path: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    limit = megabytes * 10**6
    words = [nearest_bundle, picture, "-o", tmp_path / "o.png", "--backend", backend]
    done = subprocess.run(
        [sys.executable, "-m", "zoomrt.cli.upscale", *words],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        assert (tmp_path / "o.png").exists()
        assert done.stderr == ""
    else:
        assert done.returncode in (OutOfMemory.exit_code, TileTooLarge.exit_code), done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "o.png").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
