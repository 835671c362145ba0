"""JiT-SR's network, slow and plain, in float64 on numpy, from flyingbucket/JiTSR.

Pictures are (C, H, W), tokens (T, D).
"""

from __future__ import annotations

import math

import numpy as np
from slow_reference import Array, Weights, bicubic_x4, silu


def rms_norm(w: Weights, name: str, x: Array) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * w.array(f"{name}.weight")


def patches(w: Weights, name: str, picture: Array) -> Array:
    """One patch after another, row by row."""
    first, second = w.array(f"{name}.proj1.weight"), w.array(f"{name}.proj2.weight")[:, :, 0, 0]
    side = first.shape[2]
    rows, columns = picture.shape[1] // side, picture.shape[2] // side
    out = []
    for r in range(rows):
        for c in range(columns):
            cut = picture[:, r * side : (r + 1) * side, c * side : (c + 1) * side]
            out.append(second @ (first * cut).sum(axis=(1, 2, 3)) + w.array(f"{name}.proj2.bias"))
    return np.stack(out)


def rotated(vector: Array, row: int, column: int) -> Array:
    """One token's query or key in one head: pairs (a, b) become (a cos - b sin, b cos + a sin)."""
    half = len(vector) // 2
    out = vector.copy()
    for position, first in ((row, 0), (column, half)):
        for j in range(half // 2):
            angle = position * 10000 ** (-2 * j / half)
            a, b = vector[first + 2 * j], vector[first + 2 * j + 1]
            out[first + 2 * j] = a * math.cos(angle) - b * math.sin(angle)
            out[first + 2 * j + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attention(w: Weights, name: str, x: Array, heads: int, lr_tokens: int) -> Array:
    q, k, v = np.split(w.linear(f"{name}.qkv", x), 3, axis=1)
    size, grid = q.shape[1] // heads, math.isqrt(len(x) - lr_tokens)
    out = np.empty_like(q)
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        query, key = rms_norm(w, f"{name}.q_norm", q[:, cut]), rms_norm(w, f"{name}.k_norm", k[:, cut])
        for i in range(lr_tokens, len(x)):
            place = divmod(i - lr_tokens, grid)
            query[i], key[i] = rotated(query[i], *place), rotated(key[i], *place)
        scores = query @ key.T / math.sqrt(size)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, cut] = scores / scores.sum(axis=1, keepdims=True) @ v[:, cut]
    return w.linear(f"{name}.proj", out)


def denoise(w: Weights, z: Array, t: float, lr: Array, mode: str) -> Array:
    """x_hat, (3, H, W)."""
    head = len(w.array("blocks.0.attn.q_norm.weight"))
    angles = np.array([t * math.exp(-math.log(10000) * i / 128) for i in range(128)])
    time = np.concatenate([np.cos(angles), np.sin(angles)])
    time = w.linear("t_embedder.mlp.2", silu(w.linear("t_embedder.mlp.0", time)))
    tokens = patches(w, "lr_embedder", lr) + w.array("lr_posemb")[0]
    c = silu(time + tokens.mean(axis=0))
    if mode == "token":
        x = patches(w, "x_embedder", z)
    else:
        x = patches(w, "x_embedder_concat", np.concatenate([z, bicubic_x4(lr, -0.75)]))
    x = x + w.array("pos_embed")[0]
    own, joined = len(x), 0
    for i in w.children("blocks"):
        name = f"blocks.{i}"
        if mode == "token" and i == 4:
            x, joined = np.concatenate([tokens, x]), len(tokens)
        sa, ca, ga, sm, cm, gm = np.split(w.linear(f"{name}.adaLN_modulation.1", c), 6)
        normed = rms_norm(w, f"{name}.norm1", x) * (1 + ca) + sa
        x = x + ga * attention(w, f"{name}.attn", normed, x.shape[1] // head, joined)
        first, second = np.split(
            w.linear(f"{name}.mlp.w12", rms_norm(w, f"{name}.norm2", x) * (1 + cm) + sm), 2, axis=1
        )
        x = x + gm * w.linear(f"{name}.mlp.w3", silu(first) * second)
    shift, scale = np.split(w.linear("final_layer.adaLN_modulation.1", c), 2)
    x = w.linear("final_layer.linear", rms_norm(w, "final_layer.norm_final", x[-own:]) * (1 + scale) + shift)
    grid, side = math.isqrt(own), math.isqrt(x.shape[1] // 3)
    out = np.empty((3, grid * side, grid * side))
    for i, patch in enumerate(x):
        r, column = divmod(i, grid)
        cut = patch.reshape(side, side, 3).transpose(2, 0, 1)
        out[:, r * side : (r + 1) * side, column * side : (column + 1) * side] = cut
    return out
