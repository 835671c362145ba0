"""Output is input x 4, always: the diffusion families at awkward sizes, and what is read beyond the edge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from colour_steps import REFERENCES
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

from zoomrt.bundle import NO_COLOUR_STEP, ColourFacts, Manifest, TileFacts
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES
from zoomrt.models.family import SizeRule
from zoomrt.models.options import Values
from zoomrt.runtime.session import Session
from zoomrt.runtime.upscaler import Upscaler

DIFFUSION = ("osediff", "hypir", "adcsr")
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
    on_base = {"base": base, "prompt_embedding": prompt}
    files: dict[str, tuple[Any, Values]] = {
        "osediff": (osediff_layout(SMALL).content(), on_base),
        "hypir": (random_state(hypir_shapes(SMALL), 0.4), on_base),
        "adcsr": (adcsr.net_params(), {"decoder": root / "halfDecoder.ckpt"}),
    }

    def network(name: str) -> nn.Module:
        if name not in built:
            content, options = files[name]
            torch.save(content, root / f"{name}.pkl")
            built[name] = FAMILIES.named(name).network(load_checkpoint(root / f"{name}.pkl"), options)
        return built[name]

    return network


def upscaler_for(name: str, network: nn.Module, colour: ColourFacts) -> Upscaler:
    facts = FAMILIES.named(name)
    tile = TileFacts(
        scale=facts.scale,
        height=TILE,
        width=TILE,
        batches=(1,),
        overlap=8,
        context=3,
        value_range=facts.value_range,
        dtype="float32",
        colour=colour,
    )
    manifest = Manifest(family=name, target="cpu", backend="onnxruntime", precision="fp32", tile=tile, graphs={})
    return Upscaler(manifest, TorchSession(tile, network))


@pytest.mark.parametrize("name", DIFFUSION)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 17), (17, 33, 3)], ids=str)
def test_exactly_four_times(
    network_of: Callable[[str], nn.Module], name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    upscaler = upscaler_for(name, network_of(name), FAMILIES.named(name).colour)
    frame = rng.integers(0, 256, shape, np.uint8)
    assert upscaler(frame).shape == (4 * shape[0], 4 * shape[1], *shape[2:])


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_small_picture_is_mirrored_to_the_size_rule_and_cropped(
    network_of: Callable[[str], nn.Module], name: str, rng: np.random.Generator
) -> None:
    """Guaishou74851/AdcSR; the runtime puts the picture into the middle, the authors at the top left."""
    network = network_of(name)
    frame = rng.random((7, 12, 3), np.float32)
    padded = np.pad(frame, [(4, 5), (2, 2), (0, 0)], mode="reflect")
    with torch.no_grad():
        wanted = network(torch.from_numpy(padded * 2 - 1).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    wanted = np.clip(wanted[16:44, 8:56] / 2 + 0.5, 0, 1)
    assert ((wanted > 0) & (wanted < 1)).mean() > 0.2
    assert np.abs(upscaler_for(name, network, NO_COLOUR_STEP)(frame) - wanted).max() <= 1e-5


@pytest.mark.parametrize("name", DIFFUSION)
@pytest.mark.parametrize("height", [TILE, 41], ids=["one tile", "tiles"])
def test_colours_as_the_authors_do_them(
    network_of: Callable[[str], nn.Module], rng: np.random.Generator, name: str, height: int
) -> None:
    """The network's answers, stretched so that 2 to 3 % lie outside [0, 1]; OSEDiff's own clamp comes before that, and
    the sheet's after it. Statistics are of the whole frame, however many tiles there are."""
    network, facts = network_of(name), FAMILIES.named(name)
    frame = rng.random((height, TILE, 3), np.float32)
    plain = upscaler_for(name, Between(network), NO_COLOUR_STEP)(frame)
    assert ((plain > 0) & (plain < 1)).all()
    gain = 0.5 / np.quantile(np.abs(plain - 0.5), 0.975)
    found = upscaler_for(name, Between(network, gain), facts.colour)(frame)
    answer = 0.5 + (plain.astype(np.float64) - 0.5) * gain
    assert 0.02 <= ((answer < 0) | (answer > 1)).mean() <= 0.03
    assert np.abs(found - REFERENCES[name](answer, frame.astype(np.float64))).max() <= 1e-4 * gain


class Between(nn.Module):
    """A network whose answers lie between -1 and 1, a curve that keeps their order, and then times a gain."""

    def __init__(self, network: nn.Module, gain: float = 1.0) -> None:
        super().__init__()
        self.network, self.gain = network, float(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.network(x)) * 0.99 * self.gain


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        # cswry/OSEDiff, XPixelGroup/HYPIR, Guaishou74851/AdcSR
        ("osediff", ("adain", "first", "pillow_bicubic", 1e-5)),
        ("hypir", ("wavelet", "last", "torch_bicubic", 1e-5)),
        ("adcsr", ("adain", "last", "input", 1e-10)),
    ],
)
def test_the_colour_steps_of_the_sheets(name: str, colour: tuple[str, str, str, float]) -> None:
    facts = FAMILIES.named(name).colour
    assert (facts.method, facts.clamp, facts.reference, facts.epsilon) == colour


@pytest.mark.parametrize("name", sorted(set(FAMILIES.names()) - set(DIFFUSION)))
def test_the_others_have_none(name: str) -> None:
    """No colour fix in ResShift; JiT-SR, SkipDiff and the baselines have none either."""
    assert FAMILIES.named(name).colour.method == "none"


@pytest.mark.parametrize("name", DIFFUSION)
def test_tiles_are_multiples_of_sixteen(name: str) -> None:
    """8 latents of 8 output pixels and x4 (cswry/OSEDiff, Guaishou74851/AdcSR)."""
    facts = FAMILIES.named(name)
    assert facts.size == SizeRule(minimum=16, multiple_of=16)
    assert facts.tiling.tile % 16 == 0
