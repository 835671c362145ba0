"""Multi-step models behind the session contract: encode a tile, loop over the step graph, decode.

The graphs are named `encode`, `step`, `decode` and `policy`, and wired by the names of their inputs and outputs, which
are diffusers' words where it has one:

=====================  ============  ===================================================================================
name                   made by       what it is
=====================  ============  ===================================================================================
`image`                the runtime   the low-resolution tile, (1, 3, h, w), in the tile's value range
`image_latents`        `encode`      what the first sample is made of besides noise, shaped as `sample`
`sample`               the sampler   x, (1, C, H, W)
`timestep_embedding`   the sampler   (1, features), see `zoomrt/bundle/sampling.py`
`model_output`         `step`        the network's prediction, shaped as `sample`
`prev_sample`          the sampler   the next x; timesteps count down, so diffusers calls it the previous one
`hidden_state`         the runtime   (1, M): zeros for a new tile, then what the policy gave as `next_hidden_state`
`accept_score`         `policy`      (1, 1): the evaluation counts where it is above 0
`next_hidden_state`    `policy`      (1, M)
`upscaled_image`       `decode`      (1, 3, scale * h, scale * w), in the tile's value range
=====================  ============  ===================================================================================

Anything else that a graph asks for is an output of `encode`. The one graph of a one-step model takes `image`, with the
start noise as further channels, and gives `upscaled_image`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Evaluation, SamplingFacts, TileFacts
from zoomrt.bundle.sampling import split_draws, timestep_embedding, trajectory
from zoomrt.errors import BundleError, RuntimeFault
from zoomrt.runtime.session import Session


class Graph(Protocol):
    """One loaded graph of a backend; the dtypes of arrays that go in do not matter."""

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names."""

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name. `values` may hold more than the inputs. Raises RuntimeFault or OutOfMemory."""

    def close(self) -> None:
        """Release it; may be called again."""


class MultiStepSession(Session):
    """The graphs of a multi-step bundle, one tile at a time.

    graphs : name -> graph, see above. Unlike one-step sessions it allocates a few samples per evaluation.

    Raises BundleError where they do not fit what the manifest says.
    """

    def __init__(self, tile: TileFacts, sampling: SamplingFacts, graphs: Mapping[str, Graph]) -> None:
        super().__init__(tile)
        _check(tile, sampling, graphs)
        self._sampling, self._graphs = sampling, dict(graphs)
        self._features = graphs["step"].inputs["timestep_embedding"][1]

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        facts, graphs = self._sampling, self._graphs
        values: dict[str, NDArray[Any]] = {"image": batch[:, :3]}
        values |= graphs["encode"](values)
        if "policy" in graphs:
            values["hidden_state"] = np.zeros(graphs["policy"].inputs["hidden_state"], np.float32)

        def known(sample: NDArray[np.float32], one: Evaluation) -> dict[str, NDArray[Any]]:
            return {**values, "sample": sample, "timestep_embedding": timestep_embedding(one.timestep, self._features)}

        def predict(sample: NDArray[np.float32], one: Evaluation) -> NDArray[np.float32]:
            model_output = graphs["step"](known(sample, one))["model_output"]
            _check_shape("model_output of graph step", model_output, sample.shape)
            if not np.isfinite(model_output).all():
                broken = model_output.size - np.count_nonzero(np.isfinite(model_output))
                seen = f"{broken} of {model_output.size} values NaN or infinite"
                what = f"the engine failed on a tile at timestep {one.timestep:g}"
                remedy = "Build with --precision fp32: half precision overflowed, or the weights are damaged."
                raise RuntimeFault(what, seen=seen, needed="finite values", remedy=remedy)
            return model_output

        def decide(sample: NDArray[np.float32], prev_sample: NDArray[np.float32] | None, one: Evaluation) -> bool:
            more = {} if prev_sample is None else {"prev_sample": prev_sample}
            decision = graphs["policy"]({**known(sample, one), **more})
            values["hidden_state"] = decision["next_hidden_state"]
            _check_shape("accept_score of graph policy", decision["accept_score"], (1, 1))
            score = float(decision["accept_score"].item())
            if not math.isfinite(score):
                what = f"the policy failed on a tile at timestep {one.timestep:g}"
                raise RuntimeFault(what, seen=score, needed="a number", remedy="Check the weights of the policy.")
            return score > 0

        latents = values["image_latents"].astype(np.float32) if facts.image_latents else None
        if latents is not None:
            _check_shape("image_latents of graph encode", latents, _sample_shape(self.tile, facts))
        draws = split_draws(facts, batch[:, 3:].astype(np.float32))
        for moment in trajectory(facts, latents, draws, predict, decide if "policy" in graphs else None):
            self.evaluations = moment.calls
        sample = moment.sample
        picture = graphs["decode"]({"sample": sample})["upscaled_image"] if "decode" in graphs else sample
        return picture.astype(self.tile.dtype)

    def _release(self) -> None:
        for graph in self._graphs.values():
            graph.close()


def _sample_shape(tile: TileFacts, sampling: SamplingFacts) -> tuple[int, ...]:
    return 1, sampling.channels, tile.height * sampling.pixels, tile.width * sampling.pixels


def _check(tile: TileFacts, sampling: SamplingFacts, graphs: Mapping[str, Graph]) -> None:
    """BundleError unless the graphs can be wired, and take what the manifest says, before anything is allocated."""
    channels = tile.noise.channels if tile.noise else 0
    _require(
        "tile.noise", f"{channels} channels", f"{sampling.noise_channels} channels", channels == sampling.noise_channels
    )
    _require("graphs", sorted(graphs), "encode and step", {"encode", "step"} <= graphs.keys())
    _require(
        "sampling.decide", sampling.decide, "a graph policy", (sampling.decide is None) == ("policy" not in graphs)
    )
    encode, step = graphs["encode"], graphs["step"]
    given = {
        "encode": {"image"},
        "step": {"image", "sample", "timestep_embedding", *encode.outputs},
        "policy": {"image", "sample", "timestep_embedding", "prev_sample", "hidden_state", *encode.outputs},
        "decode": {"sample"},
    }
    made = {"step": {"model_output"}, "policy": {"accept_score", "next_hidden_state"}, "decode": {"upscaled_image"}}
    if sampling.image_latents:
        made["encode"] = {"image_latents"}
    sample = _sample_shape(tile, sampling)
    shapes = {"image": (1, 3, tile.height, tile.width), "sample": sample, "prev_sample": sample}
    for name, graph in graphs.items():
        known, needed = given.get(name, set()), made.get(name, set())
        _require(
            f"graphs.{name}", f"inputs {sorted(graph.inputs)}", f"some of {sorted(known)}", graph.inputs.keys() <= known
        )
        _require(f"graphs.{name}", f"outputs {graph.outputs}", f"{sorted(needed)}", needed <= set(graph.outputs))
        for one, shape in graph.inputs.items():
            sound = all(isinstance(side, int) and 1 <= side <= 1 << 16 for side in shape)
            _require(f"graphs.{name}", f"{one} of shape {shape}", "a fixed shape", sound)
            fits = shape in ((), shapes.get(one, shape))  # a peer's graph may declare none
            _require(f"graphs.{name}", f"{one} of shape {shape}", shapes.get(one), fits)
    embedding = step.inputs.get("timestep_embedding", ())
    even = len(embedding) == 2 and embedding[1] % 2 == 0
    _require("graphs.step", f"timestep_embedding of shape {embedding}", "(1, an even number)", even)
    if "policy" in graphs:
        _require("graphs.policy", "no hidden_state", "an input hidden_state", "hidden_state" in graphs["policy"].inputs)
    if "decode" not in graphs:
        whole = (1, 3, tile.height * tile.scale, tile.width * tile.scale)
        _require("sampling", f"samples of shape {sample} without a decoder", whole, sample == whole)


def _require(field: str, seen: object, needed: object, holds: bool) -> None:
    if not holds:
        what = f"manifest field {field} does not fit the sampler"
        raise BundleError(what, seen=seen, needed=needed, remedy="Build the bundle again with trt-build.")


def _check_shape(what: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        remedy = "Build the bundle again with trt-build."
        raise BundleError(f"{what} does not fit the sampler", seen=values.shape, needed=shape, remedy=remedy)
