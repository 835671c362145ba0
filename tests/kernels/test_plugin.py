"""The attention plugin of full TensorRT: its kernel computes attention, its PTX is what TensorRT can launch, and
NVIDIA's own bindings take the registration. Launch, argument binding and speed need a GPU: tested nowhere yet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch

pytest.importorskip("triton", reason="the extra 'kernels' is not installed")

from zoomrt.errors import PluginError
from zoomrt.kernels import plugin as subject
from zoomrt.kernels.plugin import AttentionCall, PluginKernel, compile_calls


def call(*, tokens: int = 4096, heads: int = 1, folded: bool = False, scale: float = 512**-0.5) -> AttentionCall:
    return AttentionCall(
        batch=1,
        heads=heads,
        query_tokens=tokens,
        key_tokens=tokens,
        size=512,
        scale=scale,
        folded=folded,
        dtype="fp16",
    )


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[int, PluginKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOOMRT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {sm: compile_calls([call()], sm)[0] for sm in (89, 90, 120)}


@pytest.mark.parametrize("folded", [False, True])
def test_the_kernel_with_all_numbers_fixed_is_attention(folded: bool) -> None:
    """By Triton's interpreter against float64 of the same FP16 inputs; the weights are rounded to FP16 on the way."""
    one = AttentionCall(
        batch=2,
        heads=2,
        query_tokens=random.randrange(3, 70),
        key_tokens=random.randrange(3, 70),
        size=512,
        scale=random.uniform(0.01, 0.1),
        folded=folded,
        dtype="fp16",
    )
    query = torch.randn(2, 2, one.query_tokens, 512).half()
    key, value = (torch.randn(2, 2, one.key_tokens, 512).half() for _ in range(2))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), scale=one.scale
    )

    def laid_out(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.transpose(1, 2).flatten(2).contiguous() if folded else tensor

    out = torch.full_like(laid_out(query), torch.nan)
    subject._configuration(one).launch(
        query=laid_out(query), key=laid_out(key), value=laid_out(value), out=out, batch=one.batch
    )
    assert (out - laid_out(wanted)).abs().max() < 4e-3


def test_tensorrt_can_launch_the_ptx(kernels: dict[int, PluginKernel], tmp_path: Path) -> None:
    """Four pointers and no more, no spills up to Hopper, 48 KB at most, and a PTX version of older drivers."""
    from triton import knobs

    for sm, kernel in kernels.items():
        assert re.findall(r"^\s*\.param \.(\w+)", kernel.ptx, re.MULTILINE) == ["u64"] * 4
        assert kernel.ptx.count(f".entry {kernel.entry}(") == 1
        assert 0 < kernel.shared_bytes <= 48 * 1024
        assert (kernel.blocks, kernel.threads) == (4096 // 64, 256)
        assert f".version {'8.7' if sm == 120 else '8.4'}\n" in kernel.ptx
        (tmp_path / "k.ptx").write_text(kernel.ptx)
        target = re.findall(r"^\.target (\w+)", kernel.ptx, re.MULTILINE)[0]
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", "k.ptx", "-o", "k.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stderr
        assert f"Used {kernel.registers} registers" in said
        assert re.findall(r"(\d+) bytes stack frame", said) == [str(kernel.spilled_bytes)]
        assert kernel.spilled_bytes == 0


def test_equal_calls_share_a_kernel_and_different_ones_do_not() -> None:
    found = compile_calls([call(), call(), call(scale=0.5)], 89)
    assert len({kernel.name for kernel in found}) == len(found) == 2
    assert len({kernel.ptx for kernel in found}) == 2


def test_turing_is_refused_with_the_way_out() -> None:
    with pytest.raises(PluginError, match=r"not for SM75.*--attention-plugin"):
        compile_calls([call()], 75)


def test_too_much_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SHARED_BYTES", 1024)
    with pytest.raises(PluginError, match=r"shared memory on SM89.*at most 1024"):
        compile_calls([call()], 89)


# --- NVIDIA's bindings, with empty libraries under them -------------------------------------------------------------

BINDINGS = "tensorrt-cu13-bindings==11.4.0.106"
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
"""All that the bindings ask of TensorRT's libraries when they load."""

DRIVER = """
import json, sys
import tensorrt as trt
import msgspec
import numpy as np

creators = {}
class Registry:  # native in the real thing
    def register_creator(self, creator, namespace): creators[namespace, creator.name] = creator
    def get_creator(self, name, version, namespace): return creators[namespace, name]
trt.get_plugin_registry = Registry

import tensorrt.plugin as trtp
from tensorrt.plugin._tensor import SymIntExpr
from zoomrt.kernels.plugin import PluginKernel, register_attention

kernel = msgspec.json.decode(sys.stdin.buffer.read(), type=PluginKernel)
register_attention(trtp, [kernel])
creator = creators["zoomrt", "attention"]
written = np.frombuffer(kernel.name.encode() + sys.argv[1].encode().decode("unicode_escape").encode(), np.int8)
fields = trt.PluginFieldCollection([trt.PluginField("kernel", written, trt.PluginFieldType.CHAR)])
aot = trt.QuickPluginCreationRequest.STRICT_AOT
plugin = creator.create_plugin("attention", "zoomrt", fields, trt.TensorRTPhase.BUILD, aot)
definition = trtp.op.zoomrt.attention
class Constants:  # native in the real thing
    def constant(self, value): return value
SymIntExpr._exprBuilder = Constants()
name, ptx, how, extra = plugin.aot_impl_function(None, None, None, *plugin.attrs.values(), (None,), None)
print(json.dumps({
    "field": [(f.name, str(f.type)) for f in creator.field_names],
    "plugin": type(plugin).__name__,
    "attributes": plugin.attrs,
    "inputs": definition.input_tensor_names,
    "outputs": definition.num_outputs,
    "name": name, "same": ptx == kernel.ptx, "extra": len(extra),
    "launch": [getattr(how, k)._expr for k in
               ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")],
}))
"""


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `import tensorrt` gives NVIDIA's Python code over stub libraries."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler on Linux to build stub libraries with")
    folder = tmp_path_factory.mktemp("tensorrt")
    installed = importlib.util.find_spec("tensorrt_bindings")
    if installed is not None and installed.origin is not None:
        package = Path(installed.origin).parent
    else:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "0", "--timeout", "10", "-q"]
        answer = subprocess.run([*command, "-d", folder, BINDINGS], capture_output=True, text=True, check=False)
        if answer.returncode:
            pytest.skip(f"NVIDIA's bindings cannot be had: {answer.stderr.strip().splitlines()[-1]}")
        zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
        package = folder / "tensorrt_bindings"
    shutil.copytree(package, folder / "site" / "tensorrt")
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in ENTRY_POINTS))
    for library in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        file = f"lib{library}.so.11"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", str(source), "-o", str(folder / file)]
        subprocess.run(command, check=True)
    paths = [str(folder / "site"), *(path for path in sys.path if path)]
    return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("ending", ["", r"\0"], ids=["as it is", "with C's last byte"])
def test_nvidias_bindings_take_the_plugin(
    ending: str, bindings: dict[str, str], kernels: dict[int, PluginKernel]
) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), ending],
        input=msgspec.json.encode(kernels[90]),
        capture_output=True,
        env=bindings,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr.decode()[-2000:]
    said = json.loads(answer.stdout.splitlines()[-1])
    kernel = kernels[90]
    assert said == {
        "field": [["kernel", "PluginFieldType.CHAR"]],
        "plugin": "_TemplateAOTPlugin",
        "attributes": {"kernel": kernel.name + ("\0" if ending else "")},
        "inputs": ["query", "key", "value"],
        "outputs": 1,
        "name": kernel.entry,
        "same": True,
        "extra": 0,
        "launch": [kernel.blocks, 1, 1, kernel.threads, 1, 1, kernel.shared_bytes],
    }
