"""SkipDiff (AAAI 2024): a few large denoising steps, then small ones that a policy may skip, per tile.

Facts: doi 10.1609/aaai.v38i5.28195. Nothing was published but the idea, so this is the contract with our own choices
where the paper is silent (docs/models/skipdiff.md lists them): an SR3-like network, SR3's noise schedule, DDIM steps, a
small GRU policy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from zoomrt.bundle import Evaluation, SamplingFacts
from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import Checkpoint, load_weights
from zoomrt.models.family import Family
from zoomrt.models.layout import UnknownVariant, sides
from zoomrt.models.networks.blocks.bicubic import TORCH, Enlarge
from zoomrt.models.networks.blocks.multi_step import Component, Level, MultiStepNetwork
from zoomrt.models.networks.blocks.sr3_unet import Sr3UNet, sr3_config_of

SCALE = 4
TRAINED_STEPS, BETAS = 2000, (1e-6, 1e-2)  # SR3's schedule; SkipDiff's was not published
FINE_SHARE = 0.4  # of the trained steps are left to the fine stage
COARSE_PART = 5  # one step of so many is coarse
MOST_STEPS = 1000  # beyond, fine steps would be less than one trained step apart
SEED = 12345
PICTURE = 3
_POLICY = ("look.0.weight", "accept.weight")


class Encode(Component):
    inputs, outputs = ("image",), ("enlarged_image",)

    def __init__(self) -> None:
        super().__init__()
        self.enlarge = Enlarge(SCALE, TORCH)

    def forward(self, lr: Tensor) -> Tensor:
        out: Tensor = self.enlarge(lr)
        return out


class Step(Component):
    """The noise in the state, as the network guesses it."""

    inputs, outputs = ("sample", "enlarged_image", "timestep_embedding"), ("model_output",)

    def __init__(self, unet: Sr3UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, state: Tensor, enlarged: Tensor, temb: Tensor) -> Tensor:
        out: Tensor = self.unet(state, enlarged, temb)
        return out


class Policy(Component):
    """Whether an evaluation counts, from the state and the enlarged picture, or also from the state that would follow.

    width : of the features of both. memory : of the GRU, which sees one tile's decisions in turn.
    """

    outputs = ("accept_score", "next_hidden_state")

    def __init__(self, width: int, memory: int, temb: int, *, after: bool) -> None:
        super().__init__()
        asked = ("sample", "enlarged_image", "timestep_embedding", "hidden_state")
        self.inputs = (*asked, "prev_sample") if after else asked
        channels = PICTURE * (3 if after else 2)
        self.look = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=4), nn.SiLU(), nn.Conv2d(width, width, 4, stride=4), nn.SiLU()
        )
        self.told = nn.Linear(temb, width)
        self.incoming, self.remembered = nn.Linear(width, 3 * memory), nn.Linear(memory, 3 * memory)
        self.accept = nn.Linear(memory, 1)

    def forward(
        self, state: Tensor, enlarged: Tensor, temb: Tensor, memory: Tensor, *following: Tensor
    ) -> tuple[Tensor, Tensor]:
        """-> accept (1, 1), above 0 for yes, and the next memory (1, memory): a gated recurrent unit (Cho 2014)."""
        seen = self.look(torch.cat([state, enlarged, *following], dim=1)).mean(dim=(2, 3)) + self.told(temb)
        reset, update, new = self.incoming(seen).chunk(3, dim=1)
        reset_h, update_h, new_h = self.remembered(memory).chunk(3, dim=1)
        update = torch.sigmoid(update + update_h)
        new = torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h)
        memory = new + update * (memory - new)
        return self.accept(memory), memory


def network(family: Family, checkpoint: Checkpoint, *, steps: int | None = None) -> MultiStepNetwork:
    """See `Family.module`. steps : coarse and fine ones together."""
    denoiser, state = family.layout.tensors(checkpoint), checkpoint.find(*_POLICY)
    policy = checkpoint.tensors(state) if state else {}
    with family.layout.reading(checkpoint), torch.device("meta"):
        unet = Sr3UNet(config := sr3_config_of(denoiser))
        decider = _policy_of(policy, config.widths[0]) if policy else None
    load_weights(unet, denoiser, checkpoint.path)
    if decider is not None:
        load_weights(decider, policy, checkpoint.path)
    after = decider is not None and "prev_sample" in decider.inputs
    decide: Literal["before", "after"] | None = None if decider is None else "after" if after else "before"
    sampling, levels = sampling_of(family.steps if steps is None else steps, decide)
    return MultiStepNetwork(
        encode=Encode(),
        step=Step(unet),
        decode=None,
        policy=decider,
        sampling=sampling,
        levels=levels,
        features=config.widths[0],
        memory=0 if decider is None else decider.accept.in_features,
        seed=SEED,
    ).eval()


def sampling_of(steps: int, decide: Literal["before", "after"] | None) -> tuple[SamplingFacts, tuple[Level, ...]]:
    """Coarse steps with large strides, then fine ones, of which those may be skipped; all of them DDIM without noise.

    decide : `before` or `after`; None where nothing is skipped. UsageError for less than two steps, and for
    more than the schedule has room for.
    """
    if not 2 <= steps <= MOST_STEPS:
        raise UsageError(
            "cannot sample in two stages",
            seen=f"--steps {steps}",
            needed=f"2 to {MOST_STEPS}",
            remedy="Use --steps 20.",
        )
    coarse = max(1, steps // COARSE_PART)
    middle = round(TRAINED_STEPS * FINE_SHARE)
    times = [round(TRAINED_STEPS + (middle - TRAINED_STEPS) * i / coarse) for i in range(coarse)]
    times += [round(middle * (1 - i / (steps - coarse))) for i in range(steps - coarse + 1)]
    kept = _signal_shares()
    evaluations, levels = [], []
    for i, (t, following) in enumerate(itertools.pairwise(times)):
        signal, noise = math.sqrt(kept[t]), math.sqrt(1 - kept[t])
        next_signal, next_noise = math.sqrt(kept[following]), math.sqrt(1 - kept[following])
        ratio = next_signal / signal
        evaluations.append(
            Evaluation(
                timestep=signal,
                prev_sample=(ratio, 0.0, next_noise - ratio * noise, 0.0),
                skippable=decide is not None and i >= coarse,
            )
        )
        levels.append(Level(signal=signal, noise=noise))
    sampling = SamplingFacts(
        channels=PICTURE, pixels=SCALE, image_latents=0.0, noise=1.0, evaluations=tuple(evaluations), decide=decide
    )
    return sampling, tuple(levels)


def _signal_shares() -> list[float]:
    """Variance of the picture in the state after t steps of noise, t = 0 .. TRAINED_STEPS."""
    low, high = BETAS
    shares = [1.0]
    for t in range(TRAINED_STEPS):
        shares.append(shares[-1] * (1 - (low + (high - low) * t / (TRAINED_STEPS - 1))))
    return shares


def _policy_of(tensors: Mapping[str, Tensor], temb: int) -> Policy:
    width, channels = sides(tensors, "look.0.weight", 4)[:2]
    if channels not in (2 * PICTURE, 3 * PICTURE):
        raise UnknownVariant(f"a policy that sees {channels} channels (look.0.weight)", "6, or 9 to decide afterwards")
    return Policy(width, sides(tensors, "accept.weight", 2)[1], temb, after=channels == 3 * PICTURE)
