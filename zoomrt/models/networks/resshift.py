"""ResShift (NeurIPS 2023): a diffusion from the LR picture to the sharp one in 15 or 4 steps, VQ latent.

Facts: github.com/zsyOAOA/ResShift. Each step sees the state and the LR tile itself and predicts the clean latent. Two
files: a UNet, whose keys are also SinSR's, and autoencoder_vq_f4.pth (--autoencoder). No file says for how many steps
it is.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from zoomrt.bundle import Evaluation, SamplingFacts
from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import Checkpoint
from zoomrt.models.family import Family
from zoomrt.models.networks.blocks.bicubic import TORCH, Enlarge
from zoomrt.models.networks.blocks.multi_step import Component, Level, MultiStepNetwork
from zoomrt.models.networks.blocks.resshift_files import autoencoder_from, unet_from
from zoomrt.models.networks.blocks.swin_unet import SwinUNet
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder

SCALE = 4
MIN_NOISE = {15: 0.04, 4: 0.2}
"""Steps -> the noise level that the schedule begins with: of v1 and v2, and of v3 and bicsr."""
KAPPA, SQRT_ETA_END, POWER = 2.0, 0.99, 0.3
SEED = 12345


class Encode(Component):
    """The enlarged tile's latent, not quantised."""

    inputs, outputs = ("image",), ("image_latents",)

    def __init__(self, autoencoder: VqAutoencoder) -> None:
        super().__init__()
        self.enlarge = Enlarge(SCALE, TORCH)
        self.encoder, self.quant_conv = autoencoder.encoder, autoencoder.quant_conv

    def forward(self, lr: Tensor) -> Tensor:
        out: Tensor = self.quant_conv(self.encoder(self.enlarge(lr)))
        return out


class Step(Component):
    """The clean latent, as the UNet guesses it."""

    inputs, outputs = ("sample", "timestep_embedding", "image"), ("model_output",)

    def __init__(self, unet: SwinUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, state: Tensor, temb: Tensor, lr: Tensor) -> Tensor:
        out: Tensor = self.unet(torch.cat([state, lr], dim=1), temb)
        return out


class Decode(Component):
    """Nearest codes, decoded."""

    inputs, outputs = ("sample",), ("upscaled_image",)

    def __init__(self, autoencoder: VqAutoencoder) -> None:
        super().__init__()
        self.quantize, self.post_quant_conv = autoencoder.quantize, autoencoder.post_quant_conv
        self.decoder = autoencoder.decoder

    def forward(self, state: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv(self.quantize(state)))
        return out


def network(family: Family, checkpoint: Checkpoint, *, autoencoder: Path, steps: int | None = None) -> MultiStepNetwork:
    """See `Family.module`. steps : as trained, which no file says."""
    if steps not in MIN_NOISE:
        raise UsageError(
            "cannot tell how many steps this file was trained for",
            seen="no --steps" if steps is None else f"--steps {steps}",
            needed="15 for s15_v1 and s15_v2, 4 for s4_v3 and bicsrx4_s4",
            remedy="Pass --steps 15 or --steps 4, as the name of the published file has it.",
        )
    unet = unet_from(checkpoint, family.layout)
    vq = autoencoder_from(autoencoder)
    sampling, levels = sampling_of(steps)
    return MultiStepNetwork(
        encode=Encode(vq),
        step=Step(unet),
        decode=Decode(vq),
        sampling=sampling,
        levels=levels,
        features=unet.config.widths[0],
        seed=SEED,
    ).eval()


def sampling_of(steps: int) -> tuple[SamplingFacts, tuple[Level, ...]]:
    """The chain of ResShift (arXiv 2307.12348, models/gaussian_diffusion.py) as coefficients, and each evaluation's
    noise."""
    least = MIN_NOISE[steps] / KAPPA
    root = [least * (SQRT_ETA_END / least) ** ((t / (steps - 1)) ** POWER) for t in range(steps)]
    eta = [value**2 for value in root]

    def evaluation(t: int) -> Evaluation:
        before = eta[t - 1] if t else 0.0
        kept = before / eta[t]
        spread = KAPPA * math.sqrt(before * (eta[t] - before) / eta[t])
        gain = 1 / math.sqrt(KAPPA**2 * eta[t] + 1)  # makes the deviation of what the UNet sees about 1
        return Evaluation(timestep=float(t), gain=gain, prev_sample=(kept, 0.0, 1 - kept, spread))

    sampling = SamplingFacts(
        channels=3,
        pixels=1,
        image_latents=1.0,
        noise=KAPPA * root[-1],
        evaluations=tuple(evaluation(t) for t in reversed(range(steps))),
    )
    return sampling, tuple(Level(signal=1.0, noise=KAPPA * value) for value in reversed(root))
