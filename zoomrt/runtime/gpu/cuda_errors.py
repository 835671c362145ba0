"""What a CUDA failure means: no driver, an old one, no libraries, another GPU, no memory, a foreign or a dead context.

CUDA's errors carry their names in their messages (`CUDA_ERROR_OUT_OF_MEMORY: ...`), whoever wraps them; words of
TensorRT's and ONNX Runtime's messages are known too. All ends in our tree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from zoomrt.errors import EngineMismatch, OutOfMemory, RuntimeFault, ZoomrtError

_NO_MEMORY = ("out_of_memory", "out of memory", "outofmemory", "failed to allocate", "memoryallocation")
_NO_RUNTIME = (
    "libcudart",
    "cudart64",
    "libcublas",
    "cublas64",
    "libcudnn",
    "cudnn64",
    "libcufft",
    "libcurand",
    "libnvrtc",
)
_NO_DRIVER = (
    "libcuda.so",
    "(libcuda)",
    "nvcuda",
    "no_device",
    "stub_library",
    "no cuda-capable device",
    "cuda initialization failure with error: 100",
)
_OLD_DRIVER = (
    "system_driver_mismatch",
    "insufficient",
    "unsupported_ptx_version",
    "compat_not_supported",
    "cuda initialization failure with error: 35",
)
"""TensorRT gives the runtime's numbers: 35 is cudaErrorInsufficientDriver, 100 cudaErrorNoDevice."""
_OTHER_GPU = ("no_binary_for_gpu", "invalid_image", "compute capability", "unsupported sm", "device_unavailable")
_FOREIGN = ("invalid_context", "context_is_destroyed", "context_already_current", "different context")
_DEAD = ("illegal_address", "launch_failed", "launch_timeout", "misaligned", "hardware_stack", "ecc_uncorrectable")
_LONGEST = 200


def fault_of(what: str, cause: object) -> ZoomrtError:
    """The error to raise for a failure. what : what failed, a clause. cause : the exception, or words about it."""
    text = " ".join(f"{type(cause).__name__} {cause}".split()) if isinstance(cause, Exception) else str(cause)
    seen = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."

    def says(words: tuple[str, ...]) -> bool:
        return any(word in text.lower() for word in words)

    if isinstance(cause, MemoryError) or says(_NO_MEMORY):
        remedy = "Close other programs on the GPU (nvidia-smi lists them), or build with a smaller tile or batch."
        return OutOfMemory(what, seen=seen, needed="room in the GPU's memory", remedy=remedy)
    if says(_NO_RUNTIME):
        remedy = "Run: pip install 'onnxruntime-gpu[cuda,cudnn]' for ONNX Runtime, nvidia-cuda-runtime for the others."
        return EngineMismatch(what, seen=seen, needed="CUDA's own libraries beside the driver", remedy=remedy)
    if says(_NO_DRIVER):
        remedy = "Install the NVIDIA driver, or build it with --target cpu to run it here."
        return EngineMismatch(what, seen=seen, needed="an NVIDIA GPU with its driver", remedy=remedy)
    if says(_OLD_DRIVER):
        remedy = "Update the NVIDIA driver; trt-doctor shows which one is there."
        return EngineMismatch(what, seen=seen, needed="a newer NVIDIA driver", remedy=remedy)
    if says(_OTHER_GPU):
        remedy = "Build it again with the --target of this GPU; trt-doctor shows its compute capability."
        return EngineMismatch(what, seen=seen, needed="code for this GPU", remedy=remedy)
    if says(_FOREIGN):
        return foreign_context(what, seen)
    if says(_DEAD):
        remedy = "CUDA cannot go on in this process after that: start it again, and run trt-doctor if it comes back."
        return RuntimeFault(what, seen=seen, needed="a GPU that finishes its work", remedy=remedy)
    return RuntimeFault(what, seen=seen, needed="success", remedy="Run trt-doctor with this bundle.")


def foreign_context(what: str, seen: object) -> RuntimeFault:
    """Someone else's context is current, and memory of one context means nothing in another."""
    remedy = (
        "Pop it first, or make it with retain_primary_context() (PyCUDA), which is the one that all libraries share."
    )
    return RuntimeFault(what, seen=seen, needed="the GPU's primary CUDA context", remedy=remedy)


@contextlib.contextmanager
def cuda_faults(what: str) -> Iterator[None]:
    """Whatever goes wrong inside comes out as an error of ours."""
    try:
        yield
    except ZoomrtError:
        raise
    except Exception as cause:
        raise fault_of(what, cause) from cause
