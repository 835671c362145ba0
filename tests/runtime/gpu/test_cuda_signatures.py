"""Every call that the GPU path makes exists in the libraries that are installed, with these arguments.

The calls are those that the fakes record while sessions load and run. cuda-core's signatures are read from the stubs in
its wheel, because importing it needs cuda-bindings; TensorRT-RTX is compiled code, so names are looked up and the first
line of a docstring tells the arguments.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_helpers import device_on, engine_bundle
from fake_cuda import FakeCuda, fake_trt
from runtime_helpers import facts

from zoomrt.bundle.kernel_file import KernelFile
from zoomrt.runtime.gpu.cuda_kernel import CudaKernel
from zoomrt.runtime.sessions.tensorrt import tensorrt_session
from zoomrt.runtime.upscaler import Upscaler


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeCuda, Any]:
    """The fakes after a session was loaded, ran a frame and a kernel, and was closed."""
    folder = tmp_path_factory.mktemp("signatures")
    bundle, shapes = engine_bundle(folder / "b", facts())
    cuda = FakeCuda()
    trt = fake_trt(cuda, shapes, "float32")
    device = device_on(cuda)
    record = KernelFile(
        kernel="fill",
        file="k.cubin",
        entry="fill",
        arguments=(("out", "*fp16"), ("count", "i32")),
        constants={},
        grid=("cdiv(count, 64)", "1", "1"),
        warps=4,
        shared_bytes=64 << 10,
        registers=8,
        spilled_bytes=0,
    )
    CudaKernel(device, record, b"code").bind(out=64, count=100)(device.stream("compute"))
    for _ in range(2):  # the second time with a runtime cache
        with Upscaler(bundle.manifest, tensorrt_session(bundle, device, trt)) as upscaler:
            upscaler(np.zeros((40, 40, 3), np.uint8))
    return cuda, trt


def stubs() -> dict[str, inspect.Signature]:
    """ "Class.method" or "function" -> signature, from cuda-core's stubs."""
    try:
        files = importlib.metadata.files("cuda-core") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cuda-core is not installed")
    found: dict[str, inspect.Signature] = {}
    bases: dict[str, list[str]] = {}
    for file in files:
        if file.suffix in (".pyi", ".py") and "cu13" in file.parts:
            tree = ast.parse(Path(str(file.locate())).read_text(encoding="utf-8"))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    found[node.name] = signature(node)
                elif isinstance(node, ast.ClassDef):
                    bases[node.name] = [ast.unparse(base) for base in node.bases]
                    for part in node.body:
                        if isinstance(part, ast.FunctionDef):
                            found[f"{node.name}.{part.name}"] = signature(part)
                        elif isinstance(part, ast.AnnAssign):  # a dataclass's field
                            found[f"{node.name}.{ast.unparse(part.target)}"] = inspect.Signature()

    def inherit(name: str) -> None:
        for base in bases.get(name, []):
            inherit(base)
            for key, one in list(found.items()):
                if key.startswith(f"{base}."):
                    found.setdefault(name + key[len(base) :], one)

    for name in bases:
        inherit(name)
    return found


def signature(node: ast.FunctionDef) -> inspect.Signature:
    one = inspect.Parameter
    parts = node.args
    plain = [*parts.posonlyargs, *parts.args]
    first_default = len(plain) - len(parts.defaults)
    listed = [
        one(arg.arg, one.POSITIONAL_OR_KEYWORD, default=None if index >= first_default else one.empty)
        for index, arg in enumerate(plain)
    ]
    if parts.vararg:
        listed.append(one(parts.vararg.arg, one.VAR_POSITIONAL))
    for arg, default in zip(parts.kwonlyargs, parts.kw_defaults, strict=True):
        listed.append(one(arg.arg, one.KEYWORD_ONLY, default=one.empty if default is None else None))
    static = any(ast.unparse(decorator) in ("staticmethod", "classmethod") for decorator in node.decorator_list)
    if static and listed and listed[0].name == "cls":
        listed = listed[1:]
    return inspect.Signature(listed if static or not listed or listed[0].name != "self" else listed[1:])


def test_every_call_to_cuda_core_is_in_its_stubs(recorded: tuple[FakeCuda, Any]) -> None:
    known = stubs()
    checked = set()
    for owner, name, arguments, named in recorded[0].calls:
        if owner == "driver":
            continue
        if owner in ("StreamOptions", "EventOptions"):
            assert all(f"{owner}.{field}" in known for field in named), (owner, named)
        else:
            key = f"{owner}.{name}" if owner else name
            assert key in known, key
            known[key].bind(*arguments, **named)
        checked.add(f"{owner}.{name}")
    assert len(checked) >= 20, sorted(checked)
    for used in ("Stream.handle", "Buffer.handle", "Kernel.handle", "Kernel.num_arguments", "GraphBuilder.stream"):
        assert used in known
    for used in ("Device.name", "Device.compute_capability", "Device.context", "Context.handle", "Stream.from_handle"):
        assert used in known


def test_a_call_that_does_not_exist_is_seen() -> None:
    known = stubs()
    with pytest.raises(TypeError):
        known["Buffer.copy_from"].bind(object(), None)  # the stream is by name only
    with pytest.raises(TypeError):
        known["Device.create_stream"].bind(option=None)
    assert "Device.record_event" not in known


def test_every_call_to_tensorrt_rtx_exists(recorded: tuple[FakeCuda, Any]) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    checked = set()
    for owner, name, arguments, named in recorded[1].events:
        assert not named
        kept = {"IRuntimeCache": "create_runtime_cache"}
        if owner in kept and not hasattr(trt, owner):
            continue
        method = getattr(getattr(trt, owner), name)
        forms = re.findall(rf"{name}\(self[^,)]*,?([^\n]*)\) ->", method.__doc__)
        counts = {0 if not form.strip() else form.count(": ") for form in forms}
        assert not counts or len(arguments) in counts, (name, counts)
        checked.add(name)
    assert {"execute_async_v3", "set_tensor_address", "create_execution_context", "set_runtime_cache"} <= checked
    assert {"get_engine_validity", "is_stream_capturable", "get_tensor_mode"} <= checked
    assert {"INPUT", "OUTPUT"} <= set(trt.TensorIOMode.__members__)
    assert "INVALID" in trt.EngineValidity.__members__
    assert hasattr(trt.ILogger.Severity, "INTERNAL_ERROR")
    for name in ("deserialize", "serialize"):
        assert hasattr(trt.tensorrt_rtx.IRuntimeCache if hasattr(trt, "tensorrt_rtx") else trt.IRuntimeCache, name)


def test_what_is_asked_of_onnxruntime_exists() -> None:
    import onnxruntime

    binding = onnxruntime.IOBinding
    for method in (binding.bind_input, binding.bind_output):
        inspect.signature(method).bind(None, "x", "cuda", 0, np.float32, (1,), 4096)
    inspect.signature(onnxruntime.InferenceSession.run_with_iobinding).bind(None, None, None)
    onnxruntime.RunOptions().add_run_config_entry("disable_synchronize_execution_providers", "1")
    assert 'kwargs.get("enable_fallback", 1)' in inspect.getsource(onnxruntime.InferenceSession.__init__)
    onnxruntime.SessionOptions().add_session_config_entry("session.disable_cpu_ep_fallback", "1")


def test_the_driver_calls_exist() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    for name in ("cuCtxGetCurrent", "cuCtxSetCurrent", "cuDriverGetVersion", "cuKernelSetAttribute", "CUdevice"):
        assert hasattr(driver, name)
    assert driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
