"""Keys and shapes of the baselines' files as published (the authors' repositories), written by hand, at any width.

Of EDSR and of Real-ESRGAN's dense network also under the other names that they go by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from published_files import Shapes, State


def edsr(width: int, blocks: int, scale: int) -> Shapes:
    """Keys and shapes as published (the authors' repositories), written by hand."""
    convolutions = {"head.0": (width, 3), f"body.{blocks}": (width, width), "tail.1": (3, width)}
    convolutions |= {f"body.{i}.body.{k}": (width, width) for i in range(blocks) for k in (0, 2)}
    convolutions |= {f"tail.0.{k}": (width * (9 if scale == 3 else 4), width) for k in ((0, 2) if scale == 4 else (0,))}
    shapes: Shapes = {}
    for name, (out, wide) in convolutions.items():
        shapes |= {f"{name}.weight": (out, wide, 3, 3), f"{name}.bias": (out,)}
    for name in ("sub_mean", "add_mean"):
        shapes |= {f"{name}.weight": (3, 3, 1, 1), f"{name}.bias": (3,)}
    return shapes


def dense(width: int, growth: int, blocks: int, channels: int = 3, doublings: int = 2) -> Shapes:
    """Keys and shapes as published (the authors' repositories), written by hand; those of ESRGAN that double other than
    twice too."""
    convolutions = {"conv_first": (width, channels), "conv_last": (3, width)}
    convolutions |= dict.fromkeys(("conv_body", "conv_hr"), (width, width))
    convolutions |= {f"conv_up{i + 1}": (width, width) for i in range(doublings)}
    for i in range(blocks):
        for j in (1, 2, 3):
            for k in range(1, 6):
                out = width if k == 5 else growth
                convolutions[f"body.{i}.rdb{j}.conv{k}"] = (out, width + (k - 1) * growth)
    shapes: Shapes = {}
    for name, (out, wide) in convolutions.items():
        shapes |= {f"{name}.weight": (out, wide, 3, 3), f"{name}.bias": (out,)}
    return shapes


def compact(width: int, middle: int, scale: int = 4) -> Shapes:
    """Keys and shapes as published (the authors' repositories), written by hand."""
    shapes: Shapes = {}
    for k in range(middle + 1):
        shapes[f"body.{2 * k}.weight"] = (width, width if k else 3, 3, 3)
        shapes[f"body.{2 * k}.bias"] = (width,)
        shapes[f"body.{2 * k + 1}.weight"] = (width,)
    last = 2 * (middle + 1)
    return {**shapes, f"body.{last}.weight": (3 * scale**2, width, 3, 3), f"body.{last}.bias": (3 * scale**2,)}


@dataclass(frozen=True)
class SwinKind:
    """One published kind, or the same scaled down."""

    width: int
    groups: int
    depth: int
    heads: int
    tail: str
    scale: int = 4
    long_end: bool = False
    features: int = 64
    wrapper: str = "params"


def swinir(kind: SwinKind) -> Shapes:
    """Keys and shapes as published (the authors' repositories), buffers included, written by hand."""
    shapes: Shapes = {}
    wide, features = kind.width, kind.features

    def convolution(name: str, out: int, width_in: int, side: int = 3) -> None:
        shapes.update({f"{name}.weight": (out, width_in, side, side), f"{name}.bias": (out,)})

    def linear(name: str, out: int, width_in: int) -> None:
        shapes.update({f"{name}.weight": (out, width_in), f"{name}.bias": (out,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (wide,), f"{name}.bias": (wide,)})

    def end(name: str) -> None:
        if kind.long_end:
            convolution(f"{name}.0", wide // 4, wide)
            convolution(f"{name}.2", wide // 4, wide // 4, 1)
            convolution(f"{name}.4", wide, wide // 4)
        else:
            convolution(name, wide, wide)

    convolution("conv_first", wide, 3)
    norm("patch_embed.norm")
    for i in range(kind.groups):
        for j in range(kind.depth):
            block = f"layers.{i}.residual_group.blocks.{j}"
            if j % 2:
                shapes[f"{block}.attn_mask"] = (64, 64, 64)
            norm(f"{block}.norm1")
            shapes[f"{block}.attn.relative_position_bias_table"] = (225, kind.heads)
            shapes[f"{block}.attn.relative_position_index"] = (64, 64)
            linear(f"{block}.attn.qkv", 3 * wide, wide)
            linear(f"{block}.attn.proj", wide, wide)
            norm(f"{block}.norm2")
            linear(f"{block}.mlp.fc1", 2 * wide, wide)
            linear(f"{block}.mlp.fc2", wide, 2 * wide)
        end(f"layers.{i}.conv")
    norm("norm")
    end("conv_after_body")
    if kind.tail == "pixelshuffledirect":
        convolution("upsample.0", 3 * kind.scale**2, wide)
        return shapes
    convolution("conv_before_upsample.0", features, wide)
    if kind.tail == "nearest+conv":
        for name in ("conv_up1", "conv_up2", "conv_hr"):
            convolution(name, features, features)
    else:
        for k, step in enumerate({2: [2], 3: [3], 4: [2, 2]}[kind.scale]):
            convolution(f"upsample.{2 * k}", step**2 * features, features)
    convolution("conv_last", 3, features)
    return shapes


def basicsr_edsr(state: State) -> State:
    """The same network under the names of BasicSR (`basicsr/archs/edsr_arch.py`): the mean is no layer there."""
    found = {}
    for key, tensor in state.items():
        if key.startswith(("sub_mean", "add_mean")):
            continue
        key = re.sub(r"^body\.(\d+)\.body\.0", r"body.\1.conv1", key)
        key = re.sub(r"^body\.(\d+)\.body\.2", r"body.\1.conv2", key)
        key = re.sub(r"^body\.\d+\.(weight|bias)$", r"conv_after_body.\1", key)
        key = key.replace("head.0", "conv_first").replace("tail.0", "upsample").replace("tail.1", "conv_last")
        found[key] = tensor
    return found


def bsrgan(state: State) -> State:
    """The dense network under the names of BSRGAN and of ESRGAN's second edition (`RRDBNet_arch.py`)."""
    found = {}
    for key, tensor in state.items():
        key = re.sub(r"^body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", key)
        key = key.replace("conv_body", "trunk_conv").replace("conv_up", "upconv").replace("conv_hr", "HRconv")
        found[key] = tensor
    return found


def old_esrgan(state: State) -> State:
    """The dense network under the names of ESRGAN's first edition, a list of layers in which activations and nearest
    enlargement count (`architecture.py` and `block.py` of its first commit)."""
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    layers = ["conv_first", "body"]
    for i in range(1, 1 + sum(key.startswith("conv_up") and key.endswith("weight") for key in state)):
        layers += ["enlarge", f"conv_up{i}", "activation"]
    layers += ["conv_hr", "activation", "conv_last"]
    found = {}
    for key, tensor in state.items():
        name, _, kind = key.rpartition(".")
        if block := re.fullmatch(r"body\.(\d+)\.rdb(\d)\.(conv\d)", name):
            found[f"model.1.sub.{block[1]}.RDB{block[2]}.{block[3]}.0.{kind}"] = tensor
        elif name == "conv_body":
            found[f"model.1.sub.{blocks}.{kind}"] = tensor
        else:
            found[f"model.{layers.index(name)}.{kind}"] = tensor
    return found
