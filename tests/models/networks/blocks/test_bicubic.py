"""Both bicubics: the torch one equals torch up to the border, the PIL one equals PIL inside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from slow_reference import bicubic_x4
from torch.nn import functional as F

from zoomrt.models.networks.blocks.bicubic import PIL, TORCH, Enlarge


def test_torch_everywhere() -> None:
    picture = torch.randn(2, 3, 9, 7)
    wanted = F.interpolate(picture, scale_factor=4, mode="bicubic", align_corners=False)
    torch.testing.assert_close(Enlarge(4, TORCH)(picture), wanted, atol=1e-5, rtol=0)


def test_pil_inside_on_8_bit(rng: np.random.Generator) -> None:
    """OSEDiff enlarges 8-bit pictures with PIL, which rounds and clips after each axis: within 1.5 code values of ours
    where nothing between the axes is clipped."""
    picture = rng.integers(80, 176, (20, 24, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(picture).resize((96, 80), Image.Resampling.BICUBIC), np.float32)
    tensor = torch.from_numpy(picture.transpose(2, 0, 1)[None] / np.float32(127.5)) - 1
    ours = Enlarge(4, PIL)(tensor).clamp(-1, 1)[0].permute(1, 2, 0).numpy() * 127.5 + 127.5
    assert np.abs(ours - wanted)[8:-8, 8:-8].max() <= 1.5


@pytest.mark.parametrize("a", [PIL, TORCH])
def test_slow_loop(a: float) -> None:
    picture = torch.randn(1, 3, 5, 6)
    np.testing.assert_allclose(Enlarge(4, a)(picture)[0].numpy(), bicubic_x4(picture[0].double().numpy(), a), atol=1e-5)


def test_the_two_differ() -> None:
    picture = torch.randn(1, 3, 8, 8)
    assert (Enlarge(4, PIL)(picture) - Enlarge(4, TORCH)(picture)).abs().max() > 0.05
