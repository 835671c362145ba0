"""Multi-step models behind the session contract: encode a tile, loop over the step graph, decode.

The graphs are named `encode`, `step`, `decode` and `policy`, and wired by the names of their inputs and outputs:
`lr` is the tile, `state` the sampler's x, `told` the timestep's features, `following` the state that would come next,
`memory` what a policy `remembered` when it was last asked about the tile; anything else a graph asks for is an output
of `encode`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Evaluation, SamplingFacts, TileFacts
from zoomrt.bundle.sampling import split_draws, time_features, trajectory
from zoomrt.errors import BundleError, RuntimeFault
from zoomrt.runtime.session import Session

__all__ = ["Graph", "MultiStepSession"]


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

    graphs : part -> graph, see above. Unlike one-step sessions it allocates a few states per evaluation.

    Raises BundleError where they do not fit what the manifest says.
    """

    def __init__(self, tile: TileFacts, sampling: SamplingFacts, graphs: Mapping[str, Graph]) -> None:
        super().__init__(tile)
        _check(tile, sampling, graphs)
        self._sampling, self._graphs = sampling, dict(graphs)
        self._features = graphs["step"].inputs["told"][1]

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        facts, graphs = self._sampling, self._graphs
        values: dict[str, NDArray[Any]] = {"lr": batch[:, :3]}
        values |= graphs["encode"](values)
        if "policy" in graphs:
            values["memory"] = np.zeros(graphs["policy"].inputs["memory"], np.float32)

        def known(state: NDArray[np.float32], one: Evaluation) -> dict[str, NDArray[Any]]:
            return {**values, "state": state, "told": time_features(one.timestep, self._features)}

        def predict(state: NDArray[np.float32], one: Evaluation) -> NDArray[np.float32]:
            answer = graphs["step"](known(state, one))["answer"]
            _check_shape("the answer of graph step", answer, state.shape)
            if not np.isfinite(answer).all():
                seen = f"{int(answer.size - np.isfinite(answer).sum())} of {answer.size} values NaN or infinite"
                what = f"the engine failed on a tile at timestep {one.timestep:g}"
                remedy = "Build with --precision fp32: half precision overflowed, or the weights are damaged."
                raise RuntimeFault(what, seen=seen, needed="finite values", remedy=remedy)
            return answer

        def decide(state: NDArray[np.float32], following: NDArray[np.float32] | None, one: Evaluation) -> bool:
            more = {} if following is None else {"following": following}
            decision = graphs["policy"]({**known(state, one), **more})
            values["memory"] = decision["remembered"]
            _check_shape("accept of graph policy", decision["accept"], (1, 1))
            accept = float(decision["accept"].item())
            if not math.isfinite(accept):
                what = f"the policy failed on a tile at timestep {one.timestep:g}"
                raise RuntimeFault(what, seen=accept, needed="a number", remedy="Check the weights of the policy.")
            return accept > 0

        base = values["base"].astype(np.float32) if facts.base else None
        if base is not None:
            _check_shape("base of graph encode", base, _state_shape(self.tile, facts))
        draws = split_draws(facts, batch[:, 3:].astype(np.float32))
        for moment in trajectory(facts, base, draws, predict, decide if "policy" in graphs else None):
            self.evaluations = moment.calls
        state = moment.state
        picture = graphs["decode"]({"state": state})["sr"] if "decode" in graphs else state
        return picture.astype(self.tile.dtype)

    def _release(self) -> None:
        for graph in self._graphs.values():
            graph.close()


def _state_shape(tile: TileFacts, sampling: SamplingFacts) -> tuple[int, ...]:
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
        "encode": {"lr"},
        "step": {"lr", "state", "told", *encode.outputs},
        "policy": {"lr", "state", "told", "following", "memory", *encode.outputs},
        "decode": {"state"},
    }
    made = {"step": {"answer"}, "policy": {"accept", "remembered"}, "decode": {"sr"}}
    if sampling.base:
        made["encode"] = {"base"}
    state = _state_shape(tile, sampling)
    shapes = {"lr": (1, 3, tile.height, tile.width), "state": state, "following": state}
    for name, graph in graphs.items():
        known, wanted = given.get(name, set()), made.get(name, set())
        _require(
            f"graphs.{name}", f"inputs {sorted(graph.inputs)}", f"some of {sorted(known)}", graph.inputs.keys() <= known
        )
        _require(f"graphs.{name}", f"outputs {graph.outputs}", f"{sorted(wanted)}", wanted <= set(graph.outputs))
        for one, shape in graph.inputs.items():
            sound = all(isinstance(side, int) and 1 <= side <= 1 << 16 for side in shape)
            _require(f"graphs.{name}", f"{one} of shape {shape}", "a fixed shape", sound)
            fits = shape in ((), shapes.get(one, shape))  # a peer's graph may declare none
            _require(f"graphs.{name}", f"{one} of shape {shape}", shapes.get(one), fits)
    told = step.inputs.get("told", ())
    _require("graphs.step", f"told of shape {told}", "(1, an even number)", len(told) == 2 and told[1] % 2 == 0)
    if "policy" in graphs:
        _require("graphs.policy", "no memory", "an input memory", "memory" in graphs["policy"].inputs)
    if "decode" not in graphs:
        whole = (1, 3, tile.height * tile.scale, tile.width * tile.scale)
        _require("sampling", f"states of shape {state} without a decoder", whole, state == whole)


def _require(field: str, seen: object, needed: object, holds: bool) -> None:
    if not holds:
        what = f"manifest field {field} does not fit the sampler"
        raise BundleError(what, seen=seen, needed=needed, remedy="Build the bundle again with trt-build.")


def _check_shape(what: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        remedy = "Build the bundle again with trt-build."
        raise BundleError(f"{what} does not fit the sampler", seen=values.shape, needed=shape, remedy=remedy)
