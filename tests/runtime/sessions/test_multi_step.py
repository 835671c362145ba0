"""Multi-step models behind the session contract: wiring by name, calls per tile, and what a broken part is called."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from runtime_helpers import facts, manifest
from seeds import rng_for

from zoomrt.bundle import Evaluation, NoiseFacts, SamplingFacts
from zoomrt.bundle.sampling import split_draws, timestep_embedding, trajectory
from zoomrt.errors import BundleError, RuntimeFault
from zoomrt.runtime.sessions.common.multi_step import MultiStepSession
from zoomrt.runtime.tiles.noise import noise_at
from zoomrt.runtime.upscaler import Upscaler

SAMPLING = SamplingFacts(
    channels=3,
    pixels=4,
    image_latents=0.0,
    noise=1.0,
    evaluations=tuple(
        Evaluation(timestep=t, prev_sample=(0.5, 0.0, 0.5, 0.0), skippable=t < 2) for t in (2.0, 1.0, 0.5)
    ),
    decide="before",
)
TILE = facts(height=8, width=8, overlap=4, context=1, noise=NoiseFacts(channels=48, seed=3))


class FakeGraph:
    """A function of named values; `seen` lists what it was given."""

    def __init__(self, inputs: dict[str, tuple[int, ...]], outputs: tuple[str, ...], function: Callable) -> None:
        self.inputs, self.outputs, self.function, self.closed = inputs, outputs, function, 0
        self.seen: list[dict[str, np.ndarray]] = []

    def __call__(self, values):
        given = {name: np.array(values[name]) for name in self.inputs}
        self.seen.append(given)
        return self.function(**given)

    def close(self) -> None:
        self.closed += 1


def policy(hidden_state: np.ndarray, timestep_embedding: np.ndarray) -> dict[str, np.ndarray]:  # noqa: ARG001
    return {"accept_score": 0.5 - hidden_state[:, :1], "next_hidden_state": hidden_state + 1}


def graphs(answer=lambda state, shown: np.tanh(state) + shown) -> dict[str, FakeGraph]:
    return {
        "encode": FakeGraph(
            {"image": (1, 3, 8, 8)}, ("shown",), lambda image: {"shown": image.repeat(4, axis=2).repeat(4, axis=3)}
        ),
        "step": FakeGraph(
            {"sample": (1, 3, 32, 32), "timestep_embedding": (1, 6), "shown": (1, 3, 32, 32)},
            ("model_output",),
            lambda sample, timestep_embedding, shown: {"model_output": answer(sample, shown).astype(np.float32)},  # noqa: ARG005
        ),
        "policy": FakeGraph(
            {"hidden_state": (1, 2), "timestep_embedding": (1, 6)},
            ("accept_score", "next_hidden_state"),
            policy,
        ),
    }


def batch() -> np.ndarray:
    return rng_for("batch").standard_normal((1, 51, 8, 8)).astype(np.float32)


def test_parts_are_joined_by_name() -> None:
    """The first decision is yes, the second, which remembers it, no; each tile begins without memory."""
    parts, tile = graphs(), batch()
    session = MultiStepSession(TILE, SAMPLING, parts)
    for _ in range(2):
        got = session.run(tile)
        assert session.evaluations == 2
    shown = tile[:, :3].repeat(4, axis=2).repeat(4, axis=3).astype(np.float64)
    x = tile[:, 3:].reshape(1, 3, 4, 4, 8, 8).transpose(0, 1, 4, 2, 5, 3).reshape(1, 3, 32, 32).astype(np.float64)
    for _ in range(2):
        x = 0.5 * x + 0.5 * (np.tanh(x) + shown)
    np.testing.assert_allclose(got, x, atol=1e-5)
    assert [len(parts[name].seen) for name in ("encode", "step", "policy")] == [2, 4, 4]
    assert [float(one["hidden_state"][0, 0]) for one in parts["policy"].seen] == [0, 1, 0, 1]
    np.testing.assert_array_equal(parts["step"].seen[1]["timestep_embedding"], timestep_embedding(1.0, 6))
    session.close()
    session.close()
    assert [part.closed for part in parts.values()] == [1, 1, 1]


@pytest.mark.parametrize("size", [(8, 8), (20, 27), (6, 30)])
def test_seams_do_not_show_the_noise(size: tuple[int, int], rng: np.random.Generator) -> None:
    """A network that sees single pixels gives the same frame in tiles as in one pass, if and only if all tiles see the
    same noise there, at the start and in every step."""
    noisy = tuple(Evaluation(timestep=t, prev_sample=(0.5, 0.0, 0.5, t)) for t in (0.75, 0.25, 0.0))
    sampling = msgspec.structs.replace(SAMPLING, evaluations=noisy, decide=None)
    assert sampling.draws == 3
    tile = msgspec.structs.replace(TILE, noise=NoiseFacts(channels=3 * 48, seed=3))
    parts = {name: graph for name, graph in graphs().items() if name != "policy"}
    frame = rng.uniform(0, 1, (*size, 3)).astype(np.float32)
    upscaler = Upscaler(manifest(tile), MultiStepSession(tile, sampling, parts))
    got = upscaler(frame)
    low, high = tile.value_range
    shown = (frame * (high - low) + low).transpose(2, 0, 1)[None].repeat(4, axis=2).repeat(4, axis=3)
    draws = split_draws(sampling, noise_at(tile.noise, 0, 0, *size)[None])
    *_, last = trajectory(sampling, None, draws, lambda x, _one: np.tanh(x) + shown)
    wanted = (last.sample[0].transpose(1, 2, 0) - low) / (high - low)
    np.testing.assert_allclose(got, wanted.clip(0, 1), atol=1e-5)
    assert np.ptp(wanted) > 0.5
    assert upscaler.evaluations == (3,) * len(upscaler.evaluations)


def test_a_value_that_is_not_finite_names_the_timestep() -> None:
    def broken(state, shown):
        answer = state + shown
        answer[0, 0, 0, :2] = np.nan
        return answer

    with pytest.raises(RuntimeFault, match=r"at timestep 2.*2 of 3072 values"):
        MultiStepSession(TILE, SAMPLING, graphs(broken)).run(batch())


def test_a_policy_that_does_not_answer_is_no_refusal() -> None:
    parts = graphs()
    parts["policy"].function = lambda **given: {name: one * np.nan for name, one in policy(**given).items()}
    with pytest.raises(RuntimeFault, match=r"the policy failed.*at timestep 1.*nan"):
        MultiStepSession(TILE, SAMPLING, parts).run(batch())


def test_what_does_not_fit_is_named() -> None:
    parts = graphs()
    with pytest.raises(BundleError, match=r"tile\.noise.*47 channels.*48 channels"):
        MultiStepSession(msgspec.structs.replace(TILE, noise=NoiseFacts(channels=47, seed=3)), SAMPLING, parts)
    with pytest.raises(BundleError, match=r"graphs.*encode and step"):
        MultiStepSession(TILE, SAMPLING, {"step": parts["step"]})
    with pytest.raises(BundleError, match=r"sampling\.decide.*a graph policy"):
        MultiStepSession(TILE, SAMPLING, {name: parts[name] for name in ("encode", "step")})
