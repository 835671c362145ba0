"""What noise on a latent does to SinSR's picture through the codebook: how many codes change, and what PSNR that
leaves.

python -m benchmarks.code_flips     writes benchmarks/results/code_flips.json

8192 random codes as published, standard normal like the latent; a decoder of random weights, a quarter as wide. It is
the evidence for `parity_loss_db` of `sinsr`, and says nothing about real pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks._record import record
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder, VqConfig

SIDE = 64
SPREADS = (1e-5, 5e-4, 2e-3)
"""Deviation of the noise: FP32's rounding after a network or two, and FP16's."""
PEAK = 2.0


def psnr_db(wanted: Tensor, got: Tensor) -> float | None:
    """None where they are equal, which JSON cannot say."""
    error = float((wanted - got).square().mean())
    return None if error == 0 else round(float(10 * torch.log10(torch.tensor(PEAK**2 / error))), 1)


@torch.no_grad()
def figures(seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    network = VqAutoencoder(VqConfig(widths=(32, 32, 64)))
    latent = torch.randn(1, 3, SIDE, SIDE)
    codes, picture = network.quantize(latent), network.decode(latent)
    found = {}
    for spread in SPREADS:
        moved = latent + spread * torch.randn_like(latent)
        changed = int((network.quantize(moved) != codes).any(dim=1).sum())
        found[f"{spread:g}"] = {"codes_changed": changed, "psnr_db": psnr_db(picture, network.decode(moved))}
    return {"codes": SIDE**2, "picture_deviation": round(float(picture.std()), 3), "noise": found}


def main() -> None:
    record("code_flips", figures(seed=0), "torch")


if __name__ == "__main__":
    main()
