"""A folder of pictures; a small network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with four noise pictures of different sizes and kinds."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, (height, width) in enumerate([(80, 120), (100, 90), (64, 64)]):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    Image.fromarray(rng.integers(0, 256, (70, 70), dtype=np.uint8)).save(folder / "grey.PNG")
    return folder


@pytest.fixture
def tiny_edge(rng: np.random.Generator) -> nn.Module:
    """An `edge` network of 0.2 M random parameters."""
    from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork

    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1))).eval()
    for parameter in network.parameters():  # norms too, so that no mistake hides behind ones and zeros
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(rng.uniform(0.2, 0.6)), std=0.2)
    nn.init.normal_(network.conv_out.weight, std=0.02)
    return network
