"""A kernel of the bundle on the GPU: its binary loaded, its grid worked out, its arguments bound once.

Written against cuda-core 1.2 and checked against its signatures; NOT RUN on a GPU so far.
The manifest says all that a launch needs (`zoomrt/bundle/kernel_file.py`), so neither Triton nor a compiler is here.
"""

from __future__ import annotations

import ast
import ctypes
import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

from zoomrt.bundle.kernel_file import KernelFile
from zoomrt.errors import BundleError, RuntimeFault
from zoomrt.runtime.gpu.cuda_device import CudaDevice, CudaStream
from zoomrt.runtime.gpu.cuda_errors import cuda_faults
from zoomrt.runtime.gpu.device import Launch, Stream

_SHARED_BY_DEFAULT = 48 << 10  # bytes of dynamic shared memory that every kernel may take (CUDA programming guide)
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "i1": ctypes.c_bool,
    "i8": ctypes.c_int8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
    "fp32": ctypes.c_float,
    "fp64": ctypes.c_double,
}
"""Triton's names of scalars -> what cuda-core passes as such; pointers go as ints."""
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(text: str, names: Mapping[str, Any]) -> int:
    """A grid expression: integers and names joined by + - * // and cdiv(a, b), which rounds up.

    Raises BundleError for anything else in it.
    """

    def value(node: ast.AST) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=name) if isinstance(names.get(name), int):
                return cast(int, names[name])
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATORS:
                return _OPERATORS[type(operation)](value(left), value(right))
            case ast.Call(func=ast.Name(id="cdiv"), args=[above, below], keywords=[]):
                return -(-value(above) // value(below))
        raise ValueError(ast.unparse(node))

    try:
        return value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError) as cause:
        needed = f"integers, {', '.join(names)} and + - * // cdiv"
        what = f"cannot work out the grid {text!r} of a kernel"
        raise BundleError(what, seen=cause, needed=needed, remedy="Build the bundle again with trt-build.") from cause


class CudaKernel:
    """One kernel, loaded.

    binary : content of the record's file.

    Raises EngineMismatch where the GPU does not take the binary, BundleError, OutOfMemory, RuntimeFault.
    """

    def __init__(self, device: CudaDevice, record: KernelFile, binary: bytes) -> None:
        self._device, self._record = device, record
        what = f"cannot load kernel {record.file!r}"
        with cuda_faults(what):
            self._kernel = device.core.ObjectCode.from_cubin(binary, name=record.entry).get_kernel(record.entry)
            if record.shared_bytes > _SHARED_BY_DEFAULT:
                driver = device.driver
                attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                arguments = (attribute, record.shared_bytes, self._kernel.handle, driver.CUdevice(device.number))
                code = driver.cuKernelSetAttribute(*arguments)[0]
                if int(code) != 0:
                    raise RuntimeError(f"{code}: {record.shared_bytes} bytes of shared memory")
            count = int(self._kernel.num_arguments)
        if count != len(record.arguments):
            needed, remedy = f"{len(record.arguments)}, as the manifest says", "Build the bundle again with trt-build."
            raise BundleError(what, seen=f"a binary with {count} arguments", needed=needed, remedy=remedy)

    @property
    def constants(self) -> Mapping[str, Any]:
        """What was fixed when it was compiled."""
        return self._record.constants

    def bind(self, **values: Any) -> Launch:
        """Fix the arguments and extents: addresses and numbers by name.

        Raises RuntimeFault for an address or number that is not as the kernel was compiled for, BundleError where
        the kernel wants others.
        """
        record = self._record
        missing = [name for name, _ in record.arguments if name not in values]
        if missing:
            what = f"kernel {record.kernel} misses {', '.join(missing)}"
            remedy = "Build the bundle again with trt-build."
            raise BundleError(what, seen=sorted(values), needed=[name for name, _ in record.arguments], remedy=remedy)
        for name in record.aligned:
            if values[name] % 16:
                what = f"kernel {record.kernel} does not take this {name}"
                raise RuntimeFault(what, seen=values[name], needed="a multiple of 16", remedy="Use an aligned buffer.")
        names = {**record.constants, **values}
        grid = tuple(evaluate(text, names) for text in record.grid)
        config = self._device.core.LaunchConfig(
            grid=grid, block=(32 * record.warps, 1, 1), shmem_size=record.shared_bytes
        )
        arguments = [
            int(values[name]) if kind.startswith("*") else _SCALARS[kind](values[name])
            for name, kind in record.arguments
        ]

        def launch(stream: Stream) -> None:
            with cuda_faults(f"cannot launch kernel {record.kernel}"):
                self._device.core.launch(cast(CudaStream, stream).core, config, self._kernel, *arguments)

        return launch
