"""SkipDiff's network and policy as docs/models/skipdiff.md has them, slow and plain, in float64 on numpy."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit
from slow_reference import Array, Weights, convolve, doubled, group_norm, silu


def features(level: float, count: int) -> Array:
    angles = np.array([level * math.exp(-math.log(10000) * i / (count // 2)) for i in range(count // 2)])
    return np.concatenate([np.cos(angles), np.sin(angles)])


def block(w: Weights, name: str, x: Array, level: Array) -> Array:
    h = w.conv(f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x, 1e-5)))
    h = h + w.linear(f"{name}.noise", level)[:, None, None]
    h = w.conv(f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", h, 1e-5)))
    return h + (w.conv(f"{name}.shortcut", x) if w.has(f"{name}.shortcut") else x)


def attention(w: Weights, name: str, x: Array) -> Array:
    width = x.shape[0]
    tokens = group_norm(w, f"{name}.norm", x, 1e-5).reshape(width, -1).T
    q, k, v = np.split(w.linear(f"{name}.qkv", tokens), 3, axis=1)
    size = min(64, width)
    out = np.empty_like(q)
    for first in range(0, width, size):
        cut = slice(first, first + size)
        scores = np.exp(q[:, cut] @ k[:, cut].T / math.sqrt(size))
        out[:, cut] = scores / scores.sum(axis=1, keepdims=True) @ v[:, cut]
    return x + w.linear(f"{name}.proj", out).T.reshape(x.shape)


def noise_in(w: Weights, noisy: Array, enlarged: Array, level: float) -> Array:
    told = features(level, w.array("noise_level.0.weight").shape[1])
    told = silu(w.linear("noise_level.2", silu(w.linear("noise_level.0", told))))
    x = w.conv("conv_in", np.concatenate([noisy, enlarged]))
    skips = [x]
    for i in w.children("down"):
        x = block(w, f"down.{i}", x, told) if w.has(f"down.{i}.conv1") else w.conv(f"down.{i}.conv", x, stride=2)
        skips.append(x)
    x = block(w, "middle.2", attention(w, "middle.1", block(w, "middle.0", x, told)), told)
    for i in w.children("up"):
        if w.has(f"up.{i}.conv1"):
            x = block(w, f"up.{i}", np.concatenate([x, skips.pop()]), told)
        else:
            x = w.conv(f"up.{i}.conv", doubled(x))
    assert not skips
    return w.conv("conv_out", silu(group_norm(w, "norm_out", x, 1e-5)))


def decision(w: Weights, pictures: list[Array], level: float, told: int, memory: Array) -> tuple[float, Array]:
    """pictures : state, enlarged and, for decisions after the call, what would follow."""

    x = np.concatenate(pictures)
    for i in (0, 2):
        bias = w.array(f"look.{i}.bias")[:, None, None]
        x = silu(convolve(x, w.array(f"look.{i}.weight"), 4, (0, 0, 0, 0)) + bias)
    seen = x.mean(axis=(1, 2)) + w.linear("told", features(level, told))
    r, z, n = np.split(w.linear("incoming", seen), 3)
    rh, zh, nh = np.split(w.linear("remembered", memory), 3)
    z = expit(z + zh)
    memory = (1 - z) * np.tanh(n + expit(r + rh) * nh) + z * memory
    return float(w.linear("accept", memory)[0]), memory
