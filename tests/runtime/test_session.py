"""The session contract, held by the base class whatever the engine."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_helpers import FakeSession, facts

from zoomrt.errors import InputError, RuntimeFault


def test_a_batch_goes_through(rng: np.random.Generator) -> None:
    tile = facts(batches=(1, 3))
    batch = rng.uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    with FakeSession(tile) as session:
        assert session.batches == (1, 3)
        assert np.array_equal(session.run(batch), batch.repeat(4, 2).repeat(4, 3))


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 3, 32, 32), np.float32),
        np.zeros((1, 1, 32, 32), np.float32),
        np.zeros((1, 3, 31, 32), np.float32),
        np.zeros((3, 32, 32), np.float32),
        np.zeros((1, 3, 32, 32), np.uint8),
    ],
)
def test_a_wrong_batch_never_reaches_the_engine(batch: np.ndarray) -> None:
    session = FakeSession(facts(batches=(1, 3)))
    with pytest.raises(InputError, match=r"need floats \(1 or 3, 3, 32, 32\)"):
        session.run(batch)
    assert session.runs == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_the_tile(bad: float) -> None:
    def spoil(_run: int, output: np.ndarray) -> np.ndarray:
        output[1, 2, 5, 7] = bad
        return output

    session = FakeSession(facts(batches=(1, 2)), after=spoil)
    batch = np.zeros((2, 3, 32, 32), np.float32)
    with pytest.raises(RuntimeFault, match="failed on item 1 of the batch: got 1 of 49152 values NaN or infinite"):
        session.run(batch)
    with pytest.raises(RuntimeFault, match="failed on the second"):
        session.run(batch, ["the first", "the second"])


def test_an_answer_of_another_shape_is_a_fault() -> None:
    session = FakeSession(facts(), after=lambda _run, output: output[..., :-1])
    with pytest.raises(RuntimeFault, match=r"got \(1, 3, 128, 127\), need \(1, 3, 128, 128\)"):
        session.run(np.zeros((1, 3, 32, 32), np.float32))


def test_close_releases_once_and_a_closed_session_does_not_run() -> None:
    session = FakeSession(facts())
    session.close()
    session.close()
    assert (session.closed, session.released) == (True, 1)
    with pytest.raises(RuntimeFault, match="closed session"):
        session.run(np.zeros((1, 3, 32, 32), np.float32))
    assert session.runs == 0
