"""JiT-SR: both conditionings against the slow reference, samplers in every step, guidance, one evaluation, true
sizes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import slow_jit as slow
import slow_sampling
import torch
from family_checks import assert_close, assert_multi_step_at_true_size, bundle_of
from published_files import State, parameters_of
from published_jit import SMALL, layout, write
from slow_reference import Weights
from torch.utils.flop_counter import FlopCounterMode

import zoomrt
from zoomrt.bundle import open_bundle
from zoomrt.bundle.sampling import split_draws, timestep_embedding, trajectory
from zoomrt.errors import CheckpointError, ExportError, UsageError
from zoomrt.export.build import build
from zoomrt.export.forms import several_steps as multi_step_parts
from zoomrt.export.request import BuildRequest
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.jit_sr import FAMILY
from zoomrt.models.networks.blocks.jit import Jit, JitConfig, jit_config_of
from zoomrt.models.networks.jit_sr import Encode, Step, sampling_of
from zoomrt.models.options import given
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph
from zoomrt.runtime.tiles.noise import noise_at

TRUE = {
    "B/16": (JitConfig(), 131_124_480, 188, 40.1, 23.2),
    "B/16 v2": (JitConfig(width=1024, depth=16, heads=16, hidden=2730), 307_681_344, 244, 97.6, 54.1),
    "L/16": (JitConfig(width=1024, depth=24, heads=16, hidden=2730), 458_811_104, 356, 153.4, 81.0),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    path = tmp_path_factory.mktemp("jit") / "checkpoint-last.pth"
    return path, write(path, SMALL)


@pytest.mark.parametrize("name", TRUE)
def test_figures_at_true_size(name: str) -> None:
    config, parameters, tensors, token, concat = TRUE[name]
    shapes = layout(config)
    with torch.device("meta"):
        assert jit_config_of({key: torch.empty(shape) for key, shape in shapes.items()}) == config
        network = Jit(config)
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == shapes
    assert (parameters_of(shapes), len(shapes)) == (parameters, tensors)
    for mode, wanted in (("token", token), ("concat", concat)):
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            shown, mean = Encode(network, mode, guided=False)(torch.empty(1, 3, 64, 64))
            Step(network, mode, 1.0)(torch.empty(1, 3, 256, 256), torch.empty(1, 256), shown, mean)
        assert counter.get_total_flops() / 2e9 == pytest.approx(wanted, rel=0.02)


def guided(w: Weights, x: np.ndarray, t: float, lr: np.ndarray, mode: str, guidance: float) -> np.ndarray:
    """The authors' mixture with a pass that is shown black; they leave it where 0 < t < 1 does not hold."""
    shown = slow.denoise(w, x, t, lr, mode)
    if guidance == 1 or not 0 < t < 1:
        return shown
    black = slow.denoise(w, x, t, 0 * lr, mode)
    return black + guidance * (shown - black)


@pytest.mark.parametrize("mode", ["token", "concat"])
@pytest.mark.parametrize("guidance", [None, 2.5])
def test_one_call_against_the_slow_reference(small: tuple[Path, State], mode: str, guidance: float | None) -> None:
    """Guided too: one batched call is the mixture of two single ones, item by item as its own time has it."""
    path, state = small
    network = FAMILY.network(load_checkpoint(path), given(conditioning=mode, guidance=guidance, steps=2))
    times = (0.0, 1 / 199)
    lr, z = torch.rand(2, 3, 16, 16), torch.randn(2, 3, 64, 64)
    told = torch.from_numpy(np.concatenate([timestep_embedding(t, 256) for t in times]))
    with torch.no_grad():
        values = {"image": lr, "sample": z, "timestep_embedding": told, **network.encode.named({"image": lr})}
        got = network.step.named(values)["model_output"].double().numpy()
    weights = Weights(state)
    for one, picture, x, t in zip(got, lr.double().numpy(), z.double().numpy(), times, strict=True):
        wanted = guided(weights, x, t, picture, mode, guidance or 1.0)
        assert_close(one, wanted, 5e-5)


@pytest.mark.parametrize(("steps", "sampler"), [(5, "heun"), (4, "euler"), (30, "heun"), (1, "heun"), (1, "euler")])
def test_sampler_against_the_equations(steps: int, sampler: str, rng: np.random.Generator) -> None:
    """On a denoiser that is no network; with 30 steps the floor of 1 - t is reached."""
    facts, levels = sampling_of(steps, sampler, 2)
    heun = sampler == "heun"
    assert len(facts.evaluations) == len(levels) == (2 * steps - 1 if heun else steps)
    assert facts.draws == 1
    noise = rng.standard_normal((1, 3, 6, 8))

    def denoise(x, t):
        return np.tanh(x) * (0.5 + t) + np.cos(3 * t)

    draws = [noise.astype(np.float32)]
    moments = list(trajectory(facts, None, draws, lambda x, one: denoise(x, one.timestep).astype(np.float32)))
    states = [moment.sample for moment in moments]
    ends = states[1::2] + states[-1:] if heun and steps > 1 else states
    wanted = list(slow_sampling.flow(noise, steps, denoise, heun))
    assert len(ends) == len(wanted)
    for got, one in zip(ends, wanted, strict=True):
        assert_close(got.astype(np.float64), one, 1e-5)
    if steps == 1:  # what a distilled network answers is the result
        np.testing.assert_allclose(states[0], denoise(noise, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "steps", "sampler", "guidance"),
    [("token", 4, "heun", None), ("concat", 3, "euler", None), ("token", 1, "heun", None), ("token", 2, "heun", 3.0)],
)
def test_bundle(
    tmp_path: Path,
    small: tuple[Path, State],
    mode: str,
    steps: int,
    sampler: str,
    guidance: float | None,
    rng: np.random.Generator,
) -> None:
    """The whole chain against the slow one, and through the upscaler with the noise of the frame's corner."""
    path, state = small
    assert family_of(load_checkpoint(path)) is FAMILY
    options = given(conditioning=mode, steps=steps, sampler=sampler, guidance=guidance)
    manifest = bundle_of(tmp_path / "b", path, options)
    evaluations = 2 * steps - 1 if sampler == "heun" else steps
    assert (manifest.steps, manifest.tile.height, manifest.tile.channels) == (evaluations, 16, 3 + 3 * 16)
    assert set(manifest.graphs) == {"encode", "step"}
    assert manifest.parity["step"].operators["Attention"] == SMALL.depth
    assert manifest.tile.noise is not None
    assert manifest.sampling is not None
    frame = rng.uniform(0, 1, (16, 16, 3)).astype(np.float32)
    lr = frame.transpose(2, 0, 1).astype(np.float64)
    (noise,) = split_draws(manifest.sampling, noise_at(manifest.tile.noise, 0, 0, 16, 16)[None])
    chain = slow_sampling.flow(
        noise[0].astype(np.float64),
        steps,
        lambda x, t: guided(Weights(state), x, t, lr, mode, guidance or 1.0),
        sampler == "heun",
    )
    *_, wanted = chain
    graphs = {part: OnnxRuntimeGraph(tmp_path / "b" / name) for part, name in manifest.graphs.items()}
    encoded = graphs["encode"]({"image": lr[None]})

    def predict(x, one):
        values = {**encoded, "sample": x, "timestep_embedding": timestep_embedding(one.timestep, 256)}
        return graphs["step"](values)["model_output"]

    *_, last = trajectory(manifest.sampling, None, [noise], predict)
    assert_close(last.sample[0].astype(np.float64), wanted, 1e-4)
    with zoomrt.load(tmp_path / "b") as upscaler:
        got = upscaler(frame)
        np.testing.assert_allclose(got, wanted.transpose(1, 2, 0).clip(0, 1), atol=2e-3)
        assert upscaler.evaluations == (evaluations,)
        assert upscaler(frame[:9].repeat(3, axis=1)).shape == (36, 192, 3)


@pytest.mark.parametrize(("part", "call"), [("image_tokens", 1), ("model_output", 1), ("model_output", 3)])
def test_a_graph_that_differs_is_refused(
    tmp_path: Path, small: tuple[Path, State], monkeypatch, part: str, call: int
) -> None:
    """Every output of every part, and the step at every evaluation that is looked at."""
    calls = Counter()

    class Off(OnnxRuntimeGraph):
        def __call__(self, values):
            results = super().__call__(values)
            calls.update(results.keys())
            if part in results and calls[part] == call:
                results[part] = results[part] * np.float32(1.001)
            return results

    monkeypatch.setattr(multi_step_parts, "OnnxRuntimeGraph", Off)
    where = "photograph and noise" if part == "image_tokens" else f"evaluation {call} of 3"
    with pytest.raises(ExportError, match=rf"does not match torch FP32 in {part}, {where}.*need 80 dB"):
        build(BuildRequest(weights=small[0], options={"steps": 2}), tmp_path / "b", use_cache=False)
    assert list(tmp_path.iterdir()) == []


def test_wrong_requests(tmp_path: Path, small: tuple[Path, State]) -> None:
    path, _ = small
    checkpoint = load_checkpoint(path)
    with pytest.raises(UsageError, match=r"unknown conditioning.*Did you mean token"):
        FAMILY.network(checkpoint, {"conditioning": "tokens"})
    with pytest.raises(UsageError, match=r"unknown sampler.*Did you mean heun"):
        FAMILY.network(checkpoint, {"sampler": "huen"})
    for guidance in (float("nan"), float("-inf")):
        with pytest.raises(UsageError, match=r"--guidance: got (nan|-inf), need a number from 0 to 100"):
            FAMILY.network(checkpoint, {"guidance": guidance})
    with pytest.raises(UsageError, match=r"guidance changes nothing in one step.*--guidance 2 --steps 1"):
        FAMILY.network(checkpoint, {"steps": 1, "guidance": 2.0})
    with pytest.raises(UsageError, match="--steps: got 0, need a whole number from 1 to 1000"):
        FAMILY.network(checkpoint, {"steps": 0})
    with pytest.raises(UsageError, match=r"32 LR pixels.*16, as it was trained.*Leave --tile out"):
        build(BuildRequest(weights=path, tile=32), tmp_path / "b", use_cache=False)
    torch.save({"inner": {"lr_posemb": torch.zeros(1, 3, 8)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of jit-sr.*keys like lr_posemb under inner"):
        FAMILY.fitted(load_checkpoint(tmp_path / "w.pth"))


@pytest.mark.parametrize(("width", "evaluations"), [(768, FAMILY.steps), (1024, 199)])
def test_published_steps_are_the_default(tmp_path: Path, width: int, evaluations: int) -> None:
    """Heun 50 for B/16, Heun 100 for the wider ones (flyingbucket/JiTSR)."""
    write(tmp_path / "w.pth", JitConfig(width=width, depth=1, heads=width // 64, grid=2, bottleneck=8, hidden=8))
    network = FAMILY.network(load_checkpoint(tmp_path / "w.pth"))
    assert len(network.sampling.evaluations) == evaluations
    assert FAMILY.steps == 99


def test_fp16(tmp_path: Path, small: tuple[Path, State], rng: np.random.Generator) -> None:
    """On the CPU: emulation of FP16 storage with each extreme tile at another evaluation, and the graphs in FP16."""
    path, _ = small
    options = {"steps": 6}
    build(BuildRequest(weights=path, options=options, precision="fp16"), tmp_path / "b", use_cache=False)
    manifest = open_bundle(tmp_path / "b").manifest
    assert [result.probe for result in manifest.numerics.results] == [
        "photograph at evaluation 1",
        "noise at evaluation 3",
        "flat at evaluation 6",
        "black at evaluation 9",
        "white at evaluation 11",
    ]
    with zoomrt.load(tmp_path / "b") as upscaler:
        assert np.ptp(upscaler(rng.integers(0, 256, (16, 16, 3), np.uint8))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["token", "concat"])
@pytest.mark.parametrize("name", ["B/16", "B/16 v2", "L/16"])
def test_engines_at_true_size(tmp_path: Path, name: str, mode: str) -> None:
    """Sampled in two steps on the CPU. What is built is without the embedder of the other conditioning."""
    config, parameters, *_ = TRUE[name]
    write(tmp_path / "w.pth", config)
    other = "x_embedder." if mode == "concat" else "x_embedder_concat."
    unused = parameters_of({key: shape for key, shape in layout(config).items() if key.startswith(other)})
    attentions = {"step": (config.depth, config.depth)}
    options = {"steps": 2, "conditioning": mode}
    assert_multi_step_at_true_size(tmp_path, tmp_path / "w.pth", parameters - unused, attentions, options)
