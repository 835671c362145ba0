"""SinSR (CVPR 2024): ResShift's diffusion distilled to one step, in the latent space of a VQ autoencoder.

Facts: github.com/wyf0912/SinSR. LR tile -> bicubic x4 -> encoder -> plus start noise -> one UNet call, which also sees
the LR tile itself -> nearest codes -> decoder. Two files: SinSR_v1.pth or _v2.pth and autoencoder_vq_f4.pth
(--autoencoder).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.family import Family
from zoomrt.models.networks.blocks.bicubic import TORCH, Enlarge
from zoomrt.models.networks.blocks.resshift_files import autoencoder_from, unet_from
from zoomrt.models.networks.blocks.swin_unet import SwinUNet
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder

SCALE = 4
TIMESTEP = 14  # 0-based, of ResShift's 15
KAPPA, SQRT_ETA = 2.0, 0.99  # strength of the noise, and how much of it there is at that timestep
NOISE_GAIN = KAPPA * SQRT_ETA
INPUT_GAIN = 1 / math.sqrt(NOISE_GAIN**2 + 1)  # makes the deviation of what the UNet sees about 1


class SinsrNetwork(nn.Module):
    """(N, 6, h, w), h and w multiples of 64 -> (N, 3, 4h, 4w) nominally in [-1, 1], not clamped.

    The input's first three channels are the picture in [-1, 1], the others standard normal noise.
    unet : with its time folded.
    """

    def __init__(self, unet: SwinUNet, autoencoder: VqAutoencoder) -> None:
        super().__init__()
        self.unet, self.autoencoder = unet, autoencoder
        self.enlarge = Enlarge(SCALE, TORCH)

    def forward(self, lr_and_noise: Tensor) -> Tensor:
        lr, noise = lr_and_noise[:, :3], lr_and_noise[:, 3:]
        latent = self.autoencoder.encode(self.enlarge(lr)) + NOISE_GAIN * noise
        clean = self.unet(torch.cat([INPUT_GAIN * latent, lr], dim=1))
        return self.autoencoder.decode(clean)


def network(family: Family, checkpoint: Checkpoint, *, autoencoder: Path) -> SinsrNetwork:
    """See `Family.module`."""
    unet = unet_from(checkpoint, family.layout)
    vq = autoencoder_from(autoencoder)
    unet.fold_time(TIMESTEP)
    return SinsrNetwork(unet, vq).eval()
