"""The baseline that users know: Real-ESRGAN in torch eager FP32, the published layout, on tiles of the bundle's size.

Without its weights they are random: the speed is that of the real ones, the pictures are noise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoomrt.bench.peers import Job, Opened
from zoomrt.bench.workload import RunSession
from zoomrt.errors import EngineMismatch
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.real_esrgan import FAMILY
from zoomrt.models.networks.real_esrgan import DenseConfig, DenseNetwork


@contextmanager
def opened(job: Job) -> Iterator[Opened]:
    """Raises EngineMismatch for a scale that Real-ESRGAN does not have, CheckpointError."""
    torch.set_num_threads(job.threads)
    tile = job.bundle.manifest.tile
    network: nn.Module
    if job.baseline is not None:
        checkpoint = load_checkpoint(job.baseline)
        scale, network = FAMILY.fitted(checkpoint).scale, FAMILY.network(checkpoint)
        weights, reason = job.baseline.name, "another network than the bundle's"
    else:
        scale, network = _random(tile.scale)
        weights, reason = "random weights", "random weights: for speed only"
    if scale != tile.scale:
        raise EngineMismatch(
            "Real-ESRGAN cannot stand beside this bundle",
            seen=f"x{scale}",
            needed=f"x{tile.scale}, as the bundle",
            remedy="Leave it out of --peers, or pass weights of the other variant.",
        )
    low, high = tile.value_range

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            lr = (torch.from_numpy(batch[:, :3]).float() - low) / (high - low)
            return (network(lr) * (high - low) + low).numpy()  # type: ignore[no-any-return]

    with RunSession(tile, run) as session:
        detail = f"Real-ESRGAN x{scale}plus, torch {torch.__version__} eager, FP32, {weights}"
        yield Opened(session, detail, _gmac(network, tile.height, tile.width), reason)


def _random(scale: int) -> tuple[int, nn.Module]:
    """The published network of that scale, or of x4 where there is none."""
    config = DenseConfig(unshuffle=2 if scale == 2 else 1)
    network = DenseNetwork(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # weights that keep signals of the order of one; torch's own let them die out
        for values in network.parameters():
            values.zero_() if values.dim() == 1 else values.normal_(0, values[0].numel() ** -0.5, generator=generator)
    return config.scale, network.eval()


def _gmac(network: nn.Module, height: int, width: int) -> float:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(torch.empty(1, 3, height, width))
    return int(counter.get_total_flops()) / 2e9
