"""Bundles whose engines are fakes, and the device that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake_cuda import FakeCuda
from runtime_helpers import write_bundle

from zoomrt.bundle import Bundle, TileFacts, open_bundle
from zoomrt.runtime.gpu.cuda_device import CudaDevice


def plan_of(batch: int) -> bytes:
    """An engine, and a graph, of a few bytes: an ONNX file that has nothing but its producer's name."""
    name = b"engine %d" % batch
    return b"\x12" + bytes([len(name)]) + name


def engine_bundle(path: Path, tile: TileFacts, **changes: Any) -> tuple[Bundle, dict[bytes, Any]]:
    """A bundle whose engines are a few bytes each, and their shapes."""
    payloads = {n: plan_of(n) for n in tile.batches}
    shapes = {
        payloads[n]: (
            (n, tile.channels, tile.height, tile.width),
            (n, 3, tile.height * tile.scale, tile.width * tile.scale),
        )
        for n in tile.batches
    }
    fields = {"backend": "tensorrt_rtx", "target": "sm89", "engines": {str(n): f"graph_{n}.onnx" for n in payloads}}
    return open_bundle(write_bundle(path, tile, payloads, **{**fields, **changes})), shapes


def device_on(cuda: FakeCuda) -> CudaDevice:
    return CudaDevice(core=cuda.core, driver=cuda.driver)
