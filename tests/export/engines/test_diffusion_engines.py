"""The diffusion families, scaled down, all the way from published files to verified FP16 engines for two GPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("tensorrt_rtx")

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

from zoomrt.bundle import open_bundle
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.options import Values

# two heads or more of 32 and 48: as with the published sizes, every attention of the UNet then has a kernel of its own
SCALE = replace(SMALL, heads=(2, 4), adcsr_widths=(96, 192))


def quiet(state: State, prefix: str = "") -> State:
    """Random weights whose picture stays near the value range, as a trained network's does."""
    return {key: t * 0.3 if key.startswith(f"{prefix}decoder.conv_out") else t for key, t in state.items()}


def base(root: Path) -> Values:
    torch.save(torch.randn(1, 77, SCALE.text_width), root / "prompt.pt")
    unet, vae = random_state(unet_shapes(SCALE)), quiet(random_state(vae_shapes(SCALE)))
    return {"base": write_base(root / "base", SCALE, unet=unet, vae=vae), "prompt_embedding": root / "prompt.pt"}


def osediff(root: Path) -> Values:
    torch.save(osediff_layout(SCALE).content(), root / "w")
    return base(root)


def hypir(root: Path) -> Values:
    torch.save(random_state(hypir_shapes(SCALE), 0.4), root / "w")
    return base(root)


def adcsr(root: Path) -> Values:
    layout = adcsr_layout(SCALE)
    torch.save(layout.net_params(), root / "w")
    half = layout.half_decoder()
    half["state_dict"] = quiet(half["state_dict"])
    torch.save(half, root / "half.ckpt")
    return {"decoder": root / "half.ckpt"}


@pytest.mark.parametrize(
    ("write", "unet", "vae", "target"),
    [
        (osediff, ["self and cross"] * 4, 2, "sm89"),
        (osediff, ["self and cross"] * 4, 2, "sm75"),
        (hypir, ["self and cross"] * 4, 2, "rtx"),
        (adcsr, ["self"] * 4, 1, "sm89"),
    ],
    ids=["osediff", "osediff for Turing", "hypir for all", "adcsr"],
)
def test_fp16_engine(tmp_path: Path, write, unet: list[str], vae: int, target: str) -> None:
    options = write(tmp_path)
    request = BuildRequest(weights=tmp_path / "w", options=options, precision="fp16", target=target, tile=32, overlap=8)
    build(request, tmp_path / "b", use_cache=False)
    manifest = open_bundle(tmp_path / "b").manifest
    report = manifest.engine_report["1"]
    attentions = sum(2 if kind == "self and cross" else 1 for kind in unet)
    assert report.attentions_expected == attentions + vae
    assert report.attentions_fused >= attentions
    assert report.attentions_fused + len(report.attentions_unfused) == attentions + vae
    probes = {result.probe: result.psnr_db for result in manifest.numerics.results}
    assert set(probes) == {"photograph", "noise", "flat", "black", "white"}
    assert min(probes.values()) >= 45
    assert manifest.parity["1"].results[0].psnr_db >= 45
    # the step's algebra is FP32, and nothing else was kept
    assert manifest.numerics.kept_fp32 == ()
    assert bool(manifest.numerics.fp32_nodes) == (write is not adcsr)
    assert report.share_in_precision > 0.9
