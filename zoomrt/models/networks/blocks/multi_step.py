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
from zoomrt.bundle.sampling import timestep_embedding


class Component(nn.Module):
    """One graph of a multi-step model. `inputs` and `outputs` are its names, in the order of arguments and results; for
    what they mean see `runtime/sessions/common/multi_step.py`."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def named(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on the values that it asks for; outputs by name."""
        results = self(*(values[name] for name in self.inputs))
        return dict(zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=True))


@dataclass(frozen=True)
class Level:
    """What the sample is made of at one evaluation: signal * (clean sample) + noise * (standard normal)."""

    signal: float
    noise: float


class MultiStepNetwork(nn.Module):
    """The components of a model that samples, and how.

    encode : `image` (N, 3, h, w) -> what `step` asks for besides `sample` and `timestep_embedding`, and
        `image_latents` if the start needs them.
    step : at least `sample` (N, C, H, W) and `timestep_embedding` (N, features) -> `model_output`, shaped as `sample`.
    decode : `sample` -> `upscaled_image`; None where the last sample is the picture.
    policy : `sample`, `timestep_embedding`, `hidden_state` (1, memory) and perhaps `prev_sample` -> `accept_score`
        (1, 1), above 0 for yes, and `next_hidden_state`.
    features : width of the timestep's embedding. levels : one for each evaluation. seed : of the noise.
    """

    def __init__(
        self,
        *,
        encode: Component,
        step: Component,
        decode: Component | None,
        sampling: SamplingFacts,
        levels: tuple[Level, ...],
        features: int,
        seed: int,
        policy: Component | None = None,
        memory: int = 0,
    ) -> None:
        super().__init__()
        assert len(levels) == len(sampling.evaluations)
        self.encode, self.step, self.decode, self.policy = encode, step, decode, policy
        self.sampling, self.levels, self.features, self.memory = sampling, levels, features, memory
        self.noise = NoiseFacts(channels=sampling.noise_channels, seed=seed)

    def components(self) -> dict[str, Component]:
        """Those that there are, by the name of their graph."""
        found = {name: getattr(self, name) for name in ("encode", "step", "decode", "policy")}
        return {name: component for name, component in found.items() if component is not None}

    def timestep_embedding(self, index: int) -> Tensor:
        """(1, features) float32 of one evaluation."""
        return torch.from_numpy(timestep_embedding(self.sampling.evaluations[index].timestep, self.features))

    def sample_at(self, index: int, lr: Tensor, encoded: Mapping[str, Tensor], random: np.random.Generator) -> Tensor:
        """What the network sees at one evaluation, gain included, without running those before it: the enlarged tile,
        or its latent, under the noise of that level."""
        level, facts = self.levels[index], self.sampling
        if facts.image_latents:
            clean = encoded["image_latents"]
        else:
            clean = F.interpolate(lr, scale_factor=facts.pixels, mode="bicubic")
        noise = torch.from_numpy(random.standard_normal(clean.shape).astype(np.float32))
        return facts.evaluations[index].gain * (level.signal * clean + level.noise * noise)

    def forward(self, lr_and_noise: Tensor) -> Tensor:
        """(N, 3 + noise channels, h, w) -> (N, 3, scale*h, scale*w) after one evaluation; the others take as much
        memory, which is what this is for."""
        lr, facts = lr_and_noise[:, :3], self.sampling
        sample = F.pixel_shuffle(lr_and_noise[:, 3 : 3 + facts.channels * facts.pixels**2], facts.pixels)
        temb = lr_and_noise.new_zeros(len(lr), self.features)
        values = {"image": lr, "sample": sample, "timestep_embedding": temb, **self.encode.named({"image": lr})}
        model_output = self.step.named(values)["model_output"]
        if self.decode is None:
            return model_output
        return self.decode.named({"sample": model_output})["upscaled_image"]


class Denoising(nn.Module):
    """Encoder and one evaluation as a function of one tensor: (N, 3 + C * pixels^2 + 1, h, w) -> (N, C or 2 C, H, W).

    Channels: the tile, the sample with each LR pixel's square of sample pixels as channels, and the embedded timestep
    in the first numbers of the last one. Result: `model_output`, and the encoder's `image_latents` if there are any.
    """

    def __init__(self, network: MultiStepNetwork) -> None:
        super().__init__()
        self.encode, self.step = network.encode, network.step
        self.pixels, self.features = network.sampling.pixels, network.features

    def forward(self, packed: Tensor) -> Tensor:
        lr, temb = packed[:, :3], packed[:, -1].flatten(1)[:, : self.features]
        encoded = self.encode.named({"image": lr})
        sample = F.pixel_shuffle(packed[:, 3:-1], self.pixels)
        values = {"image": lr, "sample": sample, "timestep_embedding": temb, **encoded}
        model_output = self.step.named(values)["model_output"]
        if "image_latents" not in encoded:
            return model_output
        return torch.cat([model_output, encoded["image_latents"]], dim=1)

    def pack(self, lr: Tensor, sample: Tensor, temb: Tensor) -> Tensor:
        """The input for one item; lr (1, 3, h, w)."""
        last = lr.new_zeros(1, 1, *lr.shape[2:])
        last.view(-1)[: self.features] = temb[0]
        return torch.cat([lr, F.pixel_unshuffle(sample, self.pixels), last], dim=1)
