"""Writes files of exactly the published layouts, with random weights, at any scale.

Layouts from the fact sheets: an SD2.1-base folder, the same as one original checkpoint, OSEDiff's pickle in its three
kinds, HYPIR's 514-key file, AdcSR's two files with their duplicated keys. Shapes come from networks on the meta
device, so that counts at true size cost no memory. Key names of the original checkpoint are written here by hand.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Scale:
    """Widths of a family of files; TRUE is what is published."""

    unet_widths: tuple[int, ...]
    layers: int
    heads: tuple[int, ...]
    text_width: int
    vae_widths: tuple[int, ...]
    osediff_rank: int
    hypir_rank: int
    adcsr_widths: tuple[int, ...]
    half_decoder_widths: tuple[int, ...]


TRUE = Scale(
    unet_widths=(320, 640, 1280, 1280),
    layers=2,
    heads=(5, 10, 20, 20),
    text_width=1024,
    vae_widths=(128, 256, 512, 512),
    osediff_rank=4,
    hypir_rank=256,
    adcsr_widths=(240, 480, 960, 960),
    half_decoder_widths=(64, 128, 256, 256),
)
SMALL = Scale((64, 128), 1, (1, 2), 48, (32, 32, 64), 2, 3, (48, 96), (32, 32, 64, 64))


def unet_config(scale: Scale) -> dict[str, object]:
    """unet/config.json of Stable Diffusion 2.1-base, as published."""
    levels = len(scale.unet_widths)
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": "0.10.0.dev0",
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": list(scale.unet_widths),
        "layers_per_block": scale.layers,
        "down_block_types": ["CrossAttnDownBlock2D"] * (levels - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (levels - 1),
        "cross_attention_dim": scale.text_width,
        "attention_head_dim": list(scale.heads),
        "use_linear_projection": True,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-05,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "dual_cross_attention": False,
        "only_cross_attention": False,
        "center_input_sample": False,
    }


def vae_config(scale: Scale) -> dict[str, object]:
    """vae/config.json; as published it names no scaling_factor, which then is 0.18215."""
    levels = len(scale.vae_widths)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": list(scale.vae_widths),
        "layers_per_block": scale.layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "sample_size": 768,
    }


def unet_shapes(scale: Scale) -> Shapes:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return shapes_of(UNet2DConditionModel.from_config(unet_config(scale)))


def vae_shapes(scale: Scale) -> Shapes:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        return shapes_of(AutoencoderKL.from_config(vae_config(scale)))


def shapes_of(network: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def parameters_of(shapes: Shapes) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def random_state(shapes: Shapes, gain: float = 1.0) -> State:
    """Fresh random weights that keep signals of the order of one; vectors are random too, so that no mistake hides."""
    state = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape)
        if len(shape) > 1:
            state[key] = noise * gain / torch.Size(shape[1:]).numel() ** 0.5
        else:
            state[key] = noise * 0.1 + (1.0 if "norm" in key and key.endswith("weight") else 0.0)
    return state


# --- base model -------------------------------------------------------------------------------------------------


def write_base(folder: Path, scale: Scale, *, unet: State, vae: State, binary: bool = False) -> Path:
    """A diffusers folder; `binary` writes .bin pickles instead of safetensors."""
    for name, config, state in (("unet", unet_config(scale), unet), ("vae", vae_config(scale), vae)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config))
        if binary:
            torch.save(state, folder / name / "diffusion_pytorch_model.bin")
        else:
            save_file(state, folder / name / "diffusion_pytorch_model.safetensors")
    write_scheduler(folder, "epsilon")
    return folder


def write_scheduler(folder: Path, prediction: str) -> None:
    (folder / "scheduler").mkdir(exist_ok=True)
    config = {"_class_name": "PNDMScheduler", "prediction_type": prediction, "beta_schedule": "scaled_linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))


def write_text_encoder(folder: Path, width: int) -> Path:
    """A small CLIP text encoder and a tokenizer of single letters, in SD2's layout; pad token "!" is id 0."""
    from transformers import CLIPTextConfig, CLIPTextModel

    words = ["!", *"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"), "!</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    bos, eos = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=0,
    )
    model = CLIPTextModel(config)
    model.load_state_dict(random_state(shapes_of(model)))
    (folder / "text_encoder").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "text_encoder" / "config.json").write_text(json.dumps({**config.to_dict(), "_class_name": "x"}))
    published = {}  # as published: under text_model., with position numbers
    for key, tensor in model.state_dict().items():
        published[key if key.startswith("text_model.") else f"text_model.{key}"] = tensor.clone()
    published["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(published, folder / "text_encoder" / "model.safetensors")
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": words[bos], "eos_token": words[eos], "pad_token": "!", "unk_token": words[eos]}
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {**special, "model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def with_old_attention_names(vae: State) -> State:
    """A VAE file from before diffusers 0.17."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {
        re.sub(r"(attentions\.0\.)(to_q|to_k|to_v|to_out\.0)", lambda m: m[1] + old[m[2]], key): tensor
        for key, tensor in vae.items()
    }


def single_file(scale: Scale, unet: State, vae: State) -> State:
    """The base as one checkpoint in the original layout, with the parts that zoomrt must pass over."""
    state = {f"model.diffusion_model.{original_unet_name(key, scale)}": tensor for key, tensor in unet.items()}
    for key, tensor in vae.items():
        conv = "attentions.0.to_" in key and tensor.ndim == 2
        state[f"first_stage_model.{original_vae_name(key, scale)}"] = tensor[:, :, None, None] if conv else tensor
    assert len(state) == len(unet) + len(vae)
    return {**state, "alphas_cumprod": torch.rand(1000), "cond_stage_model.model.ln_final.weight": torch.rand(8)}


def original_unet_name(key: str, scale: Scale) -> str:
    step, last = scale.layers + 1, len(scale.unet_widths) - 1
    fixed = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    module, _, kind = key.rpartition(".")
    if module in fixed:
        return f"{fixed[module]}.{kind}"
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    part, i, group, j, rest = re.fullmatch(r"(\w+?)_blocks?\.?(\d*)\.(\w+)\.(\d+)\.(.+)", key).groups()  # type: ignore[union-attr]
    level, index = int(i or 0), int(j)
    if group == "resnets":
        name, _, kind = rest.rpartition(".")
        rest = f"{inner[name]}.{kind}"
    if part == "mid":
        return f"middle_block.{2 * index if group == 'resnets' else 1}.{rest}"
    if part == "down":
        if group == "downsamplers":
            return f"input_blocks.{(level + 1) * step}.0.op.{rest.rpartition('.')[2]}"
        return f"input_blocks.{1 + level * step + index}.{0 if group == 'resnets' else 1}.{rest}"
    if group == "upsamplers":
        return f"output_blocks.{level * step + scale.layers}.{1 if level == 0 else 2}.{rest}"
    assert level <= last
    return f"output_blocks.{level * step + index}.{0 if group == 'resnets' else 1}.{rest}"


def original_vae_name(key: str, scale: Scale) -> str:
    levels = len(scale.vae_widths)
    key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", key)
    key = re.sub(r"down_blocks\.(\d+)", r"down.\1", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("resnets", "block")
    key = key.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        key = key.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    return key


# --- adapters ---------------------------------------------------------------------------------------------------

UNET_TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_out",
    "conv_shortcut",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
)
_VAE_PATTERNS = ("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0")


def unet_modules(unet: Shapes) -> list[str]:
    """OSEDiff's targets in the UNet; HYPIR's are the same less conv_in."""
    modules = [key.removesuffix(".weight") for key in unet if key.endswith(".weight")]
    return [module for module in modules if any(f".{module}".endswith(f".{target}") for target in UNET_TARGETS)]


def vae_modules(vae: Shapes) -> list[str]:
    """OSEDiff's list for the VAE as its training code makes it, with repeats: one entry for each pattern that fits."""
    found = []
    for key in vae:
        if "bias" in key or "norm" in key:
            continue
        for pattern in _VAE_PATTERNS:
            in_encoder = pattern in key and "encoder" in key
            if in_encoder or ("quant_conv" in key and "post_quant_conv" not in key):
                found.append(key.removesuffix(".weight"))
    return found


def adapter_shapes(base: Shapes, modules: list[str], rank: int, adapter: str | dict[str, str]) -> Shapes:
    shapes: Shapes = {}
    for module in modules:
        out, *rest = base[f"{module}.weight"]
        name = adapter if isinstance(adapter, str) else next(a for part, a in adapter.items() if part in module)
        shapes[f"{module}.lora_A.{name}.weight"] = (rank, *rest)
        shapes[f"{module}.lora_B.{name}.weight"] = (out, rank, *(1 for _ in rest[1:]))
    return shapes


@dataclass(frozen=True)
class OsediffLayout:
    """Keys, shapes and lists of osediff.pkl."""

    rank: int
    encoder: list[str]
    decoder: list[str]
    others: list[str]
    vae: list[str]
    unet_shapes: Shapes
    vae_shapes: Shapes

    def content(self) -> dict[str, object]:
        """The dict that is pickled, with random tensors; adapters are large enough to be seen."""
        return {
            "rank_unet": self.rank,
            "rank_vae": self.rank,
            "unet_lora_encoder_modules": self.encoder,
            "unet_lora_decoder_modules": self.decoder,
            "unet_lora_others_modules": self.others,
            "vae_lora_encoder_modules": self.vae,
            "state_dict_unet": random_state(self.unet_shapes, 0.4),
            "state_dict_vae": random_state(self.vae_shapes, 0.4),
        }


def osediff_layout(scale: Scale) -> OsediffLayout:
    unet, vae = unet_shapes(scale), vae_shapes(scale)
    modules = unet_modules(unet)
    encoder = [m for m in modules if m.startswith("down_blocks") or m == "conv_in"]
    decoder = [m for m in modules if m.startswith("up_blocks") or m == "conv_out"]
    others = [m for m in modules if m.startswith("mid_block")]
    names = {"down_blocks": "default_encoder", "conv_in": "default_encoder", "mid_block": "default_others"}
    names |= {"up_blocks": "default_decoder", "conv_out": "default_decoder"}
    tensors = adapter_shapes(unet, modules, scale.osediff_rank, names)
    tensors |= {f"conv_in.base_layer.{kind}": unet[f"conv_in.{kind}"] for kind in ("weight", "bias")}
    repeated = vae_modules(vae)
    vae_adapters = adapter_shapes(vae, list(dict.fromkeys(repeated)), scale.osediff_rank, "default_encoder")
    return OsediffLayout(scale.osediff_rank, encoder, decoder, others, repeated, tensors, vae_adapters)


def hypir_shapes(scale: Scale) -> Shapes:
    unet = unet_shapes(scale)
    modules = [module for module in unet_modules(unet) if module != "conv_in"]
    return adapter_shapes(unet, modules, scale.hypir_rank, "default")


# --- AdcSR ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdcsrLayout:
    """Shapes of AdcSR's parts by diffusers names: the pruned UNet, and the half decoder whole."""

    unet: Shapes
    decoder: Shapes

    def net_params(self) -> State:
        """net_params_200.pkl: the UNet twice, the decoder's mid block once."""
        unet, order = random_state(self.unet), self._copies()
        middle = random_state({k: s for k, s in self.decoder.items() if k.startswith("mid_block.")})
        state = {f"module.body.1.{key}": tensor for key, tensor in unet.items()}
        state |= {f"module.body.1.body.{order[key]}": unet[key] for key in unet if key in order}
        return state | {f"module.body.2.{key.removeprefix('mid_block.')}": tensor for key, tensor in middle.items()}

    def half_decoder(self) -> dict[str, object]:
        """halfDecoder.ckpt: a training checkpoint; mid block and conv_in in it must not be used."""
        state = {f"decoder.{key}": tensor for key, tensor in random_state(self.decoder).items()}
        return {"epoch": 3, "global_step": 7, "state_dict": {**state, "encoder.conv_in.weight": torch.rand(2, 3, 3, 3)}}

    def _copies(self) -> dict[str, str]:
        levels = len({key.split(".")[1] for key in self.unet if key.startswith("down_blocks.")})
        names = {}
        for key in self.unet:
            head, _, rest = key.partition(".")
            if head in ("down_blocks", "up_blocks"):
                index, _, rest = rest.partition(".")
                names[key] = f"{int(index) + (0 if head == 'down_blocks' else levels + 1)}.{rest}"
            elif head != "conv_in":
                offset = {"mid_block": levels, "conv_norm_out": 2 * levels + 1, "conv_out": 2 * levels + 3}[head]
                names[key] = f"{offset}.{rest}"
        return names


def adcsr_layout(scale: Scale) -> AdcsrLayout:
    from diffusers import UNet2DConditionModel
    from diffusers.models.autoencoders.vae import Decoder

    config = {**unet_config(scale), "block_out_channels": list(scale.adcsr_widths), "norm_num_groups": 8}
    config |= {"in_channels": 12, "out_channels": scale.half_decoder_widths[-1]}
    config["down_block_types"] = ["CrossAttnDownBlock2D"] * (len(scale.adcsr_widths) - 1) + ["DownBlock2D"]
    config["up_block_types"] = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (len(scale.adcsr_widths) - 1)
    config["attention_head_dim"] = [width // 48 for width in scale.adcsr_widths]
    with torch.device("meta"):
        unet = shapes_of(UNet2DConditionModel.from_config(config))
        widths = scale.half_decoder_widths
        kinds = ("UpDecoderBlock2D",) * len(widths)
        decoder = shapes_of(Decoder(4, 3, kinds, widths, layers_per_block=scale.layers))
    gone = ("time_emb", ".attn2.", ".norm2.")
    kept = {k: s for k, s in unet.items() if not any(g in k for g in gone) or (".norm2." in k and "resnets" in k)}
    return AdcsrLayout({k: s for k, s in kept.items() if "time_emb" not in k}, decoder)
