"""JiT-SR: JiT's pixel transformer, shown the LR picture, sampled from noise in up to 199 evaluations.

Facts: github.com/flyingbucket/JiTSR. The file does not say how it was conditioned (--conditioning token or concat):
both embedders are in every file. `--steps 1` is one evaluation from pure noise, whose answer is the result: the entry
for a distilled file.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoomrt.bundle import Evaluation, SamplingFacts
from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import Checkpoint, loaded
from zoomrt.models.family import Family, SizeRule, TilingAdvice
from zoomrt.models.networks.blocks.bicubic import TORCH, Enlarge
from zoomrt.models.networks.blocks.jit import FREQUENCIES, START, Jit, JitConfig, jit_config_of
from zoomrt.models.networks.blocks.multi_step import Component, Level, MultiStepNetwork

FLOOR = 0.05  # of 1 - t in a velocity
SEED = 12345
WIDE = 1024  # from this width on the authors take 100 steps, below it 50


class Encode(Component):
    """What does not change from step to step: LR tokens or the enlarged picture, and the tokens' mean.

    With guidance a second item follows each first, of a black picture: the authors' "unconditional".
    """

    inputs = ("image",)

    def __init__(self, network: Jit, conditioning: str, *, guided: bool) -> None:
        super().__init__()
        self.outputs = ("image_tokens" if conditioning == "token" else "enlarged_image", "pooled_tokens")
        self.embedder, self.positions, self.guided = network.lr_embedder, network.lr_posemb, guided
        self.enlarge = None if conditioning == "token" else Enlarge(network.config.scale, TORCH)

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        if self.guided:
            lr = torch.cat([lr, torch.zeros_like(lr)])
        tokens = self.embedder(lr) + self.positions
        return tokens if self.enlarge is None else self.enlarge(lr), tokens.mean(dim=1)


class Step(Component):
    """The clean picture, as the transformer guesses it.

    guidance : 1 is none, and one pass; otherwise both passes go through together. As the authors have it, it counts
        where 0 < t < 1: the evaluation of pure noise answers unguided.
    """

    outputs = ("model_output",)

    def __init__(self, network: Jit, conditioning: str, guidance: float) -> None:
        super().__init__()
        self.joins = conditioning == "token"
        shown = "image_tokens" if self.joins else "enlarged_image"
        self.inputs = ("sample", "timestep_embedding", shown, "pooled_tokens")
        self.guidance, self.config = guidance, network.config
        self.embedder = network.x_embedder if self.joins else network.x_embedder_concat
        self.pos_embed, self.t_embedder = network.pos_embed, network.t_embedder
        self.blocks, self.final_layer = network.blocks, network.final_layer
        # tokens of the LR picture, in front, are not turned
        angles = torch.cat([torch.zeros_like(network.angles), network.angles])
        self.cosines: Tensor
        self.sines: Tensor
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)

    def forward(self, state: Tensor, temb: Tensor, shown: Tensor, mean: Tensor) -> Tensor:
        sine = temb[:, FREQUENCIES // 2, None, None, None]  # of t itself; no evaluation is at t = 1
        guided = self.guidance != 1
        if guided:
            state, temb = torch.cat([state, state]), torch.cat([temb, temb])
        c = self.t_embedder(temb) + mean
        x = self.embedder(state if self.joins else torch.cat([state, shown], dim=1)) + self.pos_embed
        own = x.shape[1]
        for i, block in enumerate(self.blocks):
            if self.joins and i == START:
                x = torch.cat([shown, x], dim=1)
            seen = slice(-x.shape[1], None)
            x = block(x, c, self.cosines[seen], self.sines[seen])
        model_output = self._picture(self.final_layer(x[:, -own:], c))
        if guided:
            conditional, unconditional = model_output.chunk(2)
            guidance = torch.where(sine > 0, self.guidance, 1.0)
            model_output = unconditional + guidance * (conditional - unconditional)
        return model_output

    def _picture(self, patches: Tensor) -> Tensor:
        """(N, tokens, patch * patch * 3) -> (N, 3, H, W)."""
        grid, patch = self.config.grid, self.config.patch
        cells = patches.reshape(-1, grid, grid, patch, patch, 3).permute(0, 5, 1, 3, 2, 4)
        return cells.reshape(-1, 3, grid * patch, grid * patch)


def fitted(family: Family, checkpoint: Checkpoint) -> Family:
    """See `Family.module`."""
    config = _config(family, checkpoint)
    side = config.grid * config.lr_patch
    tiling = TilingAdvice(tile=side, overlap=side // 4, context=side // 16)
    size = SizeRule(minimum=side, multiple_of=side, fixed=True)
    return replace(family, scale=config.scale, size=size, tiling=tiling)


def network(
    family: Family,
    checkpoint: Checkpoint,
    *,
    steps: int | None = None,
    sampler: str = "heun",
    conditioning: str = "token",
    guidance: float = 1.0,
) -> MultiStepNetwork:
    """See `Family.module`. guidance : how far the conditional answer is driven away from the unconditional one."""
    config = _config(family, checkpoint)
    steps = steps if steps is not None else (100 if config.width >= WIDE else 50)
    if guidance != 1 and steps == 1:
        raise UsageError(
            "guidance changes nothing in one step",
            seen=f"--guidance {guidance:g} --steps 1",
            needed="two steps or more: the evaluation of pure noise is not guided",
            remedy="Leave --guidance out.",
        )
    jit = loaded(lambda: Jit(config), family.layout.tensors(checkpoint), checkpoint.path)
    sampling, levels = sampling_of(steps, sampler, config.scale)
    return MultiStepNetwork(
        encode=Encode(jit, conditioning, guided=guidance != 1),
        step=Step(jit, conditioning, guidance),
        decode=None,
        sampling=sampling,
        levels=levels,
        features=FREQUENCIES,
        seed=SEED,
    ).eval()


def _config(family: Family, checkpoint: Checkpoint) -> JitConfig:
    tensors = family.layout.tensors(checkpoint)
    with family.layout.reading(checkpoint):
        return jit_config_of(tensors)


def sampling_of(steps: int, sampler: str, scale: int) -> tuple[SamplingFacts, tuple[Level, ...]]:
    """From noise at t = 0 to the picture at t = 1 (JiT, arXiv 2511.13720): x moves by v = (answer - x) / max(1 - t,
    0.05).

    Heun's steps evaluate twice, but for the last, which is Euler's.
    """
    length = 1 / steps
    evaluations, times = [], []
    for i in range(steps):
        share = length / max(1 - i * length, FLOOR)
        corrected = sampler == "heun" and i < steps - 1
        held = (1 - share / 2, 0.0, share / 2) if corrected else (0.0, 0.0, 0.0)
        evaluations.append(Evaluation(timestep=i * length, prev_sample=(1 - share, 0.0, share, 0.0), held=held))
        times.append(i * length)
        if corrected:
            after = (i + 1) * length
            half = length / 2 / max(1 - after, FLOOR)
            evaluations.append(Evaluation(timestep=after, prev_sample=(-half, 1.0, half, 0.0)))
            times.append(after)
    sampling = SamplingFacts(channels=3, pixels=scale, image_latents=0.0, noise=1.0, evaluations=tuple(evaluations))
    return sampling, tuple(Level(signal=t, noise=1 - t) for t in times)
