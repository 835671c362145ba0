"""The split form of a one-step latent model: encoder, UNet and decoder as three ONNX graphs of free height and width.

For parity with the tiling of OSEDiff's and HYPIR's authors (osediff.md section 4.1): the runtime encodes the whole
picture, runs the UNet over latent tiles and blends its answer, does the step in FP32 and decodes the whole picture.
Sizes: the enlarged picture is padded at right and bottom with mid-grey to whole latents (hypir.md section 4), and the
runtime crops. ONNX Runtime on the CPU, FP32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.bundle import SplitFacts, TileFacts
from zoomrt.errors import ExportError, UsageError
from zoomrt.export.family import TilingAdvice
from zoomrt.export.graph import export_graph
from zoomrt.export.one_step import OneStepLatentSR
from zoomrt.export.parity import Parity, Reference, compare
from zoomrt.runtime.split_session import PARTS, SplitSession

__all__ = ["TILING", "check_split", "export_split", "with_parts"]

TILING = TilingAdvice(tile=192, overlap=64, context=0)
"""The authors' latent tile of 96 with overlap 32 (osediff.md section 4.1), 8 output pixels each, at x4."""
_EXAMPLE_SIDES = (12, 20)  # of the tensors that are traced; they leave no mark in the graphs


class _Encoder(nn.Module):
    """(1, 3, h, w) LR in [-1, 1] -> (1, 4, H, W): the posterior's mean, scaled."""

    def __init__(self, network: OneStepLatentSR) -> None:
        super().__init__()
        self.enlarge, self.clamp, self.scaling = network.enlarge, network.clamp, network.scaling
        self.encoder, self.to_mean = network.encoder, network.to_mean
        self.multiple = _pixels_per_latent(network)

    def forward(self, lr: Tensor) -> Tensor:
        picture = self.enlarge(lr)
        if self.clamp:
            picture = picture.clamp(-1, 1)
        picture = F.pad(picture, (0, -picture.shape[3] % self.multiple, 0, -picture.shape[2] % self.multiple))
        latent: Tensor = self.to_mean(self.encoder(picture)) * self.scaling
        return latent


class _UNet(nn.Module):
    """(1, 4, h, w) -> the same: `FoldedUNet` for any size. Up-samplers are told the size of the skips they meet."""

    def __init__(self, network: OneStepLatentSR) -> None:
        super().__init__()
        self.unet = network.unet

    def forward(self, latent: Tensor) -> Tensor:
        h = self.unet.conv_in(latent)
        skips = (h,)
        for block in self.unet.down_blocks:
            h, states = block(h)
            skips += states
        h = self.unet.mid_block(h)
        for block in self.unet.up_blocks:
            count = len(block.resnets)
            own, skips = skips[-count:], skips[:-count]
            h = block(h, own, upsample_size=skips[-1].shape[2:] if skips else None)
        noise: Tensor = self.unet.conv_out(F.silu(self.unet.conv_norm_out(h)))
        return noise


class _Decoder(nn.Module):
    """(1, 4, h, w), the clean latent, scaled -> (1, 3, H, W)."""

    def __init__(self, network: OneStepLatentSR) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder, self.scaling = network.post_quant_conv, network.decoder, network.scaling

    def forward(self, clean: Tensor) -> Tensor:
        picture: Tensor = self.decoder(self.post_quant_conv(clean / self.scaling))
        return picture


def with_parts(network: nn.Module) -> OneStepLatentSR:
    """The same network. UsageError if it cannot be split."""
    if isinstance(network, OneStepLatentSR):
        return network
    raise UsageError(
        "this model has no split form",
        seen="a network in one piece",
        needed="one with encoder, UNet and decoder: osediff or hypir",
        remedy="Leave --form out.",
    )


def export_split(network: OneStepLatentSR, folder: Path, opset: int) -> tuple[dict[str, str], SplitFacts]:
    """Write the three graphs into `folder`. Returns part -> file name, and how to join them. Raises ExportError."""
    modules = (_Encoder(network), _UNet(network), _Decoder(network))
    graphs = {part: f"fp32-{part}.onnx" for part in PARTS}
    for part, channels, module in zip(PARTS, (3, 4, 4), modules, strict=True):
        shape = (1, channels, *_EXAMPLE_SIDES)
        export_graph(
            module, folder / graphs[part], shape=shape, half=False, opset=opset, group_norm="instance", free=True
        )
    step = network.step
    pixels = _pixels_per_latent(network)
    return graphs, SplitFacts(pixels_per_latent=pixels, latent_gain=step.latent, noise_gain=step.noise)


def check_split(folder: Path, graphs: dict[str, str], tile: TileFacts, split: SplitFacts, wanted: Reference) -> Parity:
    """Run the graphs as the runtime does, and compare. Raises ExportError when they differ from the network.

    wanted : of a picture no larger than the tile.
    """
    session = SplitSession(folder, graphs, tile, split)
    got: NDArray[np.float32] = session.run(wanted.lr, lambda _done, _parts: None)[None]
    low, high = wanted.value_range
    result = compare(wanted.sr, got, wanted.probe, "onnxruntime", high - low, wanted.needed_psnr_db)
    if result.psnr_db < result.needed_psnr_db:
        raise ExportError(
            "the three graphs together do not match torch FP32",
            seen=f"PSNR {result.psnr_db:.1f} dB, worst difference {result.max_abs:.3g}",
            needed=f"{result.needed_psnr_db:.0f} dB",
            remedy="Report this model: its graphs do not do what torch does.",
        )
    return result


def _pixels_per_latent(network: OneStepLatentSR) -> int:
    """2 for each level of the encoder but the last."""
    levels: list[nn.Module] = list(network.encoder.down_blocks)
    return 1 << (len(levels) - 1)
