"""checkpoint-last.pth of a JiT-SR training run, with random weights, at any size (flyingbucket/JiTSR)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from published_files import Shapes, State, random_state

from zoomrt.models.networks.blocks.jit import JitConfig

SMALL = JitConfig(width=32, depth=6, heads=4, grid=4, bottleneck=8, hidden=20)


def layout(c: JitConfig) -> Shapes:
    """flyingbucket/JiTSR, written by hand."""
    d, tokens, head = c.width, c.grid**2, c.width // c.heads
    s: Shapes = {"pos_embed": (1, tokens, d), "lr_posemb": (1, tokens, d)}

    def linear(name: str, out: int, wide: int) -> None:
        s.update({f"{name}.weight": (out, wide), f"{name}.bias": (out,)})

    for name, channels, side in (
        ("x_embedder", 3, c.patch),
        ("x_embedder_concat", 6, c.patch),
        ("lr_embedder", 3, c.lr_patch),
    ):
        s[f"{name}.proj1.weight"] = (c.bottleneck, channels, side, side)
        s |= {f"{name}.proj2.weight": (d, c.bottleneck, 1, 1), f"{name}.proj2.bias": (d,)}
    linear("t_embedder.mlp.0", d, 256)
    linear("t_embedder.mlp.2", d, d)
    for i in range(c.depth):
        block = f"blocks.{i}"
        s |= {f"{block}.norm1.weight": (d,), f"{block}.norm2.weight": (d,)}
        s |= {f"{block}.attn.q_norm.weight": (head,), f"{block}.attn.k_norm.weight": (head,)}
        linear(f"{block}.attn.qkv", 3 * d, d)
        linear(f"{block}.attn.proj", d, d)
        linear(f"{block}.mlp.w12", 2 * c.hidden, d)
        linear(f"{block}.mlp.w3", d, c.hidden)
        linear(f"{block}.adaLN_modulation.1", 6 * d, d)
    s["final_layer.norm_final.weight"] = (d,)
    linear("final_layer.adaLN_modulation.1", 2 * d, d)
    linear("final_layer.linear", c.patch**2 * 3, d)
    return s


def write(path: Path, config: JitConfig) -> State:
    """checkpoint-last.pth of a training run; what must not be read is poison."""
    state = random_state(layout(config))
    state |= {key: torch.randn_like(state[key]) * 0.5 for key in ("pos_embed", "lr_posemb")}
    poison = {key: torch.full_like(tensor, float("nan")) for key, tensor in state.items()}

    def prefixed(tensors: State) -> State:
        return {f"net.{key}": tensor for key, tensor in tensors.items()}

    content = {"model": prefixed(poison), "model_ema1": prefixed(state), "model_ema2": prefixed(poison)}
    torch.save({**content, "optimizer": {}, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}, path)
    return state
