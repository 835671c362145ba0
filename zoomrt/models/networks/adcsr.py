"""AdcSR (CVPR 2025): OSEDiff compressed to one network without time, text, noise or VAE encoder.

Facts: github.com/Guaishou74851/AdcSR. LR tile -> pixel unshuffle -> pruned UNet -> half-width decoder -> SR tile.
Two files: net_params_200.pkl (UNet and the decoder's mid block) and halfDecoder.ckpt (the decoder's tail, --decoder).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.errors import CheckpointError
from zoomrt.files import shown
from zoomrt.models.checkpoint import Checkpoint, load_checkpoint, load_weights
from zoomrt.models.family import Family
from zoomrt.models.layout import Layout, Naming, children, sides
from zoomrt.models.networks.blocks.folding import FoldedUNet, remove_text, remove_time
from zoomrt.models.networks.blocks.stable_diffusion import diffusers_module, unet_config_of

HEAD_SIZE = 48  # 240 / 5 heads; the attention scale is 1/sqrt(48) in the authors' code
UNSHUFFLE = 2
_UNET, _MIDDLE, _COPIES = "body.1.", "body.2.", "body.1.body."
_TAIL = ("up_blocks.", "conv_norm_out.", "conv_out.")
_DECODER = Layout(
    model="AdcSR's decoder",
    namings=(Naming(("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.conv_norm_out.weight")),),
    published="Use weight/pretrained/halfDecoder.ckpt of huggingface.co/Guaishou74851/AdcSR.",
)


def groups_of(channels: int) -> int:
    """GroupNorm groups, which no file stores: the first of 32, 24, 16, 8 that divides the channels, else 1."""
    return next((groups for groups in (32, 24, 16, 8) if channels % groups == 0), 1)


class AdcsrNetwork(nn.Module):
    """(N, 3, h, w) in [-1, 1], h and w multiples of 16 -> (N, 3, 4h, 4w), not clamped.

    unet_config : diffusers' config of the UNet. decoder_widths : channels of the decoder's levels, outermost first.
    decoder_layers : residual blocks in each decoder level, less one.
    """

    def __init__(self, unet_config: Mapping[str, Any], decoder_widths: tuple[int, ...], decoder_layers: int) -> None:
        super().__init__()
        diffusers = diffusers_module()
        # 24 divides every width; where 32 does too, the published network has 32
        unet = diffusers.UNet2DConditionModel.from_config({**unet_config, "norm_num_groups": 24})
        remove_time(unet)
        remove_text(unet)
        for module in unet.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = groups_of(module.num_channels)
        self.unet = FoldedUNet(unet)
        from diffusers.models.autoencoders.vae import Decoder

        decoder: Any = Decoder(
            in_channels=4,
            out_channels=3,
            up_block_types=("UpDecoderBlock2D",) * len(decoder_widths),
            block_out_channels=decoder_widths,
            layers_per_block=decoder_layers,
        )
        decoder.conv_in = None  # the UNet speaks the mid block's width
        self.decoder = decoder

    def forward(self, lr: Tensor) -> Tensor:
        h = self.unet(F.pixel_unshuffle(lr, UNSHUFFLE))
        h = self.decoder.mid_block(h)
        for block in self.decoder.up_blocks:
            h = block(h)
        out: Tensor = self.decoder.conv_out(F.silu(self.decoder.conv_norm_out(h)))
        return out


def network(family: Family, checkpoint: Checkpoint, *, decoder: Path) -> AdcsrNetwork:
    """See `Family.module`. decoder : file with the decoder's tail."""
    tensors = family.layout.tensors(checkpoint)
    tail = _tail_of(load_checkpoint(decoder))
    unet = {
        key.removeprefix(_UNET): tensor
        for key, tensor in tensors.items()
        if key.startswith(_UNET) and not key.startswith(_COPIES)
    }
    middle = {
        "mid_block." + key.removeprefix(_MIDDLE): tensor for key, tensor in tensors.items() if key.startswith(_MIDDLE)
    }
    with torch.device("meta"):
        made = _empty_network(unet, tail, checkpoint.path, decoder)
    load_weights(made.unet, unet, checkpoint.path)
    load_weights(made.decoder, {**middle, **tail}, decoder)
    return made.eval()


def _tail_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What follows the mid block, by diffusers' decoder names; the mid block itself comes from the other file.

    A training run's file, so there is more in it: an encoder, losses.
    """
    state = checkpoint.find(*_DECODER.namings[0].keys)
    if state is None:
        raise _DECODER.misfit(checkpoint)
    tensors = checkpoint.tensors(state.under("decoder."))
    return {key: tensor for key, tensor in tensors.items() if key.startswith(_TAIL)}


def _empty_network(unet: Mapping[str, Tensor], tail: Mapping[str, Tensor], path: Path, decoder: Path) -> AdcsrNetwork:
    """The network of these shapes. Raises CheckpointError if they describe none."""
    try:
        config = unet_config_of(unet, HEAD_SIZE)
        levels = children(tail, "up_blocks.")
        widths = tuple(sides(tail, f"up_blocks.{i}.resnets.0.conv2.weight", 4)[0] for i in reversed(range(levels)))
        layers = children(tail, "up_blocks.0.resnets.") - 1
        if odd := [width for width in config["block_out_channels"] if width % HEAD_SIZE]:
            raise ValueError(f"widths {odd}, not multiples of {HEAD_SIZE}")
        return AdcsrNetwork(config, widths, layers)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as cause:
        raise CheckpointError(
            f"weights {shown(path)} and {shown(decoder)} do not describe an adcsr network",
            seen=f"{type(cause).__name__}: {cause}",
            needed="UNet widths that are multiples of 48 and a decoder in diffusers layout",
            remedy="Check that both files are complete and of the same release.",
        ) from cause
