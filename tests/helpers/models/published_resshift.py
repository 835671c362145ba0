"""Files of exactly the layout of ResShift's and SinSR's, with random weights, at any scale (zsyOAOA/ResShift)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from published_files import Shapes, random_state


@dataclass(frozen=True)
class Scale:
    """Widths of both networks; TRUE is what is published."""

    widths: tuple[int, ...] = (160, 320, 320, 640)
    embed: int = 192
    heads: int = 6
    vae: tuple[int, ...] = (128, 256, 512)
    codes: int = 8192


TRUE, SMALL = Scale(), Scale((32, 32, 32, 64), 32, 2, (32, 32, 64), 700)
SHALLOW = Scale((32, 64), 32, 2, (32, 32, 32), 700)

CODE_SIZE = 0.15
"""Codes are as small as the latent. Of larger ones a picture takes six, and of such flat pictures the decoder's norms
make rounding large. Worst of ten seeds: FP32 was off by 5.6e-3 of the range, and is by 2.4e-4 like this; of forty: FP16
came to 48.7 dB (once, in CI, to 42.9), and comes to 55.9."""


class Shaper(Shapes):
    """Key -> shape, filled layer by layer."""

    def convolution(self, name: str, out: int, wide: int, side: int = 3) -> None:
        self.update({f"{name}.weight": (out, wide, side, side), f"{name}.bias": (out,)})

    def linear(self, name: str, out: int, wide: int) -> None:
        self.update({f"{name}.weight": (out, wide), f"{name}.bias": (out,)})

    def norm(self, name: str, wide: int) -> None:
        self.update({f"{name}.weight": (wide,), f"{name}.bias": (wide,)})


def unet_layout(scale: Scale) -> Shapes:
    """zsyOAOA/ResShift, written by hand; buffers included. Lines of its table are tested below."""
    s = Shaper()
    time = 4 * scale.widths[0]

    def res(name: str, wide: int, out: int) -> None:
        s.norm(f"{name}.in_layers.0", wide)
        s.convolution(f"{name}.in_layers.2", out, wide)
        s.linear(f"{name}.emb_layers.1", 2 * out, time)
        s.norm(f"{name}.out_layers.0", out)
        s.convolution(f"{name}.out_layers.3", out, out)
        if wide != out:
            s.convolution(f"{name}.skip_connection", out, wide, 1)

    def swin(name: str, wide: int, level: int) -> None:
        e, windows = scale.embed, (64 >> level) // 8
        s.convolution(f"{name}.patch_embed.proj", e, wide, 1)
        s.convolution(f"{name}.patch_unembed.proj", wide, e, 1)
        for i in (0, 1):
            block = f"{name}.blocks.{i}"
            s.norm(f"{block}.norm1", e)
            s.norm(f"{block}.norm2", e)
            s.linear(f"{block}.attn.qkv", 3 * e, e)
            s.linear(f"{block}.attn.proj", e, e)
            s[f"{block}.attn.relative_position_bias_table"] = (225, scale.heads)
            s[f"{block}.attn.relative_position_index"] = (64, 64)
            s.convolution(f"{block}.mlp.fc1", 4 * e, e, 1)
            s.convolution(f"{block}.mlp.fc2", e, 4 * e, 1)
            if i and windows > 1:
                s[f"{block}.attn_mask"] = (windows**2, 64, 64)

    a, last = scale.widths[0], len(scale.widths) - 1
    s.linear("time_embed.0", time, a)
    s.linear("time_embed.2", time, time)
    s.convolution("input_blocks.0.0", a, 6)
    before, skips, n = a, [a], 1
    for level, wide in enumerate(scale.widths):
        res(f"input_blocks.{n}.0", before, wide)
        swin(f"input_blocks.{n}.1", wide, level)
        res(f"input_blocks.{n + 1}.0", wide, wide)
        skips += [wide, wide]
        if level < last:
            s.convolution(f"input_blocks.{n + 2}.0.op", wide, wide)
            skips.append(wide)
        before, n = wide, n + 3
    res("middle_block.0", before, before)
    swin("middle_block.1", before, last)
    res("middle_block.2", before, before)
    for level, wide in reversed([*enumerate(scale.widths)]):
        n = 3 * (last - level)
        for j in range(3):
            res(f"output_blocks.{n + j}.0", before + skips.pop(), wide)
            before = wide
        swin(f"output_blocks.{n}.1", wide, level)
        if level:
            s.convolution(f"output_blocks.{n + 2}.1.conv", wide, wide)
    s.norm("out.0", a)
    s.convolution("out.2", 3, a)
    return s


def vae_layout(scale: Scale) -> Shapes:
    """zsyOAOA/ResShift, written by hand."""
    s = Shaper()
    a, b, c = scale.vae

    def res(name: str, wide: int, out: int) -> None:
        s.norm(f"{name}.norm1", wide)
        s.convolution(f"{name}.conv1", out, wide)
        s.norm(f"{name}.norm2", out)
        s.convolution(f"{name}.conv2", out, out)
        if wide != out:
            s.convolution(f"{name}.nin_shortcut", out, wide, 1)

    for part, first, last in (("encoder", (a, 3), (3, c)), ("decoder", (c, 3), (3, a))):
        s.convolution(f"{part}.conv_in", *first)
        res(f"{part}.mid.block_1", c, c)
        res(f"{part}.mid.block_2", c, c)
        s.norm(f"{part}.mid.attn_1.norm", c)
        for name in ("q", "k", "v", "proj_out"):
            s.convolution(f"{part}.mid.attn_1.{name}", c, c, 1)
        s.norm(f"{part}.norm_out", last[1])
        s.convolution(f"{part}.conv_out", *last)
    for i, (wide, out) in enumerate(((a, a), (a, b), (b, c))):
        res(f"encoder.down.{i}.block.0", wide, out)
        res(f"encoder.down.{i}.block.1", out, out)
        if i < 2:
            s.convolution(f"encoder.down.{i}.downsample.conv", out, out)
    for i, (wide, out) in enumerate(((b, a), (c, b), (c, c))):
        res(f"decoder.up.{i}.block.0", wide, out)
        res(f"decoder.up.{i}.block.1", out, out)
        res(f"decoder.up.{i}.block.2", out, out)
        if i:
            s.convolution(f"decoder.up.{i}.upsample.conv", out, out)
    s.convolution("quant_conv", 3, 3, 1)
    s.convolution("post_quant_conv", 3, 3, 1)
    s["quantize.embedding.weight"] = (scale.codes, 3)
    return s


class Files:
    """A UNet of either, wrapped and prefixed as a training run saves it, and autoencoder_vq_f4.pth."""

    def __init__(self, root: Path, scale: Scale) -> None:
        self.scale = scale
        self.unet, self.vae = random_state(unet_layout(scale)), random_state(vae_layout(scale))
        for key, tensor in self.unet.items():
            if key.endswith("bias_table"):
                self.unet[key] = torch.randn_like(tensor)
            elif key.endswith(("attn_mask", "position_index")):
                self.unet[key] = tensor * float("nan")  # poison: must be passed over
        self.vae["quantize.embedding.weight"] = CODE_SIZE * torch.randn(scale.codes, 3)
        self.weights, self.autoencoder = root / "unet.pth", root / "autoencoder_vq_f4.pth"
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in self.unet.items()}}, self.weights)
        torch.save(self.vae, self.autoencoder)
        self.options = {"autoencoder": self.autoencoder}
