"""Stable Diffusion 2.1-base as a family needs it: weights and shapes from files, networks from diffusers.

A base is a folder in diffusers layout (its own config.json files rule, so scaled-down bases work) or one checkpoint
file in the original layout (shapes read off the weights). Nothing is fetched, and nothing in a file is run.
Single-file names are translated by diffusers' own table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoomrt.errors import CheckpointError, MissingDependency
from zoomrt.files import exists, is_file, is_folder, read_bytes, shown
from zoomrt.models.base_model import component_weights
from zoomrt.models.checkpoint import load_checkpoint, load_tensors, load_weights
from zoomrt.models.state_dicts import StateDict

MOST_CONFIG_BYTES = 1 << 20
MOST_LAYERS = 100
_COUNTS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers")
"""In a config: of what so many are made before any of them is compared with the weights."""
_HEAD_SIZE = 64  # of every UNet attention of Stable Diffusion 2 (its unet/config.json: width over attention_head_dim)
_SINGLE_FILE_UNET, _SINGLE_FILE_VAE = "model.diffusion_model.", "first_stage_model."
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names in VAE files from before diffusers 0.17 -> names since."""


@dataclass
class Component:
    """One network before it is built: `tensors` may be changed (adapters merged); `config` is diffusers' own."""

    origin: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def read_base(path: Path) -> tuple[Component, Component]:
    """UNet and VAE of a base model. Raises CheckpointError."""
    if not exists(path, CheckpointError):
        raise _no_base(path, "nothing there")
    if is_folder(path, CheckpointError):
        missing = [name for name in ("unet", "vae") if not is_folder(path / name, CheckpointError)]
        if missing:
            raise _no_base(path, "no folder " + " and no folder ".join(f"{name}/" for name in missing))
        _check_prediction_type(path)
        return _from_folder(path / "unet"), _modern(_from_folder(path / "vae"))
    return _from_single_file(path)


def unet_from(part: Component) -> nn.Module:
    """diffusers' UNet2DConditionModel, FP32, eval. Raises CheckpointError for weights that do not fit the config."""
    return _built("UNet2DConditionModel", part)


def vae_from(part: Component) -> nn.Module:
    """diffusers' AutoencoderKL, FP32, eval. Raises CheckpointError for weights that do not fit the config."""
    return _built("AutoencoderKL", _modern(part))


def diffusers_module() -> Any:
    """The diffusers package; MissingDependency with the install line if it is not there."""
    try:
        import diffusers
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "this model is built from parts of diffusers",
            seen=f"no module {cause.name}",
            needed="diffusers",
            remedy="Run: pip install 'zoomrt[diffusion]'",
        ) from cause
    return diffusers


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a component's folder. Raises CheckpointError."""
    config = _read_json(folder.parent, f"{folder.name}/config.json")
    for name in _COUNTS:
        counts = config.get(name, 1)
        if any(isinstance(count, int) and count > MOST_LAYERS for count in _flat(counts)):
            raise _no_base(folder.parent, f"{folder.name}/config.json with {name} = {str(counts)[:40]}")
    return config


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list) else [value]


def _read_json(base: Path, name: str) -> dict[str, Any]:
    if not is_file(base / name, CheckpointError):
        raise _no_base(base, f"no {name}")
    try:
        read = json.loads(read_bytes(base / name, CheckpointError, limit=MOST_CONFIG_BYTES))
    except (RecursionError, ValueError) as cause:
        raise _no_base(base, f"{name}: {cause}") from cause
    if not isinstance(read, dict):
        raise _no_base(base, f"{name} that holds no object")
    return read


def unet_config_of(tensors: Mapping[str, Tensor], head_size: int = _HEAD_SIZE) -> dict[str, Any]:
    """Read a UNet's config off its weights (diffusers names). KeyError if they are no UNet's."""
    levels = _count(tensors, "down_blocks.")
    widths = [int(tensors[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0]) for i in range(levels)]
    attends = [f"down_blocks.{i}.attentions.0.proj_in.weight" in tensors for i in range(levels)]
    text = next((int(t.shape[1]) for key, t in tensors.items() if key.endswith("attn2.to_k.weight")), widths[0])
    return {
        "in_channels": int(tensors["conv_in.weight"].shape[1]),
        "out_channels": int(tensors["conv_out.weight"].shape[0]),
        "block_out_channels": widths,
        "layers_per_block": _count(tensors, "down_blocks.0.resnets."),
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)],
        "cross_attention_dim": text,
        "attention_head_dim": [max(1, width // head_size) for width in widths],  # diffusers' name for head counts
        "use_linear_projection": tensors["mid_block.attentions.0.proj_in.weight"].ndim == 2,
    }


def vae_config_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read a VAE's config off its weights (diffusers names). KeyError if they are no VAE's."""
    levels = _count(tensors, "encoder.down_blocks.")
    widths = [int(tensors[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0]) for i in range(levels)]
    return {
        "block_out_channels": widths,
        "layers_per_block": _count(tensors, "encoder.down_blocks.0.resnets."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": int(tensors["post_quant_conv.weight"].shape[0]),
        "scaling_factor": 0.18215,
    }


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered children stand under a prefix."""
    return len({key[len(prefix) :].split(".")[0] for key in tensors if key.startswith(prefix)})


def _built(kind: str, part: Component) -> nn.Module:
    """Made on the meta device, so the only copy of the weights is the one that was read."""
    try:
        with torch.device("meta"):
            network: nn.Module = getattr(diffusers_module(), kind).from_config(dict(part.config))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as cause:
        raise CheckpointError(
            f"cannot build a {kind} for weights {shown(part.origin)}",
            seen=f"a config that diffusers refuses: {cause}",
            needed="the config of Stable Diffusion 2.1-base, or of a model with its layout",
            remedy="Check that the base is complete and in diffusers layout.",
        ) from cause
    load_weights(network, part.tensors, part.origin)
    return network.eval()


def _modern(vae: Component) -> Component:
    """Old VAE attention names become the ones diffusers uses now; 1x1 convs among them become matrices."""
    tensors = {}
    for key, tensor in vae.tensors.items():
        for old, new in _OLD_ATTENTION.items():
            if ".attentions." in key:
                key = key.replace(old, new)
        attention = ".attentions." in key and ".to_" in key and tensor.ndim == 4
        tensors[key] = tensor.flatten(1) if attention else tensor
    return Component(vae.origin, tensors, vae.config)


def _from_folder(folder: Path) -> Component:
    config = read_config(folder)
    weights = component_weights(folder)
    if weights is None:
        raise _no_base(folder.parent, f"no weights in {folder.name}/")
    return Component(weights, load_tensors(weights), config)


def _check_prediction_type(path: Path) -> None:
    """Stable Diffusion 2.1 without "-base" predicts velocity: the same shapes, and noise as a result."""
    name = "scheduler/scheduler_config.json"
    if not is_file(path / name, CheckpointError):
        return
    kind = _read_json(path, name).get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise _no_base(path, f"a model that predicts {kind!r}")


def _from_single_file(path: Path) -> tuple[Component, Component]:
    checkpoint = load_checkpoint(path)
    state = checkpoint.find(f"{_SINGLE_FILE_UNET}input_blocks.0.0.weight", f"{_SINGLE_FILE_VAE}encoder.conv_in.weight")
    if state is None:
        raise _no_base(path, checkpoint.described)
    unet = checkpoint.tensors(_averaged(state))
    vae = checkpoint.tensors(state.only(_SINGLE_FILE_VAE))
    diffusers_module()
    from diffusers.loaders import single_file_utils as translate

    try:
        # input_blocks: conv_in, then the blocks of level 0, then its down-sampler
        down_samplers = [int(key.split(".")[3]) for key in unet if key.endswith(".0.op.weight")]
        unet = translate.convert_ldm_unet_checkpoint(unet, {"layers_per_block": min(down_samplers) - 1})
        levels = {"down_block_types": [""] * _count(vae, f"{_SINGLE_FILE_VAE}encoder.down.")}
        levels["up_block_types"] = levels["down_block_types"]
        vae = translate.convert_ldm_vae_checkpoint(vae, levels)
        parts = Component(path, unet, unet_config_of(unet)), Component(path, vae, vae_config_of(vae))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as cause:
        raise _no_base(path, f"an incomplete file ({type(cause).__name__}: {cause})") from cause
    return parts[0], _modern(parts[1])


def _averaged(state: StateDict) -> StateDict:
    """The UNet of a single file; of a training run's, its running average, which has the full stops taken out of its
    keys."""
    unet = state.only(_SINGLE_FILE_UNET)
    names = {key: "model_ema." + key.removeprefix("model.").replace(".", "") for key in unet.values}
    if all(name in state.values for name in names.values()):
        return replace(unet, values={key: state.values[name] for key, name in names.items()})
    return unet


def _no_base(path: Path, seen: str) -> CheckpointError:
    return CheckpointError(
        f"cannot use {shown(path)} as base model",
        seen=seen,
        needed="Stable Diffusion 2.1-base (predicts noise): a diffusers folder with unet/ and vae/, or one checkpoint",
        remedy="Download stable-diffusion-2-1-base and pass it with --base.",
    )
