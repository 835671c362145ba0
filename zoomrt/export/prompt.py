"""The prompt as the UNet sees it: read from a file, or computed once by the base model's own text encoder.

The embedding is the text encoder's last hidden state after its final norm, (1, 77, C) float32, for tokens padded to 77
(osediff.md section 1.3). Its check values for the empty prompt of Stable Diffusion 2.1 are in section 1.4 there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoomrt.errors import CheckpointError, MissingDependency, UsageError
from zoomrt.export.checkpoint import load_checkpoint, load_weights, read_safely
from zoomrt.export.sources import TEXT_FILES, Sources, component_weights
from zoomrt.export.stable_diffusion import read_config

__all__ = ["TOKENS", "prompt_embedding"]

TOKENS = 77


def prompt_embedding(sources: Sources, width: int, model: str) -> Tensor:
    """(1, 77, width) float32 for the sources' prompt; the empty prompt if they name none.

    Raises UsageError where there is nothing to make it from, CheckpointError for a file that does not fit.
    """
    if sources.prompt_embedding is not None:
        return _checked(_from_file(sources.prompt_embedding), width, sources.prompt_embedding)
    base = sources.base
    if base is None or not base.is_dir() or not all((base / name).is_dir() for name in TEXT_FILES):
        raise UsageError(
            f"model {model} needs a prompt, and there is no text encoder to make one",
            seen="no --prompt-embedding, and "
            + (f"a base without {' and '.join(TEXT_FILES)}" if base else "no --base"),
            needed="a file with the embedding, or a diffusers folder as --base that has text_encoder/ and tokenizer/",
            remedy=f"Pass --prompt-embedding FILE with a (1, {TOKENS}, {width}) tensor, or use a complete base folder.",
        )
    return _checked(_encoded(base, sources.prompt or ""), width, base / "text_encoder")


def _from_file(path: Path) -> object:
    """The one tensor of a safetensors or torch file, or a .npy array."""
    if path.suffix == ".npy" and path.is_file():
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError, TypeError) as cause:
            raise _misfit(path, f"an array that cannot be read: {cause}", 0) from cause
    content = read_safely(path)
    tensors = list(content.values()) if isinstance(content, dict) else [content]
    return tensors[0] if len(tensors) == 1 else content


def _checked(value: object, width: int, origin: Path) -> Tensor:
    if not isinstance(value, Tensor):
        raise _misfit(origin, f"a {type(value).__name__}", width)
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
    config = transformers.CLIPTextConfig.from_dict(read_config(folder))
    encoder = transformers.CLIPTextModel(config)
    load_weights(encoder, _for_encoder(load_checkpoint(weights).tensors(), encoder), weights)
    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(base / "tokenizer"), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise _misfit(base / "tokenizer", f"a tokenizer that cannot be read: {cause}", 0) from cause
    tokens = tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden: Tensor = encoder.eval()(tokens.input_ids)[0]
    return hidden


def _for_encoder(tensors: dict[str, Tensor], encoder: Any) -> dict[str, Tensor]:
    """Published files say `text_model.` before each key and keep position numbers; transformers has changed both."""
    names = encoder.state_dict()
    prefix = "text_model."
    if not any(name.startswith(prefix) for name in names):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in tensors.items() if key in names or not key.endswith(".position_ids")}


def _misfit(origin: Path, seen: str, width: int) -> CheckpointError:
    return CheckpointError(
        f"cannot make a prompt from {str(origin)!r}",
        seen=seen,
        needed=f"one finite tensor (1, {TOKENS}, {width or 'C'}) from the text encoder of the base model",
        remedy="Check that the file belongs to the base model; embeddings of other encoders do not fit.",
    )
