"""The two files of ResShift and of SinSR: a UNet whose keys are the same in both, and the VQ autoencoder.

Nothing in a UNet's file tells the two apart, nor ResShift's 15 steps from its 4 (resshift_sinsr.md section 0): the user
has to say which it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoomrt.export.checkpoint import Checkpoint, load_checkpoint, load_weights
from zoomrt.export.choices import chooses
from zoomrt.export.half import keep_fp32
from zoomrt.export.sources import Sources
from zoomrt.export.swin_unet import REBUILT, SwinUNet, swin_unet_config_of
from zoomrt.export.vq_autoencoder import VqAutoencoder, vq_config_of

__all__ = ["autoencoder_from", "has_unet", "unet_from"]

_KEYS = ("input_blocks.1.1.patch_embed.proj.weight", "middle_block.1.patch_embed.proj.weight")
_PREFIXES = ("module.", "_orig_mod.")  # of wrapped networks


def has_unet(checkpoint: Checkpoint) -> bool:
    """Whether the keys are those of the UNet that both families have."""
    return set(_KEYS) <= _unwrapped(checkpoint).keys()


def unet_from(checkpoint: Checkpoint, model: str, remedy: str) -> SwinUNet:
    """The UNet in FP32. remedy : where the model's file is published. Raises CheckpointError."""
    tensors = _unwrapped(checkpoint)
    with checkpoint.read_as(model, needed=f"keys like {', '.join(_KEYS)}", remedy=remedy):
        unet = SwinUNet(swin_unet_config_of(tensors))
    load_weights(unet, tensors, checkpoint.path)
    return unet


def autoencoder_from(sources: Sources, model: str) -> VqAutoencoder:
    """The autoencoder in FP32, its search for codes to stay so. Raises CheckpointError, or UsageError without a
    file."""
    checkpoint = load_checkpoint(sources.required("autoencoder", model, "autoencoder_vq_f4.pth"))
    tensors = _unwrapped(checkpoint)
    with (
        checkpoint.read_as(
            "the VQ autoencoder",
            needed="keys like encoder.down.0.block.0.conv2.weight, quantize.embedding.weight",
            remedy="Use autoencoder_vq_f4.pth of github.com/zsyOAOA/ResShift/releases.",
        ),
        torch.device("meta"),
    ):
        autoencoder = VqAutoencoder(vq_config_of(tensors))
    load_weights(autoencoder, tensors, checkpoint.path)
    keep_fp32(autoencoder.quantize)  # which code is nearest hangs on small differences
    chooses(autoencoder.quantize)
    return autoencoder


def _unwrapped(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    """The network's own keys, without the buffers that are rebuilt for the tile."""
    tensors = checkpoint.tensors("state_dict")
    for prefix in _PREFIXES:
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in tensors.items() if not key.endswith(REBUILT)}
