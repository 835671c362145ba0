"""Files of the published layouts with random weights, small or at true size: for what does not hang on real weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from zoomrt.models.networks.blocks.jit import Jit, JitConfig
from zoomrt.models.networks.blocks.sr3_unet import Sr3Config, Sr3UNet
from zoomrt.models.networks.blocks.swin_unet import SwinUNet, SwinUNetConfig
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder, VqConfig
from zoomrt.models.networks.skipdiff import Policy
from zoomrt.models.networks.swinir import SwinConfig, SwinNetwork

__all__ = ["jit_file", "latent_files", "randomise", "skipdiff_file", "swinir_file"]

MEMORY = 64  # of SkipDiff's policy, and its width; neither was published


@torch.no_grad()
def randomise(network: nn.Module) -> nn.Module:
    """Weights that keep signals of the order of one; norms and biases as torch begins with them."""
    for values in network.parameters():
        if values.dim() > 1:
            values.normal_(std=values[0].numel() ** -0.5)
    return network


def latent_files(folder: Path, *, true_size: bool) -> tuple[Path, Path]:
    """The UNet of ResShift and SinSR, and autoencoder_vq_f4.pth."""
    small = SwinUNetConfig((32, 64), embed=32, heads=2, mlp=128), VqConfig((32, 32, 32), codes=700)
    unet, autoencoder = (SwinUNetConfig(), VqConfig()) if true_size else small
    paths = folder / "unet.pth", folder / "autoencoder_vq_f4.pth"
    for path, network in zip(paths, (SwinUNet(unet), VqAutoencoder(autoencoder)), strict=True):
        torch.save(randomise(network).state_dict(), path)
    return paths


def jit_file(folder: Path, *, true_size: bool) -> Path:
    """JiT-SR B/16, or a network whose tiles are 16 pixels wide."""
    config = JitConfig() if true_size else JitConfig(width=64, depth=6, heads=4, grid=4, bottleneck=16, hidden=128)
    path = folder / "jit.pth"
    state = randomise(Jit(config)).state_dict()
    torch.save({"model_ema1": {f"net.{key}": tensor for key, tensor in state.items()}}, path)
    return path


def skipdiff_file(folder: Path, *, true_size: bool, accept: bool) -> Path:
    """accept : whether the policy accepts every evaluation or none."""
    config = Sr3Config() if true_size else Sr3Config((32, 64), 1)
    policy = Policy(MEMORY, MEMORY, config.widths[0], after=False)
    torch.nn.init.constant_(policy.accept.bias, 1e4 if accept else -1e4)
    path = folder / f"skipdiff-{'all' if accept else 'none'}.pth"
    torch.save({"denoiser": randomise(Sr3UNet(config)).state_dict(), "policy": policy.state_dict()}, path)
    return path


def swinir_file(folder: Path, *, true_size: bool) -> Path:
    """The real-world kind M, or one of two groups."""
    config = SwinConfig() if true_size else SwinConfig(width=60, depths=(6, 6), heads=6, mlp=120)
    path = folder / "swinir.pth"
    torch.save({"params": randomise(SwinNetwork(config)).state_dict()}, path)
    return path
