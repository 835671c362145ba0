"""A UNet freed of what is constant in one step: the timestep becomes biases, the prompt becomes keys and values.

Done on the modules of diffusers themselves, before export, so that no exporter or compiler has to find it out.
Afterwards the UNet is a plain function of the latent; `FoldedUNet` walks it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConstantCrossAttention(nn.Module):
    """diffusers' `attn2` with a fixed prompt: (N, tokens, C) -> (N, tokens, C); `key`, `value` (1, heads, 77, size)."""

    def __init__(self, attention: Any, prompt: Tensor) -> None:
        super().__init__()
        self.heads = int(attention.heads)
        self.to_q, self.to_out = attention.to_q, attention.to_out[0]
        self.key: Tensor
        self.value: Tensor
        self.register_buffer("key", self._split(attention.to_k(prompt)).contiguous())
        self.register_buffer("value", self._split(attention.to_v(prompt)).contiguous())

    def _split(self, tokens: Tensor) -> Tensor:
        n, count, width = tokens.shape
        return tokens.reshape(n, count, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, tokens: Tensor, **_ignored: object) -> Tensor:
        n = tokens.shape[0]
        key, value = (constant.expand(n, -1, -1, -1) for constant in (self.key, self.value))
        mixed = F.scaled_dot_product_attention(self._split(self.to_q(tokens)), key, value)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


@torch.no_grad()
def fold_time(unet: Any, timestep: int) -> None:
    """Add each residual block's projection of the time embedding to its first convolution's bias, and drop the rest."""
    embedding = F.silu(unet.time_embedding(unet.time_proj(torch.tensor([timestep]))))
    for block in _residual_blocks(unet):
        block.conv1.bias = nn.Parameter(block.conv1.bias + block.time_emb_proj(embedding)[0])
    remove_time(unet)


@torch.no_grad()
def fold_text(unet: Any, prompt: Tensor) -> None:
    """Replace each cross-attention by one with constant keys and values. prompt : (1, 77, C) float32."""
    for block in _transformer_blocks(unet):
        block.attn2 = ConstantCrossAttention(block.attn2, prompt)


def remove_time(unet: Any) -> None:
    """Take the time embedding and every projection of it out of the UNet."""
    unet.time_embedding = None
    for block in _residual_blocks(unet):
        block.time_emb_proj = None


def remove_text(unet: Any) -> None:
    """Take every cross-attention and its norm out of the UNet."""
    for block in _transformer_blocks(unet):
        block.attn2 = block.norm2 = None


def _residual_blocks(unet: Any) -> list[Any]:
    return [module for module in unet.modules() if hasattr(module, "time_emb_proj")]


def _transformer_blocks(unet: Any) -> list[Any]:
    return [module for module in unet.modules() if hasattr(module, "attn2")]


class FoldedUNet(nn.Module):
    """(N, in, h, w) -> (N, out, h, w) through the blocks of a UNet whose time and text are gone.

    h and w are multiples of 2 ** (levels - 1).
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.conv_in, self.down_blocks, self.mid_block = unet.conv_in, unet.down_blocks, unet.mid_block
        self.up_blocks = unet.up_blocks
        self.conv_norm_out, self.conv_out = unet.conv_norm_out, unet.conv_out

    def forward(self, latent: Tensor) -> Tensor:
        h = self.conv_in(latent)
        skips = (h,)
        for block in self.down_blocks:
            h, states = block(h)
            skips += states
        h = self.mid_block(h)
        for block in self.up_blocks:
            count = len(block.resnets)
            h = block(h, skips[-count:])
            skips = skips[:-count]
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out
