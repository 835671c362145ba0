"""Discrete choices: FP16 is judged with FP32's choices, and cannot hide behind them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoomrt.errors import PrecisionError
from zoomrt.export.fp16.prepare import make_fp16_safe
from zoomrt.models.discrete_choices import chooses, recorded, replayed


class Sign(nn.Module):
    """1 where the input is above 0, else -1: near 0 rounding decides."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


class Chooser(nn.Module):
    """Tiny values, of which rounding flips the sign of some, under a constant that FP16 has to swallow first."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift, self.sign, self.last = shift, Sign(), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.sign((x + self.shift) - self.shift))  # type: ignore[no-any-return]


def tiles(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"noise": rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)}


def test_recorded_choices_come_back() -> None:
    network = Chooser(0.0)
    chooses(network.sign)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad(), recorded(network) as choices:
        wanted = network(x)
    assert len(choices) == 1
    torch.testing.assert_close(choices[0].given, x)
    with torch.no_grad(), replayed(network, choices) as given:
        torch.testing.assert_close(network(-x), wanted)
    torch.testing.assert_close(given[0], -x)
    with torch.no_grad():
        assert not torch.equal(network(-x), wanted)  # no hook is left


def test_flipped_choices_do_not_count_but_what_they_come_from_does(rng: np.random.Generator) -> None:
    network = Chooser(32.0)
    with pytest.raises(PrecisionError, match=r"need 45 dB"):
        make_fp16_safe(network, tiles(rng), (-1.0, 1.0))
    network = Chooser(32.0)
    chooses(network.sign)
    results = make_fp16_safe(network, tiles(rng), (-1.0, 1.0)).results
    assert [result.probe for result in results] == ["noise, before a choice", "noise"]
    assert all(result.psnr_db >= 45 for result in results)
    network = Chooser(4000.0)  # steps of 2 or 4 there: what is chosen from is wrong throughout
    chooses(network.sign)
    with pytest.raises(PrecisionError, match=r"noise, before a choice.*need 45 dB"):
        make_fp16_safe(network, tiles(rng), (-1.0, 1.0))
