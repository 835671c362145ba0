"""Group norm, scale and shift, and SiLU in one pass over small groups or two passes over large ones, FP32 inside.

A tile is (groups, channels of each, pixels), whatever the layout in memory. One pass: a program holds whole groups.
Two passes: `moments_kernel` leaves the mean and the sum of squared deviations of each part of a group, and
`apply_kernel` merges them (Chan et al. 1983) and normalises. Deviations are taken from a mean that is known, never
E[x^2] - E[x]^2, so a mean of a thousand deviations costs nothing. The second pass goes backwards: what the first one
read last is still in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from zoomrt.kernels.checks import FLOATS, TYPES, require, require_tensors
from zoomrt.kernels.configuration import SMS, TENSOR_CORE_SMS, Configuration, cdiv
from zoomrt.kernels.cost import Cost

__all__ = ["LAYOUTS", "configurations", "cost", "group_norm_silu", "reference", "whole_kernel"]

LAYOUTS = ("nchw", "nhwc")
HELD = 16384
"""Elements that one program holds in registers: 64 for each of 8 x 32 threads."""
TILE = 4096
"""Elements of a tile of the two passes: 32 for each of 4 x 32 threads, in vectors of 8."""
PARTS = 64
"""Most parts of a group in two passes: with 32 groups 2048 programs, two waves of the largest GPU."""


@triton.jit
def _load(x, groups, channels, pixels, group_channels, all_groups, all_pixels, channel_stride, pixel_stride):
    """A tile in FP32 and which of it is there."""
    channel = groups[:, None, None] * group_channels + channels[None, :, None]
    there = (groups[:, None, None] < all_groups) & (channels[None, :, None] < group_channels)
    there = there & (pixels[None, None, :] < all_pixels)
    place = channel.to(tl.int64) * channel_stride + pixels[None, None, :].to(tl.int64) * pixel_stride
    return tl.load(x + place, mask=there, other=0.0).to(tl.float32), there, place


@triton.jit
def _moments(values, there, count):
    """Mean and sum of squared deviations of each group of a tile, (groups,); count : (groups,) of its elements."""
    mean = tl.sum(tl.sum(values, 2), 1) / count
    deviation = tl.where(there, values - mean[:, None, None], 0.0)
    # what rounding of a large mean left over
    rest = tl.sum(tl.sum(deviation, 2), 1) / count
    squares = tl.sum(tl.sum(deviation * deviation, 2), 1)
    return mean + rest, squares - count * rest * rest


@triton.jit
def _finish(
    out, values, there, place, groups, channels, mean, deviation, weight, bias, scale, shift, picture,
    scale_stride, shift_stride, group_channels, SILU: tl.constexpr,
):  # fmt: skip
    """Normalise, weigh, scale and shift, SiLU, store. mean, deviation : (groups,)."""
    result = (values - mean[:, None, None]) * (1.0 / deviation)[:, None, None]
    channel = groups[:, None] * group_channels + channels[None, :]
    known = tl.sum(there.to(tl.int32), 2) > 0
    if weight is not None:
        result *= tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)[:, :, None]
    if bias is not None:
        result += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[:, :, None]
    if scale is not None:
        by = tl.load(scale + picture * scale_stride + channel, mask=known, other=0.0).to(tl.float32)
        result *= 1.0 + by[:, :, None]
    if shift is not None:
        result += tl.load(shift + picture * shift_stride + channel, mask=known, other=0.0).to(tl.float32)[:, :, None]
    if SILU:
        result = result / (1.0 + tl.exp(-result))
    tl.store(out + place, result.to(out.dtype.element_ty), mask=there)


@triton.jit
def whole_kernel(
    x, out, weight, bias, scale, shift, groups, group_channels, pixels,
    picture_stride, channel_stride, pixel_stride, scale_stride, shift_stride, epsilon,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """One pass. CHANNELS and PIXELS cover a group's."""
    picture = tl.program_id(1).to(tl.int64)
    x += picture * picture_stride
    out += picture * picture_stride
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    channel, pixel = tl.arange(0, CHANNELS), tl.arange(0, PIXELS)
    values, there, place = _load(
        x, group, channel, pixel, group_channels, groups, pixels, channel_stride, pixel_stride
    )  # fmt: skip
    count = tl.full([GROUPS], 1.0, tl.float32) * (group_channels * pixels)
    mean, squares = _moments(values, there, count)
    deviation = tl.sqrt(squares / count + epsilon)
    _finish(
        out, values, there, place, group, channel, mean, deviation, weight, bias, scale, shift, picture,
        scale_stride, shift_stride, group_channels, SILU,
    )  # fmt: skip


@triton.jit
def moments_kernel(
    x, moments, groups, group_channels, pixels, steps, picture_stride, channel_stride, pixel_stride,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """First pass. Part p of a group: its pixels from p * steps * PIXELS on. moments : (pictures, groups, PARTS, 2)"""
    picture = tl.program_id(2).to(tl.int64)
    x += picture * picture_stride
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    channel = tl.arange(0, CHANNELS)
    first = tl.program_id(0) * steps * PIXELS
    last = tl.minimum(first + steps * PIXELS, pixels)  # a tile ends at its part or at the last pixel
    mean = tl.zeros([GROUPS], tl.float32)
    squares = tl.zeros([GROUPS], tl.float32)
    for begin in range(first, last, PIXELS):
        pixel = begin + tl.arange(0, PIXELS)
        values, there, _place = _load(
            x, group, channel, pixel, group_channels, groups, pixels, channel_stride, pixel_stride
        )  # fmt: skip
        before = ((begin - first) * group_channels).to(tl.float32)
        count = (tl.minimum(PIXELS, last - begin) * group_channels).to(tl.float32)
        tile_mean, tile_squares = _moments(values, there, count)
        step = tile_mean - mean
        squares += tile_squares + step * step * (before * count / (before + count))
        mean += step * (count / (before + count))
    place = moments + ((picture * groups + group) * PARTS + tl.program_id(0)) * 2
    tl.store(place, mean, mask=group < groups)
    tl.store(place + 1, squares, mask=group < groups)


@triton.jit
def apply_kernel(
    x, out, weight, bias, scale, shift, moments, groups, group_channels, pixels, part_size, parts, block_steps,
    picture_stride, channel_stride, pixel_stride, scale_stride, shift_stride, epsilon,
    GROUPS: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Second pass. part_size : elements in each of `parts` parts of a group but the last; a program takes CHANNELS
    channels of GROUPS groups and block_steps * PIXELS pixels."""
    picture = (tl.num_programs(2) - 1 - tl.program_id(2)).to(tl.int64)
    x += picture * picture_stride
    out += picture * picture_stride
    channel_blocks = tl.cdiv(group_channels, CHANNELS)
    row = tl.num_programs(1) - 1 - tl.program_id(1)
    group = row // channel_blocks * GROUPS + tl.arange(0, GROUPS)
    channel = row % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)

    part = tl.arange(0, PARTS)
    known = (group[:, None] < groups) & (part[None, :] < parts)
    source = moments + ((picture * groups + group)[:, None] * PARTS + part[None, :]) * 2
    means = tl.load(source, mask=known, other=0.0)
    squares = tl.load(source + 1, mask=known, other=0.0)
    total = group_channels * pixels
    counts = tl.where(part < parts, tl.minimum(part_size, total - part * part_size), 0).to(tl.float32)[None, :]
    # from the first part's mean, so that a large mean is not summed
    start = tl.sum(tl.where(part[None, :] == 0, means, 0.0), 1)
    mean = start + tl.sum(counts * tl.where(known, means - start[:, None], 0.0), 1) / total
    between = tl.where(known, means - mean[:, None], 0.0)
    deviation = tl.sqrt((tl.sum(squares, 1) + tl.sum(counts * between * between, 1)) / total + epsilon)

    first = (tl.num_programs(0) - 1 - tl.program_id(0)) * block_steps * PIXELS
    last = tl.minimum(first + block_steps * PIXELS, pixels)  # a tile ends at its block or at the last pixel
    for begin in range(first, last, PIXELS):
        pixel = begin + tl.arange(0, PIXELS)
        values, there, place = _load(
            x, group, channel, pixel, group_channels, groups, pixels, channel_stride, pixel_stride
        )  # fmt: skip
        _finish(
            out, values, there, place, group, channel, mean, deviation, weight, bias, scale, shift, picture,
            scale_stride, shift_stride, group_channels, SILU,
        )  # fmt: skip


def reference(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
    silu: bool = True,
) -> Tensor:
    """What `group_norm_silu` computes, by torch, in the type of x: pass float64 for an exact one."""
    parts = [None if part is None else part.to(x.dtype) for part in (weight, bias, scale, shift)]
    out = F.group_norm(x, groups, parts[0], parts[1], epsilon)
    if parts[2] is not None:
        out = out * (1 + parts[2][:, :, None, None])
    if parts[3] is not None:
        out = out + parts[3][:, :, None, None]
    return F.silu(out) if silu else out


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    epsilon: float = 1e-5,
    silu: bool = True,
) -> Tensor:
    """SiLU(GroupNorm(x) * (1 + scale) + shift) with FP32 statistics and arithmetic.

    x : (n, channels, h, w) FP16, BF16 or FP32, contiguous or in torch.channels_last; the result is laid out alike.
    groups : how many; channels is a multiple of it.
    weight, bias : (channels,); scale, shift : (n, channels), as a time embedding has them, rows may have gaps. Any of
        the three types, None for none.
    epsilon : added to the variance. silu : False leaves it out.

    Raises InputError.
    """
    what = "cannot normalise"
    require_tensors(what, whole_kernel, x, weight, bias, scale, shift)
    require(x.ndim == 4 and x.numel() > 0 and x.dtype in FLOATS, what, f"x {x.dtype} {tuple(x.shape)}",
            "(n, channels, h, w) FP16, BF16 or FP32", "Convert or reshape it.")  # fmt: skip
    n, channels, high, wide = x.shape
    require(groups >= 1 and channels % groups == 0, what, f"{channels} channels in {groups} groups",
            "channels that are a multiple of groups", "Check the network's groups.")  # fmt: skip
    layout = "nchw" if x.is_contiguous() else "nhwc"
    require(x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last), what, f"strides {x.stride()}",
            "a contiguous tensor, channels first or last", "Use .contiguous().")  # fmt: skip
    for name, part in {"weight": weight, "bias": bias, "scale": scale, "shift": shift}.items():
        shape = (channels,) if name in ("weight", "bias") else (n, channels)
        fits = part is None or (tuple(part.shape) == shape and part.dtype in FLOATS and part.stride(-1) == 1)
        require(fits, what, f"{name} {None if part is None else (part.dtype, tuple(part.shape), part.stride())}",
                f"{shape}, FP16, BF16 or FP32, contiguous channels", "Check the parameters.")  # fmt: skip
    out = torch.empty_like(x)
    pixels, size = high * wide, channels // groups
    kinds = tuple(None if part is None else TYPES[part.dtype] for part in (weight, bias, scale, shift))
    values: dict[str, Any] = {
        "x": x, "out": out, "weight": weight, "bias": bias, "scale": scale, "shift": shift, "groups": groups,
        "pictures": n, "group_channels": size, "pixels": pixels, "epsilon": epsilon,
        "picture_stride": channels * pixels,
        "channel_stride": pixels, "pixel_stride": channels,
        "scale_stride": 0 if scale is None else scale.stride(0),
        "shift_stride": 0 if shift is None else shift.stride(0),
    }  # fmt: skip
    if _held(size, pixels) <= HELD:
        whole(TYPES[x.dtype], layout, size, pixels, kinds, silu).launch(**values)
        return out
    first, second = two_passes(TYPES[x.dtype], layout, size, kinds, silu)
    moments = torch.empty((n, groups, PARTS, 2), dtype=torch.float32, device=x.device)
    values |= {"moments": moments} | pass_numbers(layout, n, groups, size, pixels, first, second)
    first.launch(**values | first_pass_view(layout, size, pixels))
    second.launch(**values)
    return out


def first_pass_view(layout: str, size: int, pixels: int) -> dict[str, int]:
    """What the first pass is told: channels first, a group is one run of memory, as if it were one channel."""
    if layout == "nhwc":
        return {"group_channels": size, "pixels": pixels}
    return {"group_channels": 1, "pixels": size * pixels, "channel_stride": size * pixels}


def pass_numbers(
    layout: str, pictures: int, groups: int, size: int, pixels: int, first: Configuration, second: Configuration
) -> dict[str, int]:
    """How the work of two passes is shared out: by the shape alone, so that results never depend on the GPU."""
    view = first_pass_view(layout, size, pixels)
    tile, block = first.constants["PIXELS"], second.constants
    steps = cdiv(cdiv(view["pixels"], tile), PARTS)
    rows = cdiv(groups, block["GROUPS"]) * cdiv(size, block["CHANNELS"]) * pictures
    return {
        "steps": steps,
        "parts": cdiv(view["pixels"], steps * tile),
        "part_size": steps * tile * view["group_channels"],
        "block_steps": max(1, cdiv(pixels, block["PIXELS"]) * rows // (32 * PARTS)),
    }


def _held(size: int, pixels: int) -> int:
    return int(triton.next_power_of_2(size) * triton.next_power_of_2(pixels))


def whole(
    dtype: str, layout: str, size: int, pixels: int, kinds: tuple[str | None, ...], silu: bool = True
) -> Configuration:
    """One pass over groups of `size` channels and `pixels` pixels. kinds : types of weight, bias, scale and shift."""
    channels, padded = triton.next_power_of_2(size), triton.next_power_of_2(pixels)
    return _configuration(
        f"whole_c{size}_p{pixels}", whole_kernel, dtype, layout, kinds, silu,
        ("groups",), ("cdiv(groups, GROUPS)", "pictures", "1"),
        (1, channels, padded), {"group_channels": size, "pixels": pixels}, 8 if channels * padded > TILE else 4,
    )  # fmt: skip


def two_passes(
    dtype: str, layout: str, size: int, kinds: tuple[str | None, ...], silu: bool = True
) -> tuple[Configuration, Configuration]:
    """Both passes over groups of `size` channels, which are fixed in nhwc only."""
    numbers: tuple[str, ...] = ("groups", "group_channels", "pixels")
    fixed = {"PARTS": PARTS}
    if layout == "nchw":
        first_tile, second_tile = (1, 1, TILE), (1, 4, TILE // 4)
    else:
        numbers, fixed["group_channels"] = ("groups", "pixels"), size
        channels = triton.next_power_of_2(size)
        groups = max(1, 64 // channels)  # 64 channels are a whole line of the cache
        first_tile = second_tile = (groups, channels, max(1, TILE // (groups * channels)))
    suffix = "" if layout == "nchw" else f"_c{size}"
    first = _configuration(
        "moments" + suffix, moments_kernel, dtype, layout, None, silu,
        (*numbers, "steps"),
        ("cdiv(pixels, steps * PIXELS)", "cdiv(groups, GROUPS)", "pictures"), first_tile, fixed, 4,
    )  # fmt: skip
    second = _configuration(
        "apply" + suffix, apply_kernel, dtype, layout, kinds, silu,
        (*numbers, "part_size", "parts", "block_steps"),
        ("cdiv(pixels, block_steps * PIXELS)", "cdiv(groups, GROUPS) * cdiv(group_channels, CHANNELS)", "pictures"),
        second_tile, fixed, 4,
    )  # fmt: skip
    return first, second


def _configuration(
    step: str, function: Any, dtype: str, layout: str, kinds: tuple[str | None, ...] | None, silu: bool,
    numbers: tuple[str, ...], grid: tuple[str, str, str], tile: tuple[int, int, int], more: dict[str, int], warps: int,
) -> Configuration:  # fmt: skip
    parameters = dict(zip(("weight", "bias", "scale", "shift"), kinds or (), strict=False))
    given = {name: f"*{kind}" for name, kind in parameters.items() if kind}
    constants: dict[str, Any] = {name: None for name, kind in parameters.items() if not kind}
    signature = {"x": f"*{dtype}"} | ({"out": f"*{dtype}"} if kinds is not None else {}) | given
    if function is not whole_kernel:
        signature["moments"] = "*fp32"
    pointers = tuple(signature)
    signature |= dict.fromkeys((*numbers, "picture_stride"), "i32")
    contiguous, apart = ("pixel_stride", "channel_stride") if layout == "nchw" else ("channel_stride", "pixel_stride")
    constants[contiguous] = 1
    signature[apart] = "i32"
    aligned = [*pointers, "picture_stride", apart, *(["pixels"] if "pixels" in numbers else [])]
    if kinds is not None:
        for name in ("scale", "shift"):
            if name in given:
                signature[f"{name}_stride"] = "i32"
            else:
                constants[f"{name}_stride"] = 0
        signature["epsilon"] = "fp32"
        constants["SILU"] = silu
    words = [name for name in ("scale", "shift") if name in given] + ([] if silu or kinds is None else ["linear"])
    return Configuration(
        kernel="group_norm_silu",
        name="_".join(["group_norm_silu", layout, dtype, step, *words]),
        function=function,
        signature=signature,
        constants=constants | dict(zip(("GROUPS", "CHANNELS", "PIXELS"), tile, strict=True)) | more,
        grid=grid,
        extents=("pictures",),
        warps=warps,
        stages=2,
        aligned=tuple(aligned),
        sms=SMS if dtype != "bf16" else TENSOR_CORE_SMS,
    )


def configurations() -> list[Configuration]:
    """FP16 with weight and bias: both layouts in two passes, the VAE's 4 to 16 channels a group, and the small maps of
    a UNet in one; scale and shift as SinSR's blocks have them."""
    affine = ("fp16", "fp16", None, None)
    passes = [two_passes("fp16", "nchw", 1, affine), *(two_passes("fp16", "nhwc", size, affine) for size in (4, 8, 16))]
    with_time = two_passes("fp16", "nchw", 1, ("fp16",) * 4)[1]
    small = [whole("fp16", layout, *shape, affine) for layout in LAYOUTS for shape in ((40, 256), (40, 64), (80, 64))]
    return [*(part for pair in passes for part in pair), with_time, *small]


def cost(n: int, channels: int, pixels: int, groups: int, value_bytes: int = 2) -> Cost:
    """x once or twice and the result; about 4 operations a value for the moments and 8 to normalise, weigh and SiLU."""
    values = n * channels * pixels
    reads = 1 if _held(channels // groups, pixels) <= HELD else 2
    return Cost(bytes=(reads + 1) * values * value_bytes, operations=12 * values)
