"""Real-ESRGAN (both kinds), EDSR and SwinIR, slow and plain, in float64 on numpy, from the authors' repositories.

Shares no code with zoomrt. Pictures are (C, H, W).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf
from slow_reference import Array, Weights, doubled, layer_norm


def leaky(x: Array, slope: float) -> Array:
    return np.where(x > 0, x, slope * x)


def shuffled(x: Array, step: int) -> Array:
    """Pixel shuffle, one output pixel after another."""
    channels, high, wide = x.shape
    out = np.empty((channels // step**2, high * step, wide * step))
    for c in range(out.shape[0]):
        for dy in range(step):
            for dx in range(step):
                out[c, dy::step, dx::step] = x[c * step**2 + dy * step + dx]
    return out


def real_esrgan(w: Weights, lr: Array) -> Array:
    side = math.isqrt(w.array("conv_first.weight").shape[1] // 3)  # of squares that become channels, colour slowest
    lr = np.stack([lr[c, dy::side, dx::side] for c in range(3) for dy in range(side) for dx in range(side)])
    first = h = w.conv("conv_first", lr)
    for i in w.children("body"):
        outer = h
        for j in (1, 2, 3):
            inner, found = h, [h]
            for k in (1, 2, 3, 4):
                found.append(leaky(w.conv(f"body.{i}.rdb{j}.conv{k}", np.concatenate(found)), 0.2))
            h = inner + 0.2 * w.conv(f"body.{i}.rdb{j}.conv5", np.concatenate(found))
        h = outer + 0.2 * h
    h = first + w.conv("conv_body", h)
    for name in ("conv_up1", "conv_up2", "conv_up3"):
        if w.has(name):
            h = leaky(w.conv(name, doubled(h)), 0.2)
    return w.conv("conv_last", leaky(w.conv("conv_hr", h), 0.2))


def compact(w: Weights, lr: Array, scale: int = 4) -> Array:
    h = lr
    layers = w.children("body")
    for k in layers:
        weight = w.array(f"body.{k}.weight")
        h = w.conv(f"body.{k}", h) if weight.ndim == 4 else np.where(h > 0, h, weight[:, None, None] * h)
    return shuffled(h, scale) + lr.repeat(scale, axis=1).repeat(scale, axis=2)


def edsr(w: Weights, lr: Array, residual_share: float) -> Array:
    """lr in [0, 255], as published."""
    first = h = w.conv("head.0", w.conv("sub_mean", lr))
    *blocks, last = w.children("body")
    for i in blocks:
        inner = np.maximum(w.conv(f"body.{i}.body.0", h), 0)
        h = h + residual_share * w.conv(f"body.{i}.body.2", inner)
    h = first + w.conv(f"body.{last}", h)
    for k in w.children("tail.0"):
        h = w.conv(f"tail.0.{k}", h)
        h = shuffled(h, math.isqrt(h.shape[0] // first.shape[0]))
    return w.conv("add_mean", w.conv("tail.1", h))


def window_bias(w: Weights, name: str, heads: int) -> Array:
    """(heads, 64, 64): token i looks at token j of an 8 x 8 window, row-major."""
    table = w.array(f"{name}.relative_position_bias_table")
    out = np.empty((heads, 64, 64))
    for i in range(64):
        for j in range(64):
            out[:, i, j] = table[(i // 8 - j // 8 + 7) * 15 + (i % 8 - j % 8 + 7)]
    return out


def window_attention(w: Weights, name: str, x: Array, heads: int, shift: int, hidden) -> Array:
    """x (H, W, C). hidden : (row, column, y, x of token i, y, x of token j) -> whether i does not see j, by window."""
    high, wide, channels = x.shape
    size = channels // heads
    bias = window_bias(w, name, heads)
    x = np.roll(x, (-shift, -shift), axis=(0, 1))
    out = np.empty_like(x)
    for row in range(high // 8):
        for column in range(wide // 8):
            place = (slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
            q, k, v = np.split(w.linear(f"{name}.qkv", x[place].reshape(64, channels)), 3, axis=1)
            mask = np.zeros((64, 64))
            if shift:
                for i in range(64):
                    for j in range(64):
                        if hidden(row, column, i // 8, i % 8, j // 8, j % 8):
                            mask[i, j] = -100
            mixed = np.empty((64, channels))
            for head in range(heads):
                part = slice(head * size, head * size + size)
                scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size) + bias[head] + mask)
                mixed[:, part] = scores / scores.sum(axis=1, keepdims=True) @ v[:, part]
            out[place] = w.linear(f"{name}.proj", mixed).reshape(8, 8, channels)
    return np.roll(out, (shift, shift), axis=(0, 1))


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def end_of_group(w: Weights, name: str, x: Array) -> Array:
    if w.has(name):
        return w.conv(name, x)
    return w.conv(f"{name}.4", leaky(w.conv(f"{name}.2", leaky(w.conv(f"{name}.0", x), 0.2)), 0.2))


def swinir(w: Weights, lr: Array, heads: int) -> Array:
    high, wide = lr.shape[1:]

    def region(y: int, extent: int) -> int:
        """Which of the three parts of a rolled axis a pixel is in."""
        return 0 if y < extent - 8 else 1 if y < extent - 4 else 2

    def hidden(row, column, y, x, v, u) -> bool:
        here = region(8 * row + y, high), region(8 * column + x, wide)
        there = region(8 * row + v, high), region(8 * column + u, wide)
        return here != there

    def norm(name: str, h: Array) -> Array:
        return layer_norm(w, name, h.reshape(high * wide, -1)).reshape(h.shape)

    mean = np.array([0.4488, 0.4371, 0.4040])[:, None, None]
    first = w.conv("conv_first", lr - mean)
    tokens = norm("patch_embed.norm", first.transpose(1, 2, 0))
    for i in w.children("layers"):
        inner = tokens
        for j in w.children(f"layers.{i}.residual_group.blocks"):
            name = f"layers.{i}.residual_group.blocks.{j}"
            shift = 4 if j % 2 else 0
            inner = inner + window_attention(w, f"{name}.attn", norm(f"{name}.norm1", inner), heads, shift, hidden)
            mlp = gelu(w.linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", inner)))
            inner = inner + w.linear(f"{name}.mlp.fc2", mlp)
        tokens = tokens + end_of_group(w, f"layers.{i}.conv", inner.transpose(2, 0, 1)).transpose(1, 2, 0)
    h = first + end_of_group(w, "conv_after_body", norm("norm", tokens).transpose(2, 0, 1))
    if not w.has("conv_last"):
        h = w.conv("upsample.0", h)
        return shuffled(h, math.isqrt(h.shape[0] // 3)) + mean
    h = leaky(w.conv("conv_before_upsample.0", h), 0.01)
    if w.has("conv_up1"):
        for name in ("conv_up1", "conv_up2"):
            h = leaky(w.conv(name, doubled(h)), 0.2)
        h = leaky(w.conv("conv_hr", h), 0.2)
    for k in w.children("upsample"):
        features = h.shape[0]
        h = w.conv(f"upsample.{k}", h)
        h = shuffled(h, math.isqrt(h.shape[0] // features))
    return w.conv("conv_last", h) + mean
