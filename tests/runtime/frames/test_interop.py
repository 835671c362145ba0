"""Arrays and streams of others: no copies, who waits for whom, who owns what. The memory is the host's."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_arrays import OURS, LentByCpu, LikeTorch, OnDevice, lent, refuse
from cuda_helpers import device_on
from fake_cuda import FakeCuda, at
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.frames.interop import DeviceArray, device_view, stream_handle


@pytest.mark.parametrize(
    "stream",
    [
        4096,
        SimpleNamespace(__cuda_stream__=lambda: (0, 4096)),
        SimpleNamespace(cuda_stream=4096),
        SimpleNamespace(ptr=4096),
        SimpleNamespace(handle=4096),
        SimpleNamespace(handle=np.int64(4096)),
    ],
)
def test_streams_of_others(stream: object) -> None:
    assert stream_handle(stream) == 4096


@pytest.mark.parametrize(
    ("stream", "seen"),
    [
        (0, "default stream 0"),
        (SimpleNamespace(handle=1), "default stream 1"),
        (SimpleNamespace(__cuda_stream__=lambda: (0, 2)), "default stream 2"),
        (SimpleNamespace(__cuda_stream__=lambda: (1, 4096)), "version 1"),
        ("fast", "str"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_stream_of_its_own(stream: object, seen: str) -> None:
    with pytest.raises(InputError, match=seen):
        stream_handle(stream)


def test_our_stream_is_taken_by_others_and_they_order_themselves() -> None:
    cuda = FakeCuda()
    stream = device_on(cuda).stream("compute")
    assert stream.__cuda_stream__() == (0, stream.handle)
    assert stream_handle(stream) == stream.handle
    cuda.calls.clear()
    stream.follow(4096)
    stream.lead(4096)
    (_, first, (waited_for,), _), (_, second, (leader,), _) = [call for call in cuda.calls if call[1] == "wait"]
    assert (first, waited_for.handle, second, leader) == ("wait", 4096, "wait", stream.core)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    dtype=st.sampled_from(["u1", "u2", "f2", "f4", "i4"]),
    step=st.integers(1, 2),
    seed=st.integers(0, 2**32),
)
def test_what_comes_in_is_the_same_memory_by_either_protocol(
    shape: list[int], dtype: str, step: int, seed: int
) -> None:
    whole = np.random.default_rng(seed).integers(0, 200, [2 * shape[0], *shape[1:]]).astype(dtype)
    array = whole[::step]
    dense = np.ascontiguousarray(array)

    class Lent:
        """DLPack of a real array, said to be on a GPU; numpy takes no stream."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

        def __dlpack__(self, *, stream: int) -> Any:
            assert stream == OURS, "the maker has our stream wait"
            return array.__dlpack__()

    given_strides = device_view(OnDevice(array), OURS, refuse)
    no_strides = device_view(OnDevice(dense, strides=None), OURS, refuse)
    for view, source in ((given_strides, array), (no_strides, dense), (device_view(Lent(), OURS, refuse), array)):
        assert (view.address, view.shape, view.dtype) == (source.ctypes.data, source.shape, source.dtype)
        assert all(a == b for a, b, side in zip(view.strides, source.strides, source.shape, strict=True) if side > 1)


@pytest.mark.parametrize(("stream", "followed"), [(None, []), (1, [1]), (2, [2]), (4096, [4096]), (OURS, [])])
def test_our_stream_waits_for_the_one_that_is_named(stream: int | None, followed: list[int]) -> None:
    asked: list[int] = []
    device_view(OnDevice(np.zeros(4), stream=stream), OURS, asked.append)
    assert asked == followed


def test_dlpack_goes_before_an_interface_that_names_no_stream() -> None:
    source = LikeTorch(np.arange(12, dtype=np.float32).reshape(3, 4))
    view = device_view(source, OURS, refuse)
    assert source.asked == [OURS], "the maker has our stream wait"
    assert (view.address, view.shape, view.strides) == (source.array.ctypes.data, (3, 4), (16, 4))
    only_interface = OnDevice(source.array, version=2)
    del only_interface.__cuda_array_interface__["stream"]
    assert device_view(only_interface, OURS, refuse).address == source.array.ctypes.data


@pytest.mark.parametrize(("dtype", "seen"), [("bfloat16", "bfloat16"), ("bool", "type bool")])
def test_types_that_numpy_lacks_are_refused_in_words(dtype: str, seen: str) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(4, dtype=getattr(torch, dtype))
    source = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=lambda **_: tensor.__dlpack__())
    with pytest.raises(InputError, match=seen):
        device_view(source, OURS, refuse)


def test_what_its_maker_does_not_hand_out() -> None:
    def refused(**_: Any) -> Any:
        raise BufferError("Can't export tensors that require gradient")

    class WantsGradient:
        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")

    for source in (SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=refused), WantsGradient()):
        with pytest.raises(InputError, match=r"require.* grad"):
            device_view(source, OURS, refuse)


def test_what_cannot_come_in() -> None:
    for source, seen in (
        (OnDevice(np.zeros(4), stream=0), "stream 0"),
        (np.zeros(4), "device type 1"),
        ("text", "str"),
    ):
        with pytest.raises(InputError, match=seen):
            device_view(source, OURS, refuse)


def test_a_view_keeps_its_maker_alive() -> None:
    source = OnDevice(np.zeros(4))
    alive = weakref.ref(source)
    view = device_view(source, OURS, refuse)
    del source
    gc.collect()
    assert alive() is not None
    del view
    gc.collect()
    assert alive() is None


class Owner:
    pass


def test_what_goes_out_by_the_array_interface() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    interface = lent(array).__cuda_array_interface__
    assert (interface["version"], interface["stream"], interface["strides"]) == (3, OURS, None)
    found = at(interface["data"][0], interface["shape"], interface["typestr"])
    assert np.shares_memory(found, array) or np.array_equal(found, array)
    view = device_view(lent(array), OURS + 1, [].append)
    assert (view.address, view.strides) == (array.ctypes.data, array.strides), "and comes in again as it went"


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2", "f4"])
@pytest.mark.parametrize("taker", ["numpy", "torch"])
def test_what_goes_out_by_dlpack_is_the_same_memory_and_is_given_back(dtype: str, taker: str) -> None:
    """Said to be on the CPU, so that real libraries take it."""
    array, owner = np.arange(12).astype(dtype).reshape(3, 4), Owner()
    alive = weakref.ref(owner)
    ours = LentByCpu(array, [].append, owner)
    taken: Any = np.from_dlpack(ours) if taker == "numpy" else pytest.importorskip("torch").from_dlpack(ours)
    del owner, ours
    gc.collect()
    array[1, 2] = 99
    assert taken[1, 2] == 99
    assert tuple(taken.shape) == (3, 4)
    assert alive() is not None, "the taker keeps the owner"
    del taken
    gc.collect()
    assert alive() is None


def test_a_capsule_that_nobody_takes_gives_back_too() -> None:
    owner = Owner()
    alive = weakref.ref(owner)
    capsule = LentByCpu(np.zeros(4, np.float32), [].append, owner).__dlpack__()
    del owner
    gc.collect()
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


def test_what_goes_out_is_described_to_cuda_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view of memory on a GPU asks the driver, which is not here."""
    array = np.zeros((3, 4), np.float32)
    told: list[Any] = []
    utils = SimpleNamespace(StridedMemoryView=SimpleNamespace(from_buffer=lambda *given, **named: (given, named)))
    core = SimpleNamespace(Buffer=SimpleNamespace(from_handle=lambda *given, **named: told.append((given, named))))
    monkeypatch.setitem(sys.modules, "cuda.core", core)
    monkeypatch.setitem(sys.modules, "cuda.core.utils", utils)
    assert lent(array)._view() == ((None, (3, 4)), {"dtype": np.float32})
    assert told == [((array.ctypes.data, 48), {"owner": array})]


def test_without_cuda_core_the_array_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lent:
        def __dlpack__(self) -> None: ...

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    monkeypatch.setitem(sys.modules, "cuda.core.utils", None)
    with pytest.raises(MissingDependency, match=r"zoomrt\[cuda\]"):
        device_view(Lent(), 1, lambda _: None)


@pytest.mark.parametrize(("stream", "led"), [(4096, [4096]), (1, [1]), (None, [1]), (-1, [])])
def test_the_takers_stream_waits_for_ours(stream: int | None, led: list[int]) -> None:
    asked: list[int] = []
    LentByCpu(np.zeros(4, np.float32), asked.append, None).__dlpack__(stream=stream)
    assert asked == led


@pytest.mark.gpu
def test_arrays_of_cupy_on_a_real_gpu() -> None:
    cupy = pytest.importorskip("cupy")
    from zoomrt.runtime.gpu.cuda_device import CudaDevice

    stream = CudaDevice().stream("compute")
    array = cupy.arange(12, dtype=cupy.float32).reshape(3, 4)
    view = device_view(array, stream.handle, stream.follow)
    ours = DeviceArray(view.address, view.shape, "f4", stream=stream.handle, lead=stream.lead, owner=array)
    assert (cupy.asarray(ours) == array).all()
    assert (cupy.from_dlpack(ours) == array).all()
