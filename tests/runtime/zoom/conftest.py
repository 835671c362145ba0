"""What the tests of zooming share: a photograph and a small bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_helpers import facts, photograph, write_bundle
from zoom_sessions import FRAME

from zoomrt.runtime.upscaler import Upscaler, load


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return photograph(*FRAME)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("zoom") / "b", facts(batches=(1, 4)), 7)


@pytest.fixture
def upscaler(bundle: Path) -> Iterator[Upscaler]:
    with load(bundle, threads=1) as loaded:
        yield loaded
