"""TensorRT-RTX: the sessions of TensorRT, whose Python API it shares."""

from __future__ import annotations

from dataclasses import replace

from zoomrt.runtime.sessions import tensorrt

BACKEND = replace(
    tensorrt.BACKEND,
    name="tensorrt_rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    package="tensorrt_rtx",
    extra="rtx",
    readable=True,
    plugins=False,
    # static traffic of the SD VAE decoder at 512 px, against FP16
    weight_scales="tensor",
    weight_scales_why="scales per channel cost the fusion of bias and residual: +54 % instead of -17 % memory traffic",
)
