"""The `edge` network: its bicubic against PIL, its limits, and the weights that ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from family_checks import bundle_of
from PIL import Image
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from torch.utils.flop_counter import FlopCounterMode

from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY
from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork, config_of


def shipped() -> EdgeNetwork:
    assert FAMILY.embedded_weights is not None
    return FAMILY.network(load_checkpoint(FAMILY.embedded_weights))


def test_an_untrained_network_is_pil_bicubic(rng: np.random.Generator) -> None:
    """PIL computes the same cubic convolution in floating point on mode-F pictures; its border rule differs."""
    picture = rng.normal(size=(3, 20, 28)).astype(np.float32)
    with torch.no_grad():
        ours = EdgeNetwork().eval()(torch.from_numpy(picture)[None])[0].numpy()
    for channel in range(3):
        wanted = np.asarray(Image.fromarray(picture[channel]).resize((112, 80), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(ours[channel, 8:-8, 8:-8], wanted[8:-8, 8:-8], atol=2e-5)


def test_limits_of_the_issue() -> None:
    network = shipped()
    assert sum(p.numel() for p in network.parameters()) <= 3e6
    assert FAMILY.embedded_weights is not None
    assert FAMILY.embedded_weights.stat().st_size <= 8e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(torch.zeros(1, 3, 128, 128)).shape == (1, 3, 512, 512)
    assert counter.get_total_flops() / 2 <= 25e9


@pytest.mark.parametrize("size", [(32, 32), (36, 60), (64, 40)])
def test_any_multiple_of_four(size: tuple[int, int]) -> None:
    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1))).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, *size)).shape == (2, 3, 4 * size[0], 4 * size[1])


def test_batch_items_do_not_mix() -> None:
    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1))).eval()
    torch.nn.init.normal_(network.conv_out.weight, std=0.1)
    lr = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        together, alone = network(lr), torch.cat([network(item[None]) for item in lr])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_config_is_read_off_the_weights() -> None:
    for config in (EdgeConfig(), EdgeConfig((32, 32, 64), (1, 2), 3, (2, 1))):
        assert config_of(EdgeNetwork(config).state_dict()) == config


def test_bundle(tmp_path: Path, tiny_edge_weights: Path) -> None:
    manifest = bundle_of(tmp_path / "b", tiny_edge_weights, tile=32)
    assert manifest.parity["1"].operators["Gather"] == 2  # the edge of the picture, for the bicubic base


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.float64) @ [0.257, 0.504, 0.098] + 16


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_shipped_weights_beat_bicubic_on_held_out_photographs(name: str) -> None:
    """Centre 256x256 of each photograph, bicubic x4 down. Training never saw them (training/data.py)."""
    picture = getattr(data, name)()
    y, x = ((side - 256) // 2 for side in picture.shape[:2])
    hr = np.ascontiguousarray(picture[y : y + 256, x : x + 256])
    lr = np.asarray(Image.fromarray(hr).resize((64, 64), Image.Resampling.BICUBIC))
    with torch.no_grad():
        tensor = shipped()(torch.from_numpy(lr / np.float32(127.5) - 1).permute(2, 0, 1)[None])[0]
    ours = ((tensor.permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    bicubic = np.asarray(Image.fromarray(lr).resize((256, 256), Image.Resampling.BICUBIC))
    reference = luma(hr)[4:-4, 4:-4]
    gain = peak_signal_noise_ratio(reference, luma(ours)[4:-4, 4:-4], data_range=255)
    gain -= peak_signal_noise_ratio(reference, luma(bicubic)[4:-4, 4:-4], data_range=255)
    assert gain >= 0.3, f"{name}: {gain:.2f} dB over bicubic"


def test_model_card_stands_beside_the_weights() -> None:
    assert FAMILY.embedded_weights is not None
    card = Path(FAMILY.embedded_weights).with_suffix(".md").read_text()
    for part in ("Data", "Licence", "Command", "Seed", "Figures"):
        assert part.lower() in card.lower()
