"""Does the graph compute what the network computes? ONNX Runtime against torch FP32, in figures for the manifest.

Probes: fresh random tiles (seeded by the request, so that another request sees other numbers) and a photograph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from zoomrt.bundle import NoiseFacts
from zoomrt.errors import ExportError, PrecisionError
from zoomrt.export.emulation import run_with_fp16_storage
from zoomrt.export.graph import INPUT, OUTPUT
from zoomrt.runtime.noise import noise_at

__all__ = ["MINIMUM_PSNR_DB", "Parity", "check_parity", "photograph_tile"]

MINIMUM_PSNR_DB = {"fp32": 80.0, "fp16": 45.0}
"""PSNR against torch FP32, peak = the value range. FP32 differs by summation order only; 45 dB keeps FP16 below one
8-bit code value of RMS error (1.4) with room for the eye."""

_PHOTOGRAPH = Path(__file__).with_name("photograph.png")


@dataclass(frozen=True)
class Parity:
    """One comparison on one probe: worst absolute difference and PSNR, in units of the value range."""

    probe: str
    runner: str
    max_abs: float
    psnr_db: float
    needed_psnr_db: float


def photograph_tile(height: int, width: int, value_range: tuple[float, float]) -> NDArray[np.float32]:
    """(1, 3, height, width) float32 of the bundled photograph (NASA, public domain), cropped or mirrored to size."""
    with Image.open(_PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    pad = [(0, max(0, side - extent)) for side, extent in zip((height, width), pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [*pad, (0, 0)], mode="symmetric")[:height, :width]
    low, high = value_range
    tile = pixels.transpose(2, 0, 1)[None] / 255.0 * (high - low) + low
    return np.ascontiguousarray(tile, dtype=np.float32)


def check_parity(
    network: nn.Module,
    graph: Path,
    *,
    shape: tuple[int, int, int, int],
    value_range: tuple[float, float],
    precision: str,
    seed: int,
    noise: NoiseFacts | None = None,
    loss_db: float = 0.0,
) -> dict[str, Any]:
    """Compare and return plain figures for the manifest.

    FP16 is measured twice: the graph in ONNX Runtime (which computes in FP32 on a CPU, so it proves the wiring) and
    the network under FP16 storage emulation (which proves the range).

    noise : start noise, appended to the probes. loss_db : see `family.FamilyFacts.parity_loss_db`.

    Raises ExportError when the graph differs from the network, PrecisionError when FP16 cannot hold the values.
    """
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    dtype = np.float16 if precision == "fp16" else np.float32
    low, high = value_range
    needed = MINIMUM_PSNR_DB[precision] - loss_db
    n, _, height, width = shape
    random = np.random.default_rng(seed).uniform(low, high, (n, 3, height, width)).astype(np.float32)
    photograph = np.repeat(photograph_tile(height, width, value_range), n, axis=0)
    results = []
    for probe, lr in (("random", random), ("photograph", photograph)):
        if noise is not None:
            lr = np.concatenate([lr, np.repeat(noise_at(noise, 0, 0, height, width)[None], n, axis=0)], axis=1)
        lr = lr.astype(dtype).astype(np.float32)
        with torch.no_grad():
            wanted = network(torch.from_numpy(lr)).numpy()
        if precision == "fp16":  # first, so that an overflow is reported as one
            emulated = run_with_fp16_storage(network, torch.from_numpy(lr)).numpy()
            results.append(_compare(wanted, emulated, probe, "fp16 storage emulation", high - low, needed))
        (ran,) = session.run([OUTPUT], {INPUT: lr.astype(dtype)})
        results.append(_compare(wanted, ran.astype(np.float32), probe, "onnxruntime", high - low, needed))
    for result in results:
        _demand(result)
    return {"seed": seed, "reference": "torch float32", "results": [asdict(result) for result in results]}


def _compare(
    wanted: NDArray[np.float32], got: NDArray[np.float32], probe: str, runner: str, peak: float, needed: float
) -> Parity:
    difference = got.astype(np.float64) - wanted.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        psnr = float(10 * np.log10(peak**2 / np.mean(difference**2)))
    # an exact match is infinitely good, which JSON cannot say
    psnr = min(psnr, 200.0) if np.isfinite(difference).all() else float("-inf")
    return Parity(probe, runner, float(np.abs(difference).max()), round(psnr, 2), needed)


def _demand(result: Parity) -> None:
    if result.psnr_db >= result.needed_psnr_db:
        return
    emulated = result.runner != "onnxruntime"
    kind = PrecisionError if emulated else ExportError
    remedy = "Build with --precision fp32." if emulated else "Report this model: its graph does not do what torch does."
    seen = "non-finite values" if result.psnr_db == float("-inf") else f"PSNR {result.psnr_db:.1f} dB"
    raise kind(
        f"the {'FP16 network' if emulated else 'graph'} does not match torch FP32 on the {result.probe} tile",
        seen=f"{seen}, worst difference {result.max_abs:.3g} ({result.runner})",
        needed=f"{result.needed_psnr_db:.0f} dB",
        remedy=remedy,
    )
