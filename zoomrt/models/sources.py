"""What a build may need besides one checkpoint: a base model, a second file, a prompt, a strength.

One frozen record for all families. Each family lists the fields it takes; a field's name with dashes is its option
on the command line. Needs no torch: a cached build hashes its sources and loads nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

from zoomrt.errors import CheckpointError, UsageError
from zoomrt.files import entries, exists, is_file, is_folder, sha256_of, shown

__all__ = ["NO_SOURCES", "Sources", "component_weights"]

TEXT_FILES = ("text_encoder", "tokenizer")
_NETWORKS = ("unet", "vae", "text_encoder")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = (".safetensors", ".bin", ".fp16.safetensors", ".fp16.bin")


@dataclass(frozen=True)
class Sources:
    """What the user gave besides the checkpoint; None where nothing was given.

    base : Stable Diffusion 2.1-base, a folder in diffusers layout or one checkpoint file.
    decoder : the file that holds the decoder, where a family publishes it apart.
    prompt : text for the base's text encoder; None means the empty prompt.
    prompt_embedding : file with the text encoder's output instead, (77, C) or (1, 77, C).
    coeff_t : the timestep whose coefficients turn the predicted noise into a picture; lower changes less.
    autoencoder : the file that holds encoder and decoder, where a family publishes them apart.
    wdn_weights : a second checkpoint that keeps noise, to mix with one that removes it.
    denoise_strength : share of the checkpoint that removes noise in that mixture, 0 to 1.
    steps : how many steps a multi-step model takes.
    sampler : euler or heun. conditioning : token or concat, how the network is shown the LR picture.
    guidance : how far the conditional answer is driven away from the unconditional one; 1 is not at all.
    residual_scale : what a network's residuals were multiplied with in training, where no file says it.
    """

    base: Path | None = None
    decoder: Path | None = None
    prompt: str | None = None
    prompt_embedding: Path | None = None
    coeff_t: int | None = None
    autoencoder: Path | None = None
    wdn_weights: Path | None = None
    denoise_strength: float | None = None
    steps: int | None = None
    sampler: str | None = None
    conditioning: str | None = None
    guidance: float | None = None
    residual_scale: float | None = None

    def given(self) -> dict[str, Path | str | float]:
        """The fields that are set."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def check(self, model: str, takes: Collection[str]) -> None:
        """UsageError if something was given that the family does not take, or two prompts at once; CheckpointError for
        a path where nothing is."""
        for name in self.given():
            if name not in takes:
                known = ", ".join(map(_option, takes)) or "no options of its own"
                raise UsageError(
                    f"model {model} does not take {_option(name)}",
                    seen=_option(name),
                    needed=known,
                    remedy="Leave it out, or name the model that takes it with --model.",
                )
        if self.prompt is not None and self.prompt_embedding is not None:
            raise UsageError(
                "there are two prompts",
                seen="--prompt and --prompt-embedding",
                needed="at most one of them",
                remedy="Leave one of them out.",
            )

        for name, path in self.given().items():
            if isinstance(path, Path) and not exists(path, CheckpointError):
                raise CheckpointError(
                    f"cannot find what {_option(name)} names",
                    seen=f"nothing at {shown(path)}",
                    needed="a file" + (" or a folder" if name == "base" else ""),
                    remedy=f"Check the path; docs/models/{model}.md says where it is published.",
                )

    def required(self, name: str, model: str, holds: str) -> Path:
        """The path in field `name`; UsageError that says what it `holds` if it was not given."""
        value: Path | None = getattr(self, name)
        if value is None:
            raise UsageError(
                f"model {model} needs {_option(name)}",
                seen="nothing",
                needed=holds,
                remedy=f"Pass {_option(name)} PATH; docs/models/{model}.md says where it is published.",
            )
        return value

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Each given field by content: text and numbers as they are, files and folders by SHA-256 (read once)."""
        return {name: self._content(name, value) for name, value in self.given().items()}

    def _content(self, name: str, value: Path | str | float) -> str:
        if not isinstance(value, Path):
            return repr(value)
        if not is_folder(value, CheckpointError):
            return sha256_of(value, CheckpointError) if is_file(value, CheckpointError) else f"missing {value}"
        files = _files_of_base(value, text=self.prompt_embedding is None) if name == "base" else []
        return " ".join(f"{file.relative_to(value).as_posix()}:{sha256_of(file, CheckpointError)}" for file in files)


NO_SOURCES = Sources()


def component_weights(folder: Path) -> Path | None:
    """The weights file of one network of a diffusers folder, FP32 before FP16; None if there is none."""
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            if is_file(file := folder / f"{stem}{suffix}", CheckpointError):
                return file
    return None


def _files_of_base(base: Path, *, text: bool) -> list[Path]:
    """Every file that a build reads from a diffusers folder."""
    folders = [base / name for name in ("unet", "vae", "scheduler", *(TEXT_FILES if text else ()))]
    there = [file for folder in folders if is_folder(folder) for file in entries(folder, CheckpointError)]
    plain = [file for file in there if file.suffix in (".json", ".txt") and is_file(file)]
    weights = [component_weights(folder) for folder in folders if folder.name in _NETWORKS]
    return sorted([*plain, *(file for file in weights if file is not None)])


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
