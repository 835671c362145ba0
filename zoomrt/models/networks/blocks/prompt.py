"""The prompt as the UNet sees it: read from a file, or computed once by the base model's own text encoder.

The embedding is the text encoder's last hidden state after its final norm, (1, 77, C) float32, for tokens padded to 77
(OSEDiff's and HYPIR's encode_prompt).
"""

from __future__ import annotations

import math
import tokenize
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoomrt.errors import CheckpointError, MissingDependency, UsageError
from zoomrt.files import is_file, is_folder, shown
from zoomrt.models.base_model import TEXT_FILES, component_weights
from zoomrt.models.checkpoint import load_tensors, loaded
from zoomrt.models.networks.blocks.stable_diffusion import read_config

TOKENS = 77


@dataclass(frozen=True)
class Prompt:
    """base : folder that holds a text encoder. text : None means the empty prompt. embedding : file with the text
    encoder's output instead, (77, C) or (1, 77, C)."""

    base: Path | None = None
    text: str | None = None
    embedding: Path | None = None


def encoded_prompt(prompt: Prompt, width: int, model: str) -> Tensor:
    """(1, 77, width) float32.

    Raises UsageError where there is nothing to make it from, CheckpointError for a file that does not fit.
    """
    if prompt.embedding is not None:
        return _checked(_from_file(prompt.embedding), width, prompt.embedding)
    base = check_prompt(prompt, model)
    assert base is not None
    return _checked(_encoded(base, prompt.text or ""), width, base / "text_encoder")


def check_prompt(prompt: Prompt, model: str) -> Path | None:
    """The base folder with a text encoder and its tokenizer; None where an embedding is given instead.

    UsageError that says what is missing, before gigabytes of a base are read.
    """
    if prompt.embedding is not None:
        return None
    base = prompt.base
    missing = [name for name in TEXT_FILES if base is None or not is_folder(base / name, CheckpointError)]
    if base is None or missing:
        what = f"no {' and no '.join(f'{name}/' for name in missing)} in --base {shown(base)}" if base else "no --base"
        raise UsageError(
            f"model {model} needs a prompt, and there is no text encoder to make one",
            seen=f"no --prompt-embedding, and {what}",
            needed="a file with the embedding, or a diffusers folder as --base that has text_encoder/ and tokenizer/",
            remedy=f"Pass --prompt-embedding FILE with a (1, {TOKENS}, C) tensor, or use a complete base folder.",
        )
    return base


def _from_file(path: Path) -> Tensor:
    """The one tensor of a safetensors or torch file, or a .npy array."""
    if path.suffix == ".npy" and is_file(path, CheckpointError):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # whose size is held against the file's
            if array.dtype.kind != "f" or array.size != math.prod(array.shape[-2:]):
                raise ValueError(f"{array.dtype} {array.shape}")
            return torch.from_numpy(array.astype(np.float32))
        except (OSError, ValueError, EOFError, TypeError, RecursionError, tokenize.TokenError, SyntaxError) as cause:
            raise _misfit(path, f"an array that cannot be used: {cause}", 0) from cause
    tensors = load_tensors(path)
    if len(tensors) != 1:
        raise _misfit(path, f"{len(tensors)} tensors", 0)
    return next(iter(tensors.values()))


def _checked(value: Tensor, width: int, origin: Path) -> Tensor:
    tensor = value.detach().float()
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.shape != (1, TOKENS, width) or not tensor.isfinite().all():
        kind = f"shape {tuple(value.shape)}" if tensor.isfinite().all() else "non-finite values"
        raise _misfit(origin, kind, width)
    return tensor


def _encoded(base: Path, text: str) -> Tensor:
    """Run the text encoder. Tokenizers are JSON and text; weights come through the restricted reader."""
    try:
        import transformers
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "a prompt is encoded by transformers",
            seen=f"no module {cause.name}",
            needed="transformers",
            remedy="Run: pip install 'zoomrt[diffusion]', or pass --prompt-embedding FILE.",
        ) from cause
    folder = base / "text_encoder"
    weights = component_weights(folder)
    if weights is None:
        raise _misfit(folder, "no weights in it", 0)
    read = read_config(folder)
    try:
        config = transformers.CLIPTextConfig.from_dict(read)
        with torch.device("meta"):
            names = transformers.CLIPTextModel(config).state_dict()
    except Exception as cause:  # transformers has classes of its own for what it finds in a config
        raise _misfit(folder, f"a config.json that transformers refuses: {cause}", 0) from cause
    encoder = loaded(lambda: transformers.CLIPTextModel(config), _for_encoder(weights, names), weights)
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(base / "tokenizer"), local_files_only=True)
    except Exception as cause:  # no narrower one: it is what the Rust library below raises for bad files
        raise _misfit(base / "tokenizer", f"a tokenizer that cannot be read: {cause}", 0) from cause
    if len(tokenizer) != config.vocab_size:
        raise _misfit(base / "tokenizer", f"{len(tokenizer)} tokens for an encoder of {config.vocab_size}", 0)
    tokens = tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden: Tensor = encoder.eval()(tokens.input_ids)[0]
    return hidden


def _for_encoder(weights: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Published files say `text_model.` before each key and keep position numbers; transformers has changed both."""
    tensors = load_tensors(weights, skip=(".position_ids",))
    prefix = "text_model."
    if any(name.startswith(prefix) for name in names):
        return tensors
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def _misfit(origin: Path, seen: str, width: int) -> CheckpointError:
    return CheckpointError(
        f"cannot make a prompt from {shown(origin)}",
        seen=seen,
        needed=f"one finite tensor (1, {TOKENS}, {width or 'C'}) from the text encoder of the base model",
        remedy="Check that the file belongs to the base model; embeddings of other encoders do not fit.",
    )
