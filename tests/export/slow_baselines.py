"""Real-ESRGAN (both kinds), EDSR and SwinIR, slow and plain, in float64 on numpy, straight from baselines.md.

Shares no code with zoomrt. Pictures are (C, H, W).
"""

from __future__ import annotations

import math

import numpy as np
from slow_reference import Array, Weights, doubled


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
    if w.array("conv_first.weight").shape[1] == 12:  # 2 x 2 pixels become channels, colour slowest
        lr = np.stack([lr[c, dy::2, dx::2] for c in range(3) for dy in range(2) for dx in range(2)])
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
    for name in ("conv_up1", "conv_up2"):
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
