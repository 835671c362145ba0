"""The three diffusion families at true size: files of the published layout and size, built into FP32 and FP16 bundles.

Minutes each, up to about 12 GB of memory and 12 GB of disk; one at a time.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

from published_files import (
    TRUE,
    adcsr_layout,
    hypir_shapes,
    osediff_layout,
    random_state,
    unet_shapes,
    vae_shapes,
    write_base,
)

from zoomrt.bundle import Manifest, open_bundle
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.export.targets import TARGETS
from zoomrt.models.options import Values

FOLDED = 865_910_724 + 83_653_863 - 25_824_960 - 2_050_560 - 25_559_040 - 36
"""Parameters of UNet and VAE, less time projections, time embedding, keys and values, and the log-variance."""


def diffusion_options(root: Path) -> Values:
    unet, vae = random_state(unet_shapes(TRUE)), random_state(vae_shapes(TRUE))
    torch.save(torch.randn(1, 77, TRUE.text_width), root / "prompt.pt")
    return {"base": write_base(root / "base", TRUE, unet=unet, vae=vae), "prompt_embedding": root / "prompt.pt"}


def adcsr_files(root: Path) -> Values:
    layout = adcsr_layout(TRUE)
    params = layout.net_params()
    assert len(params) == 1076
    torch.save(params, root / "w")
    torch.save(layout.half_decoder(), root / "half.ckpt")
    return {"decoder": root / "half.ckpt"}


def osediff_files(root: Path) -> Values:
    torch.save(osediff_layout(TRUE).content(), root / "w")
    return diffusion_options(root)


def hypir_files(root: Path) -> Values:
    torch.save(random_state(hypir_shapes(TRUE), 0.4), root / "w")
    return diffusion_options(root)


def built(root: Path, write, **options: object) -> Manifest:
    request = BuildRequest(weights=root / "w", options=write(root), **options)  # type: ignore[arg-type]
    build(request, root / "bundle", use_cache=False)
    return open_bundle(root / "bundle", verify=False).manifest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "family", "parameters"),
    [
        (adcsr_files, "adcsr", 456_073_683),
        (osediff_files, "osediff", FOLDED),
        (hypir_files, "hypir", FOLDED),
    ],
)
def test_bundle_at_true_size(tmp_path: Path, write, family: str, parameters: int) -> None:
    manifest = built(tmp_path, write)
    assert manifest.family == family
    assert manifest.weights.parameters == parameters
    assert (manifest.tile.height, manifest.tile.scale) == (128, 4)
    operators = manifest.parity["1"].operators
    assert operators["Attention"] == {"adcsr": 16 + 1}.get(family, 32 + 2)
    assert not {"Sin", "Cos"} & operators.keys()
    assert manifest.parity["1"].results[0].max_relative <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "target", "unet", "vae"),
    [
        (osediff_files, "sm89", 32, 2),
        (osediff_files, "sm75", 32, 2),
        (hypir_files, "rtx", 32, 2),
        (adcsr_files, "sm89", 16, 1),
    ],
)
def test_fp16_engine_at_true_size(tmp_path: Path, write, target: str, unet: int, vae: int) -> None:
    manifest = built(tmp_path, write, precision="fp16", target=target)
    report = manifest.engine_report["1"]
    assert report.attentions_expected == unet + vae
    if vae == 2:  # heads of 512 have no kernel; AdcSR's decoder has one of 256
        assert (report.attentions_fused, len(report.attentions_unfused)) == (unet, vae)
    else:
        assert report.attentions_fused >= unet
    assert set(report.sms) == set(TARGETS[target].compute_capabilities)
    assert all(result.psnr_db >= 45 for result in manifest.numerics.results)
    assert manifest.parity["1"].results[0].psnr_db >= 45
