"""The shipped `edge` through the whole product: built, tiled, compared with one untiled pass of the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from runtime_helpers import photograph, seam_ratio
from skimage import data

from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import Upscaler, load
from zoomrt.runtime.zoom.session import ZoomSession

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upscaler]:
    from zoomrt.export.build import build
    from zoomrt.export.request import BuildRequest

    result = build(BuildRequest(), tmp_path_factory.mktemp("edge") / "b", use_cache=False)
    with load(result.path, threads=2) as loaded:
        yield loaded


def untiled(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One pass over the whole frame in torch FP32; (4H, 4W, 3) in [0, 255], not rounded."""
    from zoomrt.models.checkpoint import load_checkpoint
    from zoomrt.models.families.edge import FAMILY

    assert FAMILY.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    with torch.no_grad():
        tensor = network(torch.from_numpy(frame.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1))[0]
    picture: NDArray[np.float64] = ((tensor.numpy().astype(np.float64) + 1) * 127.5).clip(0, 255).transpose(1, 2, 0)
    return picture


def psnr(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_tiles_against_one_pass_on_a_photograph(upscaler: Upscaler, name: str) -> None:
    """The default tile; in the untiled pass GroupNorm and attention see the whole picture."""
    frame = np.ascontiguousarray(getattr(data, name)()[:300, :400])
    whole, tiled = untiled(frame), upscaler(frame)
    assert psnr(tiled, whole) >= 50
    # borders of x4 tiles all lie on one phase of the x4 grid, which the untiled picture shows as well
    tiles = plan(*frame.shape[:2], upscaler.manifest.tile)
    assert len(tiles) == 6
    assert 0.97 <= seam_ratio(tiled, tiles) / seam_ratio(whole, tiles) <= 1.03


def test_one_tile_is_the_network(upscaler: Upscaler) -> None:
    frame = photograph(192, 192)
    assert np.abs(upscaler(frame) - untiled(frame)).max() <= 0.5 + 1e-2  # rounding, and FP32 summation order


def test_eight_threads_give_the_serial_pixels(upscaler: Upscaler) -> None:
    frames = [photograph(64 + 8 * i, 72) for i in range(8)]
    serial = [upscaler(frame) for frame in frames]
    parallel: list[Any] = [None] * len(frames)

    def work(index: int) -> None:
        parallel[index] = upscaler(frames[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(serial, parallel, strict=True))


def test_flat_pictures_stay_flat(upscaler: Upscaler) -> None:
    """GroupNorm blows up what little there is in a flat tile; the residual must not become visible."""
    for value in (0, 64, 128, 255):
        out = upscaler(np.full((96, 96, 3), value, np.uint8)).astype(int)
        assert np.abs(out - value).max() <= 4


def test_public_names_in_two_lines(tmp_path: Path) -> None:
    import zoomrt
    from zoomrt.export.build import build
    from zoomrt.export.request import BuildRequest

    bundle = build(BuildRequest(tile=32), tmp_path / "b").path
    with zoomrt.load(bundle) as loaded:
        assert loaded(photograph(10, 12)).shape == (40, 48, 3)


FLICKER = 1.5
"""How many times bicubic's temporal variance a still scene with sensor noise may have; benchmarks/zoom.py says 1.2."""


def test_a_still_scene_flickers_little_more_than_bicubic(upscaler: Upscaler, rng: np.random.Generator) -> None:
    """Fresh noise of 2 codes, a 2x view; with `noise=` it flickers less than bicubic."""
    still = data.astronaut()[120:248, 160:288].astype(np.float64)
    frames = [np.clip(still + rng.normal(0, 2, still.shape), 0, 255).round().astype(np.uint8) for _ in range(10)]
    with ZoomSession(upscaler, (256, 256)) as session, ZoomSession(upscaler, (256, 256), noise=2 / 255) as smoothed:
        views = [session.process(frame, 2.0).pixels.copy() for frame in frames]
        calm = [smoothed.process(frame, 2.0).pixels.copy() for frame in frames]
    middle = (32, 32, 96, 96)  # what a 2x view in the centre shows
    bicubic = [np.asarray(Image.fromarray(f).resize((256, 256), Image.Resampling.BICUBIC, middle)) for f in frames]
    variance = {
        name: float(np.var(np.stack(seen[4:]).astype(float), axis=0).mean())
        for name, seen in {"network": views, "smoothed": calm, "bicubic": bicubic}.items()
    }
    assert variance["network"] <= FLICKER * variance["bicubic"]
    assert variance["smoothed"] < 0.7 * variance["bicubic"]
