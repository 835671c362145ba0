"""The whole inference of a one-step latent diffusion model as one module: LR tile in, SR tile out.

Enlarge -> encoder's posterior mean -> UNet at a fixed timestep and prompt -> closed form of the step -> decoder.
The scheduler's algebra stays FP32 when the network is cast to FP16: OSEDiff multiplies an error in eps by 14.6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoomrt.models.networks.blocks.folding import FoldedUNet, fold_text, fold_time
from zoomrt.models.networks.blocks.schedule import OneStep


class OneStepLatentSR(nn.Module):
    """(N, 3, h, w) nominally in [-1, 1] -> (N, 3, 4h, 4w), not clamped.

    unet, vae : of diffusers, FP32; they are taken apart and belong to this module afterwards.
    timestep : what the UNet is told. step : the coefficients that turn its answer into the clean latent.
    prompt : (1, 77, C) float32.
    clamp : whether the enlarged picture is clipped to [-1, 1], as where the reference enlarges 8-bit pictures.
    """

    def __init__(
        self, enlarge: nn.Module, unet: Any, vae: Any, *, timestep: int, step: OneStep, prompt: Tensor, clamp: bool
    ) -> None:
        super().__init__()
        fold_time(unet, timestep)
        fold_text(unet, prompt)
        self.enlarge, self.clamp, self.step = enlarge, clamp, step
        self.scaling = float(vae.config.scaling_factor)
        self.encoder, self.to_mean = vae.encoder, _mean_half(vae.quant_conv)
        self.unet = FoldedUNet(unet)
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, lr: Tensor) -> Tensor:
        picture = self.enlarge(lr)
        if self.clamp:
            picture = picture.clamp(-1, 1)
        latent = self.to_mean(self.encoder(picture)).float() * self.scaling
        noise = self.unet(latent.to(lr.dtype)).float()
        clean = (latent * self.step.latent - noise * self.step.noise) / self.scaling
        out: Tensor = self.decoder(self.post_quant_conv(clean.to(lr.dtype)))
        return out


@torch.no_grad()
def _mean_half(quant_conv: nn.Conv2d) -> nn.Conv2d:
    """The half of `quant_conv` that gives the posterior's mean; the log-variance is never needed."""
    half = quant_conv.out_channels // 2
    conv = nn.Conv2d(quant_conv.in_channels, half, 1, device="meta")
    assert quant_conv.bias is not None
    conv.weight = nn.Parameter(quant_conv.weight[:half].clone())
    conv.bias = nn.Parameter(quant_conv.bias[:half].clone())
    return conv
