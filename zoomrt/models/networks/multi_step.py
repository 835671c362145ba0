"""A multi-step model as a network: encoder, one step, decoder and maybe a policy, with the sampler that joins them.

What looks into networks elsewhere (ranges, FP16, memory) wants one tensor in and one out. `Denoising` gives it that:
the encoder and one evaluation, each item of a batch at its own timestep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.bundle import NoiseFacts, SamplingFacts
from zoomrt.bundle.sampling import time_features

__all__ = ["Denoising", "Level", "MultiStepNetwork", "Part"]


class Part(nn.Module):
    """One graph of a multi-step model. `inputs` and `outputs` are its names, in the order of arguments and results; for
    what they mean see `runtime/sessions/multi_step.py`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def named(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on the values that it asks for; outputs by name."""
        results = self(*(values[name] for name in self.inputs))
        return dict(zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=True))


@dataclass(frozen=True)
class Level:
    """What the state is made of at one evaluation: signal * (clean state) + noise * (standard normal)."""

    signal: float
    noise: float


class MultiStepNetwork(nn.Module):
    """The parts of a model that samples, and how.

    encode : `lr` (N, 3, h, w) -> what `step` asks for besides `state` and `told`, and `base` if the start needs it.
    step : at least `state` (N, C, H, W) and `told` (N, features) -> `answer`, shaped as the state.
    decode : `state` -> `sr`; None where the state is the picture.
    policy : `state`, `told`, `memory` (1, M) and perhaps `following` -> `accept` (1, 1), above 0 for yes, and
        `remembered`, the next `memory`.
    features : numbers that tell the timestep. levels : one for each evaluation. seed : of the noise.
    """

    def __init__(
        self,
        *,
        encode: Part,
        step: Part,
        decode: Part | None,
        sampling: SamplingFacts,
        levels: tuple[Level, ...],
        features: int,
        seed: int,
        policy: Part | None = None,
        memory: int = 0,
    ) -> None:
        super().__init__()
        assert len(levels) == len(sampling.evaluations)
        self.encode, self.step, self.decode, self.policy = encode, step, decode, policy
        self.sampling, self.levels, self.features, self.memory = sampling, levels, features, memory
        self.noise = NoiseFacts(channels=sampling.noise_channels, seed=seed)

    def parts(self) -> dict[str, Part]:
        """Those that there are, by the name of their graph."""
        found = {name: getattr(self, name) for name in ("encode", "step", "decode", "policy")}
        return {name: part for name, part in found.items() if part is not None}

    def told(self, index: int) -> Tensor:
        """(1, features) float32 of one evaluation."""
        return torch.from_numpy(time_features(self.sampling.evaluations[index].timestep, self.features))

    def state_at(self, index: int, lr: Tensor, encoded: Mapping[str, Tensor], random: np.random.Generator) -> Tensor:
        """What the network sees at one evaluation, gain included, without running those before it: the enlarged tile,
        or its latent, under the noise of that level."""
        level, facts = self.levels[index], self.sampling
        clean = encoded["base"] if facts.base else F.interpolate(lr, scale_factor=facts.pixels, mode="bicubic")
        noise = torch.from_numpy(random.standard_normal(clean.shape).astype(np.float32))
        return facts.evaluations[index].gain * (level.signal * clean + level.noise * noise)

    def forward(self, lr_and_noise: Tensor) -> Tensor:
        """(N, 3 + noise channels, h, w) -> (N, 3, scale*h, scale*w) after one evaluation; the others take as much
        memory, which is what this is for."""
        lr, facts = lr_and_noise[:, :3], self.sampling
        start = F.pixel_shuffle(lr_and_noise[:, 3 : 3 + facts.channels * facts.pixels**2], facts.pixels)
        told = lr_and_noise.new_zeros(len(lr), self.features)
        values = {"lr": lr, "state": start, "told": told, **self.encode.named({"lr": lr})}
        answer = self.step.named(values)["answer"]
        return answer if self.decode is None else self.decode.named({"state": answer})["sr"]


class Denoising(nn.Module):
    """Encoder and one evaluation as a function of one tensor: (N, 3 + C * pixels^2 + 1, h, w) -> (N, C or 2 C, H, W).

    Channels: the tile, the state with each LR pixel's square of state pixels as channels, and the timestep's features
    in the first numbers of the last one. Result: the network's answer, and the encoder's `base` if there is one.
    """

    def __init__(self, network: MultiStepNetwork) -> None:
        super().__init__()
        self.encode, self.step = network.encode, network.step
        self.pixels, self.features = network.sampling.pixels, network.features

    def forward(self, packed: Tensor) -> Tensor:
        lr, told = packed[:, :3], packed[:, -1].flatten(1)[:, : self.features]
        encoded = self.encode.named({"lr": lr})
        values = {"lr": lr, "state": F.pixel_shuffle(packed[:, 3:-1], self.pixels), "told": told, **encoded}
        answer = self.step.named(values)["answer"]
        return torch.cat([answer, encoded["base"]], dim=1) if "base" in encoded else answer

    def pack(self, lr: Tensor, state: Tensor, told: Tensor) -> Tensor:
        """The input for one item; lr (1, 3, h, w)."""
        last = lr.new_zeros(1, 1, *lr.shape[2:])
        last.view(-1)[: self.features] = told[0]
        return torch.cat([lr, F.pixel_unshuffle(state, self.pixels), last], dim=1)
