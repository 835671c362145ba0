"""The split form: encoder, UNet and decoder as three graphs, the UNet over latent tiles, as the authors run it.

The whole picture is encoded and decoded in one piece, so nothing is cut in image space; in return memory grows with the
picture, and the VAE's attention with the square of its pixels. Runs in ONNX Runtime on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import SplitFacts, TileFacts
from zoomrt.errors import RuntimeFault
from zoomrt.runtime.latent_tiles import blended, windows
from zoomrt.runtime.onnxruntime_session import ERRORS, core_count

__all__ = ["PARTS", "SplitSession"]

PARTS = ("encoder", "unet", "decoder")
"""Keys of `Manifest.graphs` in the split form; each graph has one input and one output of free height and width."""

Progress = Callable[[int, int], None]


class SplitSession:
    """The three graphs of a split bundle, loaded. Not thread-safe: the upscaler takes turns.

    graphs : part -> file in `folder`. tile : `height` is the latent tile and `overlap` its overlap, in LR pixels.
    threads : of one operator; None means `core_count()`.

    Raises EngineMismatch, BundleError and OutOfMemory as `OnnxRuntimeSession` does.
    """

    def __init__(
        self, folder: Path, graphs: Mapping[str, str], tile: TileFacts, split: SplitFacts, threads: int | None = None
    ) -> None:
        self._split, self._scale = split, tile.scale
        self._tile = tile.height * tile.scale // split.pixels_per_latent
        self._overlap = tile.overlap * tile.scale // split.pixels_per_latent
        self._sessions = {part: _load(folder / graphs[part], threads) for part in PARTS}

    def run(self, picture: NDArray[np.float32], on_part: Progress) -> NDArray[np.float32]:
        """Upscale a whole picture.

        picture : (1, 3, h, w) float32 in the bundle's value range, any size.
        on_part : called with (parts done, parts in all): the encoder, each latent tile, the decoder.

        Returns (3, h * scale, w * scale) float32, not clamped.
        Raises RuntimeFault when a graph fails or the result is not finite, OutOfMemory.
        """
        latent = self._execute("encoder", picture)
        tiles = windows(latent.shape[2], latent.shape[3], self._tile, self._overlap)
        done, parts = 1, len(tiles) + 2
        on_part(done, parts)

        def predict(tile: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal done
            noise = self._execute("unet", tile)
            done += 1
            on_part(done, parts)
            return noise

        noise = blended(latent, tiles, predict)
        clean = latent * np.float32(self._split.latent_gain) - noise * np.float32(self._split.noise_gain)
        height, width = (side * self._scale for side in picture.shape[2:])
        pixels: NDArray[np.float32] = self._execute("decoder", clean)[0, :, :height, :width]
        if not np.isfinite(pixels).all():
            seen = f"{int(pixels.size - np.isfinite(pixels).sum())} of {pixels.size} values NaN or infinite"
            remedy = "Build the bundle again with trt-build; if it stays, the weights are damaged."
            raise RuntimeFault("the engine failed on this picture", seen=seen, needed="finite values", remedy=remedy)
        on_part(parts, parts)
        return pixels

    def close(self) -> None:
        """Release the graphs. May be called again."""
        self._sessions = {}

    def _execute(self, part: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        session = self._sessions[part]
        try:
            result: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: values})[0]
        except Exception as cause:  # ONNX Runtime's exceptions have no common base below Exception
            raise ERRORS.of_run(cause) from cause
        return result


def _load(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else core_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is an exception of ours, not a line on stderr
    options.enable_cpu_mem_arena = False  # it would keep the encoder's memory while the decoder needs it
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as cause:
        raise ERRORS.of_load(path, cause, onnxruntime.__version__, None) from cause
