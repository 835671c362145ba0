"""Stable Diffusion 2.1-base as an option: a folder in diffusers layout or one checkpoint file, and what is read of it.

Needs no torch; `networks/blocks/stable_diffusion.py` makes networks of what is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zoomrt.errors import CheckpointError
from zoomrt.files import entries, is_file, is_folder
from zoomrt.models.options import File, Option, Values

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
