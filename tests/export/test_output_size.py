"""Output is input x 4, always: the diffusion families at awkward sizes, and what is read beyond the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from published_files import (
    SMALL,
    adcsr_layout,
    hypir_shapes,
    osediff_layout,
    random_state,
    single_file,
    unet_shapes,
    vae_shapes,
)

from zoomrt.bundle import Manifest, TileFacts
from zoomrt.export.checkpoint import load_checkpoint
from zoomrt.export.families import family_named
from zoomrt.export.family import SizeRule
from zoomrt.export.sources import Sources
from zoomrt.runtime.session import Session
from zoomrt.runtime.upscaler import Upscaler

FAMILIES = ("osediff", "hypir", "adcsr")
TILE = 16


class TorchSession(Session):
    """The network itself, without the detour over a graph."""

    def __init__(self, tile: TileFacts, network: nn.Module) -> None:
        super().__init__(tile)
        self.network = network

    def _execute(self, batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.network(torch.from_numpy(np.ascontiguousarray(batch))).numpy()

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def network_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """Networks of random weights from files of the published layouts, each built once."""
    root, built = tmp_path_factory.mktemp("sizes"), {}
    base, prompt = root / "base.ckpt", root / "prompt.pt"
    torch.save(single_file(SMALL, random_state(unet_shapes(SMALL)), random_state(vae_shapes(SMALL))), base)
    torch.save(torch.randn(1, 77, SMALL.text_width), prompt)
    adcsr = adcsr_layout(SMALL)
    torch.save(adcsr.half_decoder(), root / "halfDecoder.ckpt")
    on_base = Sources(base=base, prompt_embedding=prompt)
    files: dict[str, tuple[Any, Sources]] = {
        "osediff": (osediff_layout(SMALL).content(), on_base),
        "hypir": (random_state(hypir_shapes(SMALL), 0.4), on_base),
        "adcsr": (adcsr.net_params(), Sources(decoder=root / "halfDecoder.ckpt")),
    }

    def network(name: str) -> nn.Module:
        if name not in built:
            content, sources = files[name]
            torch.save(content, root / f"{name}.pkl")
            built[name] = family_named(name).network(load_checkpoint(root / f"{name}.pkl"), sources)
        return built[name]

    return network


def upscaler_for(name: str, network: nn.Module, colour: str) -> Upscaler:
    facts = family_named(name).facts
    tile = TileFacts(
        scale=facts.scale,
        height=TILE,
        width=TILE,
        batches=(1,),
        overlap=8,
        context=3,
        value_range=facts.value_range,
        dtype="float32",
        colour=colour,  # type: ignore[arg-type]
    )
    manifest = Manifest(family=name, target="cpu", backend="onnxruntime", precision="fp32", tile=tile, graphs={})
    return Upscaler(manifest, TorchSession(tile, network))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 17), (17, 33, 3)], ids=str)
def test_exactly_four_times(
    network_of: Callable[[str], nn.Module], name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    upscaler = upscaler_for(name, network_of(name), family_named(name).facts.colour)
    frame = rng.integers(0, 256, shape, np.uint8)
    assert upscaler(frame).shape == (4 * shape[0], 4 * shape[1], *shape[2:])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_small_picture_is_mirrored_to_the_size_rule_and_cropped(
    network_of: Callable[[str], nn.Module], name: str, rng: np.random.Generator
) -> None:
    """adcsr_and_mobile.md A3; the runtime puts the picture into the middle, the sheet at the top left."""
    network = network_of(name)
    frame = rng.random((7, 12, 3), np.float32)
    padded = np.pad(frame, [(4, 5), (2, 2), (0, 0)], mode="reflect")
    with torch.no_grad():
        wanted = network(torch.from_numpy(padded * 2 - 1).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    wanted = np.clip(wanted[16:44, 8:56] / 2 + 0.5, 0, 1)
    assert ((wanted > 0) & (wanted < 1)).mean() > 0.2
    assert np.abs(upscaler_for(name, network, "none")(frame) - wanted).max() <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_tiles_are_multiples_of_sixteen(name: str) -> None:
    """8 latents of 8 output pixels and x4 (osediff.md 1.1, adcsr_and_mobile.md A3)."""
    facts = family_named(name).facts
    assert facts.size == SizeRule(minimum=16, multiple_of=16)
    assert facts.tiling.tile % 16 == 0
