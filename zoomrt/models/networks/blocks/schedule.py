"""The noise schedule of Stable Diffusion 1 and 2, and the closed form of one denoising step.

Recomputed in float64 from its three constants (its scheduler_config.json): betas are squares of an even ramp between
the roots of 0.00085 and 0.012, 1000 of them. Schedulers of diffusers are not called: newer ones refuse the single step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import UsageError

STEPS = 1000
_BETA_START, _BETA_END = 0.00085, 0.012


def alphas_cumprod() -> NDArray[np.float64]:
    """(1000,) float64, falling from 0.99915 to 0.00466: the share of the picture's variance left at each timestep."""
    betas = np.linspace(math.sqrt(_BETA_START), math.sqrt(_BETA_END), STEPS, dtype=np.float64) ** 2
    return np.cumprod(1.0 - betas, dtype=np.float64)


@dataclass(frozen=True)
class OneStep:
    """clean = latent * z - noise * eps, for epsilon prediction. An error in eps is multiplied by `noise`."""

    latent: float
    noise: float


def one_step(timestep: int) -> OneStep:
    """Coefficients 1/sqrt(abar) and sqrt((1-abar)/abar) at a timestep. UsageError if there is no such timestep."""
    if not 0 <= timestep < STEPS:
        raise UsageError(
            "there is no such timestep",
            seen=timestep,
            needed=f"0 to {STEPS - 1}",
            remedy="Use a timestep of the schedule, such as --coeff-t 200.",
        )
    abar = float(alphas_cumprod()[timestep])
    return OneStep(latent=1 / math.sqrt(abar), noise=math.sqrt((1 - abar) / abar))
