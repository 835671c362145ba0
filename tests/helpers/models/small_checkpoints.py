"""One small file of every family, and of every name its networks go by: what tests of all families alike start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from published_baselines import SwinKind, basicsr_edsr, bsrgan, compact, dense, edsr, old_esrgan, swinir
from published_files import (
    SMALL,
    State,
    adcsr_layout,
    hypir_shapes,
    osediff_layout,
    random_state,
    unet_shapes,
    vae_shapes,
    write_base,
)
from published_jit import SMALL as SMALL_JIT
from published_jit import layout as jit_layout
from published_resshift import SHALLOW, unet_layout, vae_layout

from zoomrt.models.networks.blocks.sr3_unet import Sr3Config, Sr3UNet
from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork
from zoomrt.models.networks.skipdiff import Policy
from zoomrt.models.options import Values


@dataclass
class Example:
    """content : what is saved. tensor : names that lead to one of its tensors. options : besides the file, with a
    base that is written on demand."""

    content: dict[str, Any]
    tensor: tuple[str, ...]
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    extra: Callable[[Path], dict[str, Any]] = lambda _: {}

    def options_in(self, folder: Path) -> Values:
        return {**self.options, **self.extra(folder)}


def flat(family: str, state: State, **options: Any) -> Example:
    key = next(key for key in state if not key.endswith(("attn_mask", "position_index")))
    return Example(dict(state), (key,), family, options)


def _edsr() -> State:
    state = random_state(edsr(64, 1, 2))
    mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040])
    return {**state, "sub_mean.bias": -mean, "add_mean.bias": mean}


def _swinir() -> State:
    state = random_state(swinir(SwinKind(24, 1, 2, 2, "nearest+conv", features=8)))
    buffers = ("attn_mask", "position_index")
    return {k: t.to(torch.int64) if k.endswith(buffers) else t for k, t in state.items()}


def _resshift_unet() -> State:
    state = random_state(unet_layout(SHALLOW))
    buffers = ("attn_mask", "position_index")
    return {k: t.to(torch.int64) if k.endswith(buffers) else t for k, t in state.items()}


def _with_autoencoder(folder: Path) -> dict[str, Any]:
    torch.save(random_state(vae_layout(SHALLOW)), folder / "autoencoder.pth")
    return {"autoencoder": folder / "autoencoder.pth"}


def _with_base(folder: Path) -> dict[str, Any]:
    unet, vae = random_state(unet_shapes(SMALL)), random_state(vae_shapes(SMALL))
    torch.save(torch.randn(1, 77, SMALL.text_width), folder / "prompt.pt")
    return {
        "base": write_base(folder / "base", SMALL, unet=unet, vae=vae),
        "prompt_embedding": folder / "prompt.pt",
    }


def _with_decoder(folder: Path) -> dict[str, Any]:
    torch.save(adcsr_layout(SMALL).half_decoder(), folder / "halfDecoder.ckpt")
    return {"decoder": folder / "halfDecoder.ckpt"}


def _skipdiff() -> Example:
    config = Sr3Config((32, 32), 1)
    content = {
        "denoiser": dict(Sr3UNet(config).state_dict()),
        "policy": dict(Policy(5, 6, 32, after=False).state_dict()),
    }
    return Example(content, ("denoiser", "conv_in.weight"), "skipdiff", {"steps": 4})


def _diffusion() -> dict[str, Callable[[], Example]]:
    """Those whose networks are made of diffusers' parts."""
    return {
        "hypir": lambda: Example(
            dict(random_state(hypir_shapes(SMALL))),
            ("mid_block.resnets.0.conv1.lora_B.default.weight",),
            "hypir",
            extra=_with_base,
        ),
        "osediff": lambda: Example(
            osediff_layout(SMALL).content(),
            ("state_dict_unet", "conv_in.base_layer.weight"),
            "osediff",
            extra=_with_base,
        ),
        "adcsr": lambda: Example(
            dict(adcsr_layout(SMALL).net_params()), ("module.body.1.conv_in.weight",), "adcsr", extra=_with_decoder
        ),
    }


EXAMPLES: dict[str, Callable[[], Example]] = {
    "edge": lambda: flat("edge", dict(EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1))).state_dict())),
    "real-esrgan": lambda: flat("real-esrgan", random_state(dense(8, 4, 1))),
    "real-esrgan of BSRGAN": lambda: flat("real-esrgan", bsrgan(random_state(dense(8, 4, 1)))),
    "real-esrgan of ESRGAN": lambda: flat("real-esrgan", old_esrgan(random_state(dense(8, 4, 1)))),
    "real-esrgan-compact": lambda: flat("real-esrgan-compact", random_state(compact(8, 2))),
    "edsr": lambda: flat("edsr", _edsr()),
    "edsr of BasicSR": lambda: flat("edsr", basicsr_edsr(_edsr())),
    "swinir": lambda: flat("swinir", _swinir()),
    "jit-sr": lambda: flat("jit-sr", random_state(jit_layout(SMALL_JIT)), steps=2),
    "sinsr": lambda: Example(_resshift_unet(), ("time_embed.0.weight",), "sinsr", extra=_with_autoencoder),
    "resshift": lambda: Example(
        _resshift_unet(), ("time_embed.0.weight",), "resshift", {"steps": 4}, extra=_with_autoencoder
    ),
    "skipdiff": _skipdiff,
    **_diffusion(),
}
DIFFUSION = tuple(_diffusion())
