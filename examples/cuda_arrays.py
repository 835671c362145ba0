"""Frames that lie on a GPU: CuPy and PyCUDA arrays go in as they are, through `__cuda_array_interface__`.

python examples/cuda_arrays.py edge-fp32-cpu [--library pycuda]

A bundle for the CPU reads them through one copy to the host, on the stream that the array names.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import zoomrt


def on_device(pixels: np.ndarray, library: str) -> Any:
    """The array on the current GPU."""
    if library == "cupy":
        import cupy

        return cupy.asarray(pixels)
    import pycuda.autoinit  # noqa: F401
    from pycuda import gpuarray

    return gpuarray.to_gpu(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--library", choices=("cupy", "pycuda"), default="cupy")
    arguments = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    with zoomrt.ZoomSession(arguments.bundle, (320, 240)) as session:
        view = session.process(on_device(pixels, arguments.library), 8.0).pixels
        same = np.array_equal(view, session.process(pixels, 8.0).pixels)
    print("same view as from the host" if same else "another view than from the host")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
