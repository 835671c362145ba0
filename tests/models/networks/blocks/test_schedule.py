"""The schedule against the sheet's table (cswry/OSEDiff) and against diffusers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zoomrt.errors import UsageError
from zoomrt.models.networks.blocks.schedule import alphas_cumprod, one_step

PRINTED = {
    0: 0.9991500000,
    1: 0.9982960278,
    100: 0.8942234776,
    199: 0.7552383612,
    200: 0.7536920452,
    250: 0.6737926252,
    273: 0.6357426,
    499: 0.2776696505,
    500: 0.2763326838,
    799: 0.0371949998,
    998: 0.0047166989,
    999: 0.0046600985,
}


def test_table_of_the_sheet() -> None:
    ours = alphas_cumprod()
    assert ours.dtype == np.float64
    for timestep, printed in PRINTED.items():
        assert ours[timestep] == pytest.approx(printed, abs=6e-8 if timestep == 273 else 6e-11)


@pytest.mark.parametrize(("t", "latent", "noise"), [(999, 14.648814, 14.614641), (200, 1.151869, 0.571666)])
def test_published_coefficients(t: int, latent: float, noise: float) -> None:
    step = one_step(t)
    assert (step.latent, step.noise) == pytest.approx((latent, noise), abs=6e-7)


@pytest.mark.parametrize("t", [0, 50, 200, 999])
def test_inverts_the_forward_process(t: int, rng: np.random.Generator) -> None:
    """z = sqrt(abar) x + sqrt(1 - abar) eps, with abar from a plain product, gives x back."""
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    abar = math.prod(1 - (low + (high - low) * i / 999) ** 2 for i in range(t + 1))
    x, eps = rng.normal(size=2)
    z = math.sqrt(abar) * x + math.sqrt(1 - abar) * eps
    assert one_step(t).latent * z - one_step(t).noise * eps == pytest.approx(x, abs=1e-9)


def test_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    np.testing.assert_allclose(alphas_cumprod(), scheduler.alphas_cumprod.double().numpy(), rtol=2e-6)


@pytest.mark.parametrize("t", [-1, 1000])
def test_no_such_timestep(t: int) -> None:
    with pytest.raises(UsageError, match=r"0 to 999"):
        one_step(t)
