# ruff: noqa: ARG002, ARG004 - arguments are there because the real ones are
"""`cuda.core`, `cuda.bindings.driver` and `tensorrt_rtx` without a GPU: the host's memory, and everything done at once.

Classes and methods carry the real names, and every call is recorded: `test_cuda_signatures` holds the calls against
the signatures of the packages that are installed.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

Call = tuple[str, str, tuple[Any, ...], dict[str, Any]]


class FakeCuda:
    """`core` and `driver`, as the modules; `fail` : name of a call, as "Device.create_stream" -> what it raises."""

    def __init__(self, *, capability: tuple[int, int] = (8, 9)) -> None:
        self.calls: list[Call] = []
        self.fail: dict[str, Exception] = {}
        self.limit: int | None = None
        """Bytes that may be allocated on the device."""
        self.current = 0
        self.primary = 4711
        self.live: dict[int, int] = {}
        """Address -> size of what is allocated."""
        self.capability = capability
        self.kernels: dict[str, Callable[..., None]] = {}
        """Entry -> kernel(grid, *arguments)."""
        self.counts: dict[str | bytes, int] = {}
        """Entry, or the binary itself where others have the same entry -> how many arguments it has."""
        self.capturing, self.works = 0, list[Callable[[], None]]()
        self.device_bytes = 0
        self.crossed: list[int] = []
        """Bytes of each copy between host and device."""
        self.core = self._core()
        self.driver = self._driver()

    def told(self, method: Callable[..., Any]) -> Callable[..., Any]:
        owner, name = method.__qualname__.split(".")[-2:]

        @functools.wraps(method)
        def call(this: Any, *arguments: Any, **named: Any) -> Any:
            self.calls.append((owner, name, arguments, named))
            if error := self.fail.get(f"{owner}.{name}"):
                raise error
            return method(this, *arguments, **named)

        return call

    def names(self) -> list[str]:
        return [f"{owner}.{name}" for owner, name, _, _ in self.calls]

    def _core(self) -> Any:
        fake, told = self, self.told

        class Options:
            def __init__(self, **named: Any) -> None:
                fake.calls.append((type(self).__name__, "__init__", (), named))
                self.__dict__.update(named)

        class StreamOptions(Options):
            pass

        class EventOptions(Options):
            pass

        class LaunchConfig(Options):
            pass

        class Buffer:
            owner: Any = None

            def __init__(self, size: int, on_device: bool) -> None:
                if on_device and fake.limit is not None and fake.device_bytes + size > fake.limit:
                    raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed because of no memory")
                fake.device_bytes += size if on_device else 0
                self.array, self.size, self.on_device = np.zeros(size, np.uint8), size, on_device
                self.handle = self.array.ctypes.data
                fake.live[self.handle] = size

            @staticmethod
            def from_handle(ptr: int, size: int, mr: Any = None, owner: Any = None, *, stream: Any = None) -> Buffer:
                fake.calls.append(("Buffer", "from_handle", (ptr, size), {"owner": owner}))
                part = Buffer.__new__(Buffer)
                part.handle, part.size, part.owner = ptr, size, owner
                part.on_device = getattr(owner, "on_device", True)
                return part

            @told
            def copy_from(self, src: Buffer, *, stream: Any, options: Any = None) -> None:
                assert src.size == self.size
                for one in (src, self):
                    where = (at <= one.handle and one.handle + one.size <= at + size for at, size in fake.live.items())
                    assert any(where), "not allocated"
                assert not stream.default
                if src.on_device != self.on_device:
                    fake.crossed.append(self.size)
                ctypes.memmove(self.handle, src.handle, self.size)

            @told
            def close(self, stream: Any = None) -> None:
                if self.owner is None and self.handle in fake.live:
                    del fake.live[self.handle]
                    fake.device_bytes -= self.size if self.on_device else 0

        class Stream:
            default = False

            def __init__(self, handle: int) -> None:
                self.handle = handle

            @staticmethod
            def from_handle(handle: int) -> Stream:
                fake.calls.append(("Stream", "from_handle", (handle,), {}))
                return Stream(handle)

            @told
            def record(self, event: Any = None, options: Any = None) -> Any:
                return event

            @told
            def wait(self, event_or_stream: Any) -> None:
                pass

            @told
            def sync(self) -> None:
                pass

            @told
            def close(self) -> None:
                pass

        class Event:
            @told
            def sync(self) -> None:
                pass

        class Graph:
            def __init__(self, works: list[Callable[[], None]]) -> None:
                self.works = works

            @told
            def upload(self, stream: Any) -> None:
                pass

            @told
            def launch(self, stream: Any) -> None:
                for work in self.works:
                    work()

        class GraphBuilder:
            def __init__(self) -> None:
                self.stream, self.building = Stream(99), False

            @told
            def begin_building(self, mode: str | None = "relaxed") -> GraphBuilder:
                fake.works = []
                fake.capturing += 1
                self.building = True
                return self

            @told
            def end_building(self) -> GraphBuilder:
                fake.capturing -= self.building
                self.building = False
                return self

            @told
            def complete(self, options: Any = None) -> Graph:
                return Graph(fake.works)

            @told
            def close(self) -> None:
                """Ends a capture that is under way."""
                fake.capturing -= self.building
                self.building = False

        class Device:
            def __init__(self, device_id: int | None = None) -> None:
                if error := fake.fail.get("Device"):
                    raise error
                self.name = "Fake GPU"
                self.compute_capability = SimpleNamespace(major=fake.capability[0], minor=fake.capability[1])
                self.context = SimpleNamespace(handle=fake.primary)

            @told
            def set_current(self, ctx: Any = None) -> Any:
                fake.current = fake.primary

            @told
            def create_stream(self, obj: Any = None, options: Any = None) -> Stream:
                if obj is None:
                    assert options.nonblocking
                return Stream(len(fake.calls))

            @told
            def create_event(self, options: Any = None) -> Event:
                return Event()

            @told
            def create_graph_builder(self) -> GraphBuilder:
                return GraphBuilder()

        class DeviceMemoryResource:
            def __init__(self, device_id: int, options: Any = None) -> None:
                pass

            @told
            def allocate(self, size: int, *, stream: Any) -> Buffer:
                return Buffer(size, True)

        class LegacyPinnedMemoryResource:
            @told
            def allocate(self, size: int, *, stream: Any = None) -> Buffer:
                return Buffer(size, False)

        class Kernel:
            handle = 1

            def __init__(self, name: str, binary: bytes) -> None:
                self.name, self.num_arguments = name, fake.counts.get(binary, fake.counts.get(name, 2))

        class ObjectCode:
            def __init__(self, binary: bytes) -> None:
                self.binary = binary

            @staticmethod
            def from_cubin(module: bytes, *, name: str = "", symbol_mapping: Any = None) -> ObjectCode:
                fake.calls.append(("ObjectCode", "from_cubin", (module,), {"name": name}))
                if error := fake.fail.get("ObjectCode.from_cubin"):
                    raise error
                return ObjectCode(module)

            @told
            def get_kernel(self, name: str) -> Kernel:
                return Kernel(name, self.binary)

        def launch(stream: Any, config: Any, kernel: Any, *kernel_args: Any) -> None:
            fake.calls.append(("", "launch", (stream, config, kernel, *kernel_args), {}))
            if error := fake.fail.get("launch"):
                raise error
            if kernel.name in fake.kernels:
                fake.kernels[kernel.name](config.grid, *(getattr(one, "value", one) for one in kernel_args))

        names = (
            StreamOptions,
            EventOptions,
            LaunchConfig,
            Buffer,
            Device,
            DeviceMemoryResource,
            LegacyPinnedMemoryResource,
        )
        return SimpleNamespace(**{one.__name__: one for one in names}, ObjectCode=ObjectCode, launch=launch)

    def _driver(self) -> Any:
        fake = self

        def set_current(context: int) -> tuple[int]:
            fake.current = context
            return (0,)

        def set_attribute(attrib: Any, val: int, kernel: Any, dev: Any) -> tuple[int]:
            fake.calls.append(("driver", "cuKernelSetAttribute", (attrib, val, kernel, dev), {}))
            return (0,)

        return SimpleNamespace(
            cuCtxGetCurrent=lambda: (0, fake.current),
            cuCtxSetCurrent=set_current,
            cuDriverGetVersion=lambda: (0, 13000),
            cuKernelSetAttribute=set_attribute,
            CUdevice=lambda number: number,
            CUfunction_attribute=SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8),
        )


def at(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Memory by its address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


def fake_trt(cuda: FakeCuda, shapes: dict[bytes, Any], dtype: str, *, rtx: bool = True) -> Any:
    """The module: an engine's bytes -> ((input shape), (output shape)); it repeats pixels. `module.events` : what was
    called; `module.fail` : calls that fail, as TensorRT does, with None or False and a line in the log."""
    events: list[Call] = []
    fail: dict[str, str] = {}

    def told(method: Callable[..., Any]) -> Callable[..., Any]:
        owner, name = method.__qualname__.split(".")[-2:]

        @functools.wraps(method)
        def call(this: Any, *arguments: Any, **named: Any) -> Any:
            events.append((owner, name, arguments, named))
            if name in fail:
                for line in fail[name].splitlines():
                    module.log.log(module.ILogger.Severity.ERROR, line)
                return False if name == "execute_async_v3" else None
            return method(this, *arguments, **named)

        return call

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0, WARNING=2, INFO=3, VERBOSE=4)

        def __init__(self) -> None:
            module.log = self

    class IRuntimeCache:
        @told
        def deserialize(self, blob: bytes) -> bool:
            return blob == b"compiled"

        @told
        def serialize(self) -> bytes:
            return b"compiled"

    class IRuntimeConfig:
        """Full TensorRT has one since 10.11, without a cache."""

        if rtx:

            @told
            def create_runtime_cache(self) -> IRuntimeCache:
                return IRuntimeCache()

            @told
            def set_runtime_cache(self, cache: Any) -> bool:
                return True

    class IExecutionContext:
        def __init__(self, plan: bytes) -> None:
            self.shapes, self.addresses = shapes[plan], dict[str, int]()

        @told
        def set_tensor_address(self, name: str, memory: int) -> bool:
            self.addresses[name] = memory
            return True

        @told
        def execute_async_v3(self, stream_handle: int) -> bool:
            assert stream_handle > 0, "never the default stream"
            source, target = self.addresses["x"], self.addresses["y"]

            def work() -> None:
                for address in (source, target):
                    assert any(at <= address < at + size for at, size in cuda.live.items()), "not allocated"
                (n, c, h, w), (_, d, high, _) = self.shapes
                tiles = at(source, (n, c, h, w), dtype)
                at(target, self.shapes[1], dtype)[...] = tiles[:, :d].repeat(high // h, 2).repeat(high // h, 3)

            if cuda.capturing:
                cuda.works.append(work)
            else:
                work()
            return True

        if rtx:

            @told
            def is_stream_capturable(self, stream: int) -> bool:
                return module.capturable

    class ICudaEngine:
        num_io_tensors = 2

        def __init__(self, plan: bytes) -> None:
            self.plan = plan

        @told
        def get_tensor_name(self, index: int) -> str:
            return "yx"[index]

        @told
        def get_tensor_mode(self, name: str) -> int:
            return 1 if name == "x" else 2

        @told
        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(shapes[self.plan]["xy".index(name)])

        @told
        def create_execution_context(self, runtime_config: Any = None) -> IExecutionContext:
            return IExecutionContext(self.plan)

        @told
        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            if "Runtime" in fail:  # as pybind puts a null pointer
                logger.log(ILogger.Severity.ERROR, fail["Runtime"])
                raise TypeError("pybind11::init(): factory function returned nullptr")

        @told
        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
            return ICudaEngine(serialized_engine)

        if rtx:

            @told
            def get_engine_validity(self, buffer: bytes) -> tuple[int, int]:
                return module.validity, 0

    module = SimpleNamespace(
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT=1, OUTPUT=2),
        EngineValidity=SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2),
        __version__="1.7.1.116",
        events=events,
        fail=fail,
        validity=0,
        capturable=True,
    )
    return _Hashable(module)


class _Hashable:
    """Modules can be hashed, SimpleNamespace cannot."""

    def __init__(self, inner: SimpleNamespace) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)
