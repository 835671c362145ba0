"""SinSR's whole inference, slow and plain, in float64 on numpy, from zsyOAOA/ResShift. Pictures are (C, H, W)."""

from __future__ import annotations

import math

import numpy as np
from slow_baselines import gelu, window_attention
from slow_reference import Array, Weights, bicubic_x4, doubled, group_norm, silu


def told_resnet(w: Weights, name: str, x: Array, time: Array) -> Array:
    h = w.conv(f"{name}.in_layers.2", silu(group_norm(w, f"{name}.in_layers.0", x, 1e-5)))
    scale, shift = np.split(w.linear(f"{name}.emb_layers.1", silu(time))[:, None, None], 2)
    h = group_norm(w, f"{name}.out_layers.0", h, 1e-5) * (1 + scale) + shift
    h = w.conv(f"{name}.out_layers.3", silu(h))
    return h + (w.conv(f"{name}.skip_connection", x) if w.has(f"{name}.skip_connection") else x)


def window_unit(w: Weights, name: str, x: Array, heads: int, coarsest: bool) -> Array:
    h = w.conv(f"{name}.patch_embed.proj", x)
    last = h.shape[1] // 8 - 1

    def hidden(row, _column, _y, x, _v, u) -> bool:
        return row == last and (x < 4) != (u < 4)

    for i in (0, 1):
        block = f"{name}.blocks.{i}"
        tokens = group_norm(w, f"{block}.norm1", h, 1e-5).transpose(1, 2, 0)
        shift = 4 if i == 1 and not coarsest else 0
        h = h + window_attention(w, f"{block}.attn", tokens, heads, shift, hidden).transpose(2, 0, 1)
        inner = gelu(w.conv(f"{block}.mlp.fc1", group_norm(w, f"{block}.norm2", h, 1e-5)))
        h = h + w.conv(f"{block}.mlp.fc2", inner)
    return w.conv(f"{name}.patch_unembed.proj", h)


def unet(w: Weights, x: Array, heads: int, timestep: int = 14) -> Array:
    half = w.array("time_embed.0.weight").shape[1] // 2
    angles = np.array([timestep * math.exp(-math.log(10000) * i / half) for i in range(half)])
    time = np.concatenate([np.cos(angles), np.sin(angles)])
    time = w.linear("time_embed.2", silu(w.linear("time_embed.0", time)))
    finest = x.shape[1]

    def parts(block: str, h: Array) -> Array:
        for j in w.children(block):
            name = f"{block}.{j}"
            if w.has(f"{name}.in_layers.0"):
                h = told_resnet(w, name, h, time)
            elif w.has(f"{name}.patch_embed.proj"):
                h = window_unit(w, name, h, heads, coarsest=h.shape[1] * 8 == finest)
            elif w.has(f"{name}.op"):
                h = w.conv(f"{name}.op", h, stride=2, pad=(1, 1, 1, 1))
            elif w.has(f"{name}.conv"):
                h = w.conv(f"{name}.conv", doubled(h))
            else:
                h = w.conv(name, h)
        return h

    h, skips = x, []
    for i in w.children("input_blocks"):
        h = parts(f"input_blocks.{i}", h)
        skips.append(h)
    h = parts("middle_block", h)
    for i in w.children("output_blocks"):
        h = parts(f"output_blocks.{i}", np.concatenate([h, skips.pop()]))
    assert not skips
    return w.conv("out.2", silu(group_norm(w, "out.0", h, 1e-5)))


def resnet(w: Weights, name: str, x: Array) -> Array:
    h = w.conv(f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x, 1e-6)))
    h = w.conv(f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", h, 1e-6)))
    return h + (w.conv(f"{name}.nin_shortcut", x) if w.has(f"{name}.nin_shortcut") else x)


def middle(w: Weights, name: str, x: Array) -> Array:
    x = resnet(w, f"{name}.block_1", x)
    normal = group_norm(w, f"{name}.attn_1.norm", x, 1e-6)
    q, k, v = (w.conv(f"{name}.attn_1.{part}", normal).reshape(x.shape[0], -1) for part in "qkv")
    scores = q.T @ k * x.shape[0] ** -0.5
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    mixed = v @ (scores / scores.sum(axis=1, keepdims=True)).T
    return resnet(w, f"{name}.block_2", x + w.conv(f"{name}.attn_1.proj_out", mixed.reshape(x.shape)))


def encode(w: Weights, picture: Array) -> Array:
    h = w.conv("encoder.conv_in", picture)
    for i in w.children("encoder.down"):
        for j in w.children(f"encoder.down.{i}.block"):
            h = resnet(w, f"encoder.down.{i}.block.{j}", h)
        if w.has(f"encoder.down.{i}.downsample.conv"):
            h = w.conv(f"encoder.down.{i}.downsample.conv", h, stride=2, pad=(0, 1, 0, 1))
    h = middle(w, "encoder.mid", h)
    return w.conv("quant_conv", w.conv("encoder.conv_out", silu(group_norm(w, "encoder.norm_out", h, 1e-6))))


def nearest_codes(codes: Array, latent: Array) -> Array:
    """One pixel after another."""
    out = np.empty_like(latent)
    for y in range(latent.shape[1]):
        for x in range(latent.shape[2]):
            out[:, y, x] = codes[((codes - latent[:, y, x]) ** 2).sum(axis=1).argmin()]
    return out


def decode(w: Weights, quantised: Array) -> Array:
    h = w.conv("post_quant_conv", quantised)
    h = middle(w, "decoder.mid", w.conv("decoder.conv_in", h))
    for i in reversed(w.children("decoder.up")):
        for j in w.children(f"decoder.up.{i}.block"):
            h = resnet(w, f"decoder.up.{i}.block.{j}", h)
        if w.has(f"decoder.up.{i}.upsample.conv"):
            h = w.conv(f"decoder.up.{i}.upsample.conv", doubled(h))
    return w.conv("decoder.conv_out", silu(group_norm(w, "decoder.norm_out", h, 1e-6)))


def latent_of(w: Weights, vae: Weights, lr: Array, noise: Array, heads: int) -> Array:
    """x0 before quantisation, with the sheet's rounded constants for t = 14."""
    start = encode(vae, bicubic_x4(lr, -0.75)) + 1.98 * noise
    return unet(w, np.concatenate([0.45081649 * start, lr]), heads)
