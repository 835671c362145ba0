"""The nearest code of a codebook for every latent pixel, without a matrix of distances, in FP32.

The distance is the sum of squared differences itself, not |z|^2 - 2 z.e + |e|^2, whose cancellation flips near ties. A
program keeps PIXELS x CODES running minima in registers and reduces them once, at the end; of equally near codes the
first one wins.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoomrt.kernels.checks import FLOATS, TYPES, require, require_tensors
from zoomrt.kernels.configuration import Configuration
from zoomrt.kernels.cost import Cost

__all__ = ["MOST_CHANNELS", "configuration", "configurations", "cost", "nearest_kernel", "reference", "vq_nearest"]

MOST_CHANNELS = 32
"""Differences are unrolled by channel."""
PIXELS, CODES = 16, 128


@triton.jit
def nearest_kernel(
    latent, codebook, quantised, indices, pixels, codes,
    latent_picture, latent_channel, quantised_picture, quantised_channel,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    """A picture's pixels are contiguous within a channel; codebook (codes, CHANNELS) FP32, contiguous."""
    picture = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    there = pixel < pixels
    latent += picture * latent_picture
    nearest = tl.full([PIXELS, CODES], float("inf"), tl.float32)
    found = tl.zeros([PIXELS, CODES], tl.int32)
    for first in range(0, codes, CODES):
        code = first + tl.arange(0, CODES)
        known = code < codes
        distance = tl.zeros([PIXELS, CODES], tl.float32)
        for channel in tl.static_range(CHANNELS):
            value = tl.load(latent + channel * latent_channel + pixel, mask=there, other=0.0).to(tl.float32)
            part = tl.load(codebook + code * CHANNELS + channel, mask=known, other=0.0)
            step = value[:, None] - part[None, :]
            distance += step * step
        closer = (distance < nearest) & known[None, :]
        nearest = tl.where(closer, distance, nearest)
        found = tl.where(closer, code[None, :], found)
    least = tl.min(nearest, 1)
    index = tl.min(tl.where(nearest == least[:, None], found, codes), 1)
    index = tl.minimum(index, codes - 1)  # of a pixel that is NaN
    tl.store(indices + picture * pixels + pixel, index, mask=there)
    quantised += picture * quantised_picture
    for channel in tl.static_range(CHANNELS):
        value = tl.load(codebook + index * CHANNELS + channel, mask=there, other=0.0)
        tl.store(quantised + channel * quantised_channel + pixel, value.to(quantised.dtype.element_ty), mask=there)


def reference(latent: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """What `vq_nearest` computes, with all distances at once, in the type of `latent`: pass float64 for exact ones."""
    pixels = latent.permute(0, 2, 3, 1)
    distances = (pixels[..., None, :] - codebook.to(latent.dtype)).square().sum(-1)
    indices = distances.argmin(-1)
    return codebook[indices].permute(0, 3, 1, 2).to(latent.dtype), indices.int()


def vq_nearest(latent: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Replace each latent pixel by the nearest code.

    latent : (n, channels, h, w) FP32, FP16 or BF16, up to 32 channels, contiguous; distances are FP32 whatever it is.
    codebook : (codes, channels) FP32, contiguous.

    Returns the codes' values, as `latent` in shape and type, and their indices, (n, h, w) int32; of equally near codes
    the first. Of a pixel that is NaN the index is some code's. Raises InputError.
    """
    what = "cannot look up codes"
    require_tensors(what, nearest_kernel, latent, codebook)
    require(latent.ndim == 4 and latent.dtype in FLOATS and latent.is_contiguous() and latent.numel() > 0, what,
            f"latent {latent.dtype} {tuple(latent.shape)}, strides {latent.stride()}",
            "(n, channels, h, w) FP32, FP16 or BF16, contiguous", "Use .contiguous().")  # fmt: skip
    n, channels, high, wide = latent.shape
    fits = codebook.ndim == 2 and codebook.shape[1] == channels <= MOST_CHANNELS and codebook.numel() > 0
    require(fits and codebook.dtype == torch.float32 and codebook.is_contiguous(), what,
            f"codebook {codebook.dtype} {tuple(codebook.shape)} for {channels} channels",
            f"contiguous float32 (codes, channels), channels up to {MOST_CHANNELS}",
            "Convert the codebook with .float().contiguous().")  # fmt: skip
    quantised = torch.empty_like(latent)
    indices = torch.empty((n, high, wide), dtype=torch.int32, device=latent.device)
    configuration(channels, TYPES[latent.dtype]).launch(
        latent=latent, codebook=codebook, quantised=quantised, indices=indices, pictures=n,
        pixels=high * wide, codes=len(codebook),
        latent_picture=latent.stride(0), latent_channel=latent.stride(1),
        quantised_picture=quantised.stride(0), quantised_channel=quantised.stride(1),
    )  # fmt: skip
    return quantised, indices


def configuration(channels: int, dtype: str) -> Configuration:
    """dtype : Triton's name of the latent's type."""
    pointers = {"latent": f"*{dtype}", "codebook": "*fp32", "quantised": f"*{dtype}", "indices": "*i32"}
    numbers = ("pixels", "codes", "latent_picture", "latent_channel", "quantised_picture", "quantised_channel")
    return Configuration(
        kernel="vq_nearest",
        name=f"vq_nearest_c{channels}_{dtype}",
        function=nearest_kernel,
        signature=pointers | dict.fromkeys(numbers, "i32"),
        constants={"CHANNELS": channels, "PIXELS": PIXELS, "CODES": CODES},
        grid=("cdiv(pixels, PIXELS)", "pictures", "1"),
        extents=("pictures",),
        aligned=tuple(pointers),
    )


def configurations() -> list[Configuration]:
    """Three channels, as SinSR and ResShift have them."""
    return [configuration(3, dtype) for dtype in ("fp32", "fp16")]


def cost(n: int, channels: int, pixels: int, codes: int, value_bytes: int = 4) -> Cost:
    """The latent in and out, indices and the codebook once; per pixel, code and channel a difference and a
    multiply-add, and a comparison per pixel and code."""
    moved = n * pixels * (2 * channels * value_bytes + 4) + codes * channels * 4
    return Cost(bytes=moved, operations=n * pixels * codes * (3 * channels + 1))
