"""Train `edge`, the model that ships with zoomrt. Seeded, resumable, checkpointed; about an hour on two CPU cores.

    python -m training.train_edge --pairs ../shared/data/drealsr --work /tmp/edge

Run the same command again to go on from the last checkpoint. The finished FP16 weights are WORK/edge.safetensors.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from training.data import PHOTOGRAPHS, SCALE, Sampler, camera_pairs, photograph
from training.evaluate_edge import evaluate, held_out
from zoomrt.models.networks.edge import EdgeNetwork

# LR crop side -> crops per batch, about equal work. Several sizes, so that nothing depends on the tile's size.
BATCHES = {48: 14, 64: 8, 96: 4, 128: 2}
SETTLING_SIZES = (96, 128)  # GroupNorm and attention see what they will see in use
MARGIN = 8  # LR pixels next to a cut that see the cut's zero padding; the tile plan's overlap covers more


@dataclass(frozen=True)
class Recipe:
    """Learn on a cosine, then settle: average with an early snapshot and go on gently with stronger augmentation.

    78 camera pairs are few. Late in the cosine the network learns them by heart; the snapshot and the augmentation
    (see `Sampler`) take that back. What ships is the mean of the weights before and after settling.
    """

    steps: int = 5900
    settle_from: int = 5000
    learning_rate: float = 5e-4
    cosine_steps: int = 6000
    settle_rate: float = 1.5e-4
    snapshot_at: int = 2250
    snapshot_share: float = 0.3
    warm_up: int = 200
    weight_decay: float = 1e-4
    ema: float = 0.999
    consistency: float = 1.0
    settle_consistency: float = 4.0
    structure: tuple[tuple[int, float], ...] = ((1250, 0.15), (2250, 0.4), (5000, 1.0))
    """Weight of 1 - SSIM from a step on; at first the picture is too coarse for structure to teach anything."""
    seed: int = 20261120

    def settling(self, step: int) -> bool:
        return step >= self.settle_from

    def structure_weight(self, step: int) -> float:
        return next((weight for start, weight in reversed(self.structure) if step >= start), 0.0)

    def rate(self, step: int) -> float:
        """Linear warm-up, a cosine towards 1 % of the peak; then a lower cosine to zero."""
        if self.settling(step):
            done = step - self.settle_from
            fade = 0.5 * (1 + math.cos(math.pi * done / (self.steps - self.settle_from)))
            return self.settle_rate * min(1.0, (done + 1) / 20) * fade
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / (self.cosine_steps - self.warm_up)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@lru_cache
def gaussian_rows(extent: int) -> Tensor:
    """The 11-tap Gaussian as an (extent - 10, extent) matrix: three times faster on a CPU than a one-channel conv2d."""
    window = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    return torch.stack([F.pad(window, (start, extent - 11 - start)) for start in range(extent - 10)])


def structure_loss(picture: Tensor, truth: Tensor) -> Tensor:
    """1 - SSIM on Y (Wang et al. 2004: 11-tap Gaussian, sigma 1.5), the figure that `evaluate_edge` reports.

    Both (N, 3, H, W) float32 in [-1, 1].
    """
    weights = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    a, b = (16 / 255 + ((rgb + 1) / 2 * weights).sum(1, keepdim=True) for rgb in (picture, truth))
    maps = torch.cat([a, b, a * a, b * b, a * b])
    maps = gaussian_rows(maps.shape[2]) @ maps @ gaussian_rows(maps.shape[3]).T
    mean_a, mean_b, aa, bb, ab = maps.chunk(5)
    luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    structure = (2 * (ab - mean_a * mean_b) + 0.03**2) / (aa - mean_a**2 + bb - mean_b**2 + 0.03**2)
    return 1 - (luminance * structure).mean()


def loss_of(
    network: EdgeNetwork, lr: Tensor, hr: Tensor, window: tuple[int, int, int] | None, recipe: Recipe, step: int
) -> Tensor:
    """L1 and structure to the truth; with a window, a tile cut from the crop must also agree with the whole crop.

    GroupNorm and attention see the whole crop, so without the last term tiles would differ from the untiled picture.
    """
    with torch.autocast("cpu", torch.bfloat16):
        whole = network(lr)
    whole = whole.float()
    loss = (whole - hr).abs().mean()
    if weight := recipe.structure_weight(step):
        loss = loss + weight * structure_loss(whole, hr)
    if window is None:
        return loss
    y, x, side = window
    with torch.autocast("cpu", torch.bfloat16):
        tile = network(lr[:, :, y : y + side, x : x + side]).float()
    start, stop = SCALE * MARGIN, SCALE * (side - MARGIN)
    same_place = whole[:, :, SCALE * y + start : SCALE * y + stop, SCALE * x + start : SCALE * x + stop]
    weight = recipe.settle_consistency if recipe.settling(step) else recipe.consistency
    return loss + weight * (tile[:, :, start:stop, start:stop] - same_place).abs().mean()


def plan_step(recipe: Recipe, step: int) -> tuple[int, int, tuple[int, int, int] | None]:
    """(crop side, crops, tile window or None) of a step, from the seed alone."""
    rng = np.random.default_rng((recipe.seed, step, 1))
    size = int(rng.choice(SETTLING_SIZES if recipe.settling(step) else list(BATCHES)))
    if size < 96:
        return size, BATCHES[size], None
    side = size // 2 if rng.random() < 0.5 else size * 3 // 4
    y, x = (int(v) * 4 for v in rng.integers(0, (size - side) // 4 + 1, 2))
    return size, BATCHES[size], (y, x, side)


def new_optimizer(network: EdgeNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)


def save_atomically(payload: object, path: Path) -> None:
    scratch = path.with_suffix(".part")
    torch.save(payload, scratch)
    os.replace(scratch, path)


def train(pairs_root: Path, work: Path, recipe: Recipe) -> None:
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = EdgeNetwork().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    optimizer = new_optimizer(network, recipe)
    checkpoint, start, seconds = work / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != asdict(recipe):
            raise SystemExit(f"{checkpoint} was made by another recipe {state['recipe']}; use a fresh --work folder")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
    sampler = Sampler(camera_pairs(pairs_root, held_out=False), [photograph(n) for n in PHOTOGRAPHS], recipe.seed)
    sets = held_out(pairs_root)
    began, recent = time.monotonic() - seconds, []

    def fetch(step: int) -> tuple[Tensor, Tensor]:
        size, count, _ = plan_step(recipe, step)
        lr, hr = sampler.batch(step, size, count, settling=recipe.settling(step))
        return torch.from_numpy(lr), torch.from_numpy(hr)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(fetch, start)
        for step in range(start, recipe.steps):
            if step == recipe.settle_from:
                save_atomically(average.state_dict(), work / "unsettled.pt")
                snapshot = torch.load(work / "snapshot.pt", weights_only=True)
                for name, tensor in average.state_dict().items():
                    tensor.lerp_(snapshot[name], recipe.snapshot_share)
                network.load_state_dict(average.state_dict())
                optimizer = new_optimizer(network, recipe)
            lr, hr = ahead.result()
            ahead = pool.submit(fetch, min(step + 1, recipe.steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step)
            lr = lr.contiguous(memory_format=torch.channels_last)
            loss = loss_of(network, lr, hr, plan_step(recipe, step)[2], recipe, step)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            since = step - recipe.settle_from if recipe.settling(step) else step
            keep = min(recipe.ema, (since + 1) / (since + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)
            recent.append(loss.item())
            done = step + 1
            if done % 50 == 0:
                spent = time.monotonic() - began
                left = spent / done * (recipe.steps - done)
                clock = f"{spent / 60:.1f} min, {left / 60:.0f} left"
                print(f"step {done}/{recipe.steps}  loss {np.mean(recent):.5f}  {clock}", flush=True)
                recent.clear()
            if done % 250 == 0 or done == recipe.steps:
                state = {"network": network.state_dict(), "average": average.state_dict(), "step": done}
                state |= {
                    "optimizer": optimizer.state_dict(),
                    "recipe": asdict(recipe),
                    "seconds": time.monotonic() - began,
                }
                save_atomically(state, checkpoint)
            if done == recipe.snapshot_at:
                save_atomically(average.state_dict(), work / "snapshot.pt")
            if done % 250 == 0:
                print(json.dumps(evaluate(average, sets)), flush=True)
    finish(average, work, recipe, sets, time.monotonic() - began)


def finish(average: EdgeNetwork, work: Path, recipe: Recipe, sets: dict, seconds: float) -> None:
    """Average the weights before and after settling, store them as FP16, and the figures reached by exactly these."""
    unsettled = torch.load(work / "unsettled.pt", weights_only=True)
    for name, tensor in average.state_dict().items():
        tensor.lerp_(unsettled[name], 0.5)
    weights = {name: tensor.half().contiguous() for name, tensor in average.state_dict().items()}
    save_file(weights, work / "edge.safetensors", metadata={"format": "pt", "family": "edge"})
    average.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    report = {"recipe": asdict(recipe), "minutes": round(seconds / 60, 1), "torch": torch.__version__}
    report |= {"threads": torch.get_num_threads(), "figures": evaluate(average, sets)}
    (work / "edge.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="folder with lr/ and hr/ (DRealSR test crops)")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and results; the same folder resumes")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(arguments.pairs, arguments.work, Recipe(seed=arguments.seed))


if __name__ == "__main__":
    main()
