"""Does the graph compute what the network computes? ONNX Runtime against torch FP32, in figures for the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoomrt.bundle import NoiseFacts
from zoomrt.bundle.records import Parity
from zoomrt.errors import ExportError
from zoomrt.export.graph.to_onnx import INPUT, OUTPUT
from zoomrt.export.recording import Visitor, watched
from zoomrt.export.verify.sample_tiles import half_photograph_half_noise, with_noise
from zoomrt.runtime.sessions.common.onnxruntime_graph import open_graph, session_options
from zoomrt.runtime.tiles.psnr import psnr_db


@dataclass(frozen=True)
class Reference:
    """A batch of tiles and what torch makes of it in FP32; both (N, 3, ...) float32."""

    lr: NDArray[np.float32]
    sr: NDArray[np.float32]
    value_range: tuple[float, float]
    probe: str
    """What the tiles show."""
    needed_psnr_db: float
    """How close a graph must come."""


class Runner(NamedTuple):
    """What runs a graph: its name for messages and the manifest, and tiles in, tiles out."""

    name: str
    run: Callable[[NDArray[np.float32]], NDArray[Any]]


def reference(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    value_range: tuple[float, float],
    seed: int,
    *,
    half: bool,
    needed_db: float,
    visitors: tuple[Visitor, ...] = (),
    noise: NoiseFacts | None = None,
) -> Reference:
    """Run the FP32 network on a photograph and random pixels, one beside the other.

    seed : of the random pixels, see `sample_tiles.probe_seed`. needed_db : how close a graph must come.
    half : round the pixels to FP16 first, as they will be for the graph.
    shape : (N, 3, h, w). visitors : see `recording.watched`. noise : start noise, which follows the picture's channels.
    """
    lr = with_noise(half_photograph_half_noise(shape, value_range, seed), noise)
    if half:
        lr = lr.astype(np.float16).astype(np.float32)
    sr = watched(network, torch.from_numpy(lr), *visitors).numpy()
    return Reference(lr, sr, value_range, "photograph and noise", needed_db)


def check_parity(graph: Path, wanted: Reference, loss_db: float = 0.0, runner: Runner | None = None) -> Parity:
    """Run the graph on the reference's tiles and compare. ONNX Runtime computes FP16 graphs in FP32 on a CPU, so for
    FP16 this proves the wiring; `fp16/` proves the range.

    loss_db : see `family.Family.parity_loss_db`.
    runner : what will run the graph; None for ONNX Runtime as it comes, where that is an engine for a GPU.

    Raises ExportError when the graph differs from the network.
    """
    name, run = runner or _onnxruntime(graph)
    ran = run(wanted.lr)
    low, high = wanted.value_range
    needed = wanted.needed_psnr_db - loss_db
    result = compare(wanted.sr, ran.astype(np.float32), wanted.probe, name, high - low, needed)
    if result.psnr_db < result.needed_psnr_db:
        seen = f"PSNR {result.psnr_db:.1f} dB" if np.isfinite(result.psnr_db) else "non-finite values"
        raise ExportError(
            f"the graph does not match torch FP32 on the {wanted.probe} tile",
            seen=f"{seen}, worst difference {result.max_abs:.3g} ({name})",
            needed=f"{result.needed_psnr_db:.0f} dB",
            remedy="Run in fp32 or fp16 with --bisect to see the first node that differs, and report this model.",
        )
    return result


def _onnxruntime(graph: Path) -> Runner:
    session = open_graph(graph, session_options())
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32

    def run(lr: NDArray[np.float32]) -> NDArray[Any]:
        (result,) = session.run([OUTPUT], {INPUT: lr.astype(dtype)})
        return np.asarray(result)

    return Runner("onnxruntime", run)


def compare(
    expected: NDArray[np.float32], got: NDArray[np.float32], probe: str, runner: str, peak: float, needed: float
) -> Parity:
    """peak : what PSNR is relative to. needed : the PSNR that is demanded, for the record.

    A non-finite value anywhere makes the PSNR minus infinity.
    """
    difference = got.astype(np.float64) - expected.astype(np.float64)
    psnr = psnr_db(expected, got, peak) if np.isfinite(difference).all() else float("-inf")
    worst = float(np.abs(difference).max())
    relative = worst / max(float(np.abs(expected).max()), 1e-20)
    return Parity(probe, runner, worst, round(psnr, 2), needed, relative)
