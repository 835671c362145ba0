"""The whole inference of OSEDiff, HYPIR and AdcSR, slow and plain, in float64 on numpy, straight from the fact sheets.

Shares no code with zoomrt or diffusers. Adapters are not merged here but run beside their module, as in training.
Pictures are (C, H, W); a `Weights` maps a module's name to what it does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]


@dataclass
class Weights:
    """State dict of one network; `adapters` maps a module to (A, B), which adds `scale` * B(A(x))."""

    state: Mapping[str, torch.Tensor]
    adapters: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    scale: float = 0.0

    def array(self, key: str) -> Array:
        return self.state[key].double().numpy()

    def bias(self, name: str) -> Array | float:
        return self.array(f"{name}.bias") if f"{name}.bias" in self.state else 0.0

    def linear(self, name: str, tokens: Array) -> Array:
        out = tokens @ self.array(f"{name}.weight").T + self.bias(name)
        if name in self.adapters:
            down, up = self.adapters[name]
            out = out + self.scale * (tokens @ down.T) @ up.T
        return out

    def conv(self, name: str, x: Array, stride: int = 1, pad: tuple[int, int, int, int] | None = None) -> Array:
        """pad : left, right, top, bottom; None for what keeps the size."""
        weight = self.array(f"{name}.weight")
        out = convolve(x, weight, stride, pad) + np.reshape(self.bias(name), (-1, 1, 1))
        if name in self.adapters:
            down, up = self.adapters[name]
            out = out + self.scale * convolve(convolve(x, down, stride, pad), up, 1, None)
        return out

    def children(self, prefix: str) -> list[int]:
        found = {m[1] for key in self.state if (m := re.match(re.escape(prefix) + r"\.(\d+)\.", key))}
        return sorted(map(int, found))

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.state


def adapters_from(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[Array, Array]]:
    pairs = {}
    for key, down in state.items():
        if ".lora_A." in key:
            module = key.split(".lora_A.")[0]
            pairs[module] = (down.double().numpy(), state[key.replace("lora_A", "lora_B")].double().numpy())
    return pairs


def convolve(x: Array, weight: Array, stride: int, pad: tuple[int, int, int, int] | None) -> Array:
    high, wide = weight.shape[2:]
    left, right, top, bottom = pad if pad is not None else (wide // 2, wide // 2, high // 2, high // 2)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    rows, columns = (x.shape[1] - high) // stride + 1, (x.shape[2] - wide) // stride + 1
    out = np.zeros((weight.shape[0], rows, columns))
    for dy in range(high):
        for dx in range(wide):
            window = x[:, dy : dy + (rows - 1) * stride + 1 : stride, dx : dx + (columns - 1) * stride + 1 : stride]
            out += np.tensordot(weight[:, :, dy, dx], window, axes=1)
    return out


def silu(x: Array) -> Array:
    return x * (1 + np.tanh(x / 2)) / 2  # x * sigmoid(x), without an overflow


def group_norm(w: Weights, name: str, x: Array, eps: float, groups: int = 32) -> Array:
    out = np.empty_like(x)
    size = x.shape[0] // groups
    for g in range(groups):
        block = x[g * size : (g + 1) * size]
        out[g * size : (g + 1) * size] = (block - block.mean()) / np.sqrt(block.var() + eps)
    shape = (-1, *(1,) * (x.ndim - 1))
    return out * w.array(f"{name}.weight").reshape(shape) + w.array(f"{name}.bias").reshape(shape)


def layer_norm(w: Weights, name: str, tokens: Array) -> Array:
    mean, variance = tokens.mean(axis=1, keepdims=True), tokens.var(axis=1, keepdims=True)
    return (tokens - mean) / np.sqrt(variance + 1e-5) * w.array(f"{name}.weight") + w.array(f"{name}.bias")


def attention(w: Weights, name: str, tokens: Array, context: Array, heads: int) -> Array:
    q, k, v = (w.linear(f"{name}.{part}", t) for part, t in (("to_q", tokens), ("to_k", context), ("to_v", context)))
    size = q.shape[1] // heads
    out = np.empty_like(q)
    for head in range(heads):
        columns = slice(head * size, (head + 1) * size)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(size)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, columns] = scores / scores.sum(axis=1, keepdims=True) @ v[:, columns]
    return w.linear(f"{name}.to_out.0", out)


def resnet(w: Weights, name: str, x: Array, eps: float, time: Array | None = None, groups=lambda channels: 32) -> Array:  # noqa: ARG005
    h = w.conv(f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x, eps, groups(x.shape[0]))))
    if time is not None:
        h = h + w.linear(f"{name}.time_emb_proj", silu(time))[:, None, None]
    h = w.conv(f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", h, eps, groups(h.shape[0]))))
    return h + (w.conv(f"{name}.conv_shortcut", x) if w.has(f"{name}.conv_shortcut") else x)


def transformer(w: Weights, name: str, x: Array, prompt: Array | None, heads: int, groups: int = 32) -> Array:
    channels, high, wide = x.shape
    tokens = group_norm(w, f"{name}.norm", x, 1e-6, groups).reshape(channels, -1).T
    tokens = w.linear(f"{name}.proj_in", tokens)
    block = f"{name}.transformer_blocks.0"
    normed = layer_norm(w, f"{block}.norm1", tokens)
    tokens = tokens + attention(w, f"{block}.attn1", normed, normed, heads)
    if prompt is not None:
        tokens = tokens + attention(w, f"{block}.attn2", layer_norm(w, f"{block}.norm2", tokens), prompt, heads)
    value, gate = np.split(w.linear(f"{block}.ff.net.0.proj", layer_norm(w, f"{block}.norm3", tokens)), 2, axis=1)
    tokens = tokens + w.linear(f"{block}.ff.net.2", value * gate * 0.5 * (1 + erf(gate / math.sqrt(2))))
    return x + w.linear(f"{name}.proj_out", tokens).T.reshape(channels, high, wide)


def doubled(x: Array) -> Array:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def time_embedding(w: Weights, timestep: int) -> Array:
    half = w.array("time_embedding.linear_1.weight").shape[1] // 2
    angles = np.array([timestep * math.exp(-math.log(10000) * i / half) for i in range(half)])
    features = np.concatenate([np.cos(angles), np.sin(angles)])
    return w.linear("time_embedding.linear_2", silu(w.linear("time_embedding.linear_1", features)))


def unet(w: Weights, z: Array, timestep: int | None, prompt: Array | None, heads_of, groups=lambda c: 32) -> Array:  # noqa: ARG005
    """heads_of : level -> number of heads. Without timestep and prompt it is AdcSR's."""
    time = None if timestep is None else time_embedding(w, timestep)

    def step(block: str, j: int, h: Array, level: int) -> Array:
        h = resnet(w, f"{block}.resnets.{j}", h, 1e-5, time, groups)
        if w.has(f"{block}.attentions.{j}.proj_in"):
            h = transformer(w, f"{block}.attentions.{j}", h, prompt, heads_of(level), groups(h.shape[0]))
        return h

    h = w.conv("conv_in", z)
    skips = [h]
    levels = w.children("down_blocks")
    for i in levels:
        for j in w.children(f"down_blocks.{i}.resnets"):
            h = step(f"down_blocks.{i}", j, h, i)
            skips.append(h)
        if w.has(f"down_blocks.{i}.downsamplers.0.conv"):
            h = w.conv(f"down_blocks.{i}.downsamplers.0.conv", h, stride=2)
            skips.append(h)
    h = step("mid_block", 0, h, levels[-1])
    h = resnet(w, "mid_block.resnets.1", h, 1e-5, time, groups)
    for i in levels:
        for j in w.children(f"up_blocks.{i}.resnets"):
            h = step(f"up_blocks.{i}", j, np.concatenate([h, skips.pop()]), levels[-1] - i)
        if w.has(f"up_blocks.{i}.upsamplers.0.conv"):
            high, wide = skips[-1].shape[1:]  # one less than twice where the size was odd
            h = w.conv(f"up_blocks.{i}.upsamplers.0.conv", doubled(h)[:, :high, :wide])
    assert not skips
    return w.conv("conv_out", silu(group_norm(w, "conv_norm_out", h, 1e-5, groups(h.shape[0]))))


def vae_middle(w: Weights, name: str, h: Array) -> Array:
    h = resnet(w, f"{name}.resnets.0", h, 1e-6)
    channels, high, wide = h.shape
    tokens = group_norm(w, f"{name}.attentions.0.group_norm", h, 1e-6).reshape(channels, -1).T
    h = h + attention(w, f"{name}.attentions.0", tokens, tokens, 1).T.reshape(channels, high, wide)
    return resnet(w, f"{name}.resnets.1", h, 1e-6)


def encode(w: Weights, picture: Array) -> Array:
    """Posterior mean, not yet scaled."""
    h = w.conv("encoder.conv_in", picture)
    for i in w.children("encoder.down_blocks"):
        for j in w.children(f"encoder.down_blocks.{i}.resnets"):
            h = resnet(w, f"encoder.down_blocks.{i}.resnets.{j}", h, 1e-6)
        if w.has(f"encoder.down_blocks.{i}.downsamplers.0.conv"):
            h = w.conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", h, stride=2, pad=(0, 1, 0, 1))
    h = vae_middle(w, "encoder.mid_block", h)
    h = w.conv("encoder.conv_out", silu(group_norm(w, "encoder.conv_norm_out", h, 1e-6)))
    return w.conv("quant_conv", h)[:4]


def decode(w: Weights, latent: Array) -> Array:
    h = vae_middle(w, "decoder.mid_block", w.conv("decoder.conv_in", w.conv("post_quant_conv", latent)))
    return decode_tail(w, "decoder.", h)


def decode_tail(w: Weights, prefix: str, h: Array) -> Array:
    for i in w.children(f"{prefix}up_blocks"):
        for j in w.children(f"{prefix}up_blocks.{i}.resnets"):
            h = resnet(w, f"{prefix}up_blocks.{i}.resnets.{j}", h, 1e-6)
        if w.has(f"{prefix}up_blocks.{i}.upsamplers.0.conv"):
            h = w.conv(f"{prefix}up_blocks.{i}.upsamplers.0.conv", doubled(h))
    return w.conv(f"{prefix}conv_out", silu(group_norm(w, f"{prefix}conv_norm_out", h, 1e-6)))


def abar(timestep: int) -> float:
    product, low, high = 1.0, math.sqrt(0.00085), math.sqrt(0.012)
    for t in range(timestep + 1):
        product *= 1 - (low + (high - low) * t / 999) ** 2
    return product


def bicubic_x4(picture: Array, a: float) -> Array:
    """Each output pixel from 4 x 4 input pixels; the edge is repeated beyond the border."""

    def weight(x: float) -> float:
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    def taps(position: int, extent: int) -> list[tuple[int, float]]:
        source = (position + 0.5) / 4 - 0.5
        first = math.floor(source) - 1
        return [(min(max(i, 0), extent - 1), weight(source - i)) for i in range(first, first + 4)]

    channels, high, wide = picture.shape
    out = np.zeros((channels, 4 * high, 4 * wide))
    for y in range(4 * high):
        for x in range(4 * wide):
            for j, wy in taps(y, high):
                for i, wx in taps(x, wide):
                    out[:, y, x] += wy * wx * picture[:, j, i]
    return out


def one_step(vae: Weights, noise: Weights, enlarged: Array, prompt: Array, heads_of, seen: int, used: int) -> Array:
    """OSEDiff and HYPIR alike: `seen` is the timestep the UNet is told, `used` that of the coefficients."""
    latent = encode(vae, enlarged) * 0.18215
    eps = unet(noise, latent, seen, prompt, heads_of)
    clean = (latent - math.sqrt(1 - abar(used)) * eps) / math.sqrt(abar(used))
    return decode(vae, clean / 0.18215)


def adcsr(w: Weights, middle: Weights, tail: Weights, lr: Array, heads_of) -> Array:
    def groups(channels: int) -> int:
        return next(g for g in (32, 24, 16) if channels % g == 0)

    channels, high, wide = lr.shape
    blocks = lr.reshape(channels, high // 2, 2, wide // 2, 2).transpose(0, 2, 4, 1, 3)
    h = unet(w, blocks.reshape(4 * channels, high // 2, wide // 2), None, None, heads_of, groups)
    return decode_tail(tail, "", vae_middle(middle, "mid_block", h))
