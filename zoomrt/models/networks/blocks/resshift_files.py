"""The two files of ResShift and of SinSR: a UNet whose keys are the same in both, and the VQ autoencoder.

Nothing in a UNet's file tells the two apart, nor ResShift's 15 steps from its 4: the user
has to say which it is.
"""

from __future__ import annotations

from pathlib import Path

import torch

from zoomrt.models.checkpoint import Checkpoint, load_checkpoint, load_weights, loaded
from zoomrt.models.discrete_choices import chooses
from zoomrt.models.half import keep_fp32
from zoomrt.models.layout import Layout, Naming
from zoomrt.models.networks.blocks.swin_unet import SwinUNet, swin_unet_config_of
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder, vq_config_of

_AUTOENCODER = Layout(
    model="the VQ autoencoder",
    namings=(Naming(("encoder.down.0.block.0.conv2.weight", "quantize.embedding.weight")),),
    published="Use autoencoder_vq_f4.pth of github.com/zsyOAOA/ResShift/releases.",
)


def unet_from(checkpoint: Checkpoint, layout: Layout) -> SwinUNet:
    """The UNet in FP32. Raises CheckpointError."""
    tensors = layout.tensors(checkpoint)
    with layout.reading(checkpoint):
        config = swin_unet_config_of(tensors)
        return loaded(lambda: SwinUNet(config), tensors, checkpoint.path)


def autoencoder_from(path: Path) -> VqAutoencoder:
    """The autoencoder in FP32, its search for codes to stay so. Raises CheckpointError."""
    checkpoint = load_checkpoint(path)
    tensors = _AUTOENCODER.tensors(checkpoint)
    with _AUTOENCODER.reading(checkpoint), torch.device("meta"):
        autoencoder = VqAutoencoder(vq_config_of(tensors))
    load_weights(autoencoder, tensors, checkpoint.path)
    keep_fp32(autoencoder.quantize)  # which code is nearest hangs on small differences
    chooses(autoencoder.quantize)
    return autoencoder
