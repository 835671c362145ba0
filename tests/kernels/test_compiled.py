"""What only the compiled code shows: bytes equal to the CPU's need sums that are not fused and rounding that stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from zoomrt.kernels.configuration import all_configurations

chosen = {c.name: c for c in all_configurations()}[sys.argv[1]]
names = chosen.function.arg_names
assert set(chosen.signature) | set(chosen.constants) == set(names)
chosen.constants.update(dict.fromkeys(sys.argv[2:], 1))  # as the JIT does where an argument is 1
signature = {name: chosen.signature.get(name, "constexpr") for name in names} | dict.fromkeys(sys.argv[2:], "constexpr")
hints = {(names.index(name),): [["tt.divisibility", 16]] for name in chosen.aligned}
source = ASTSource(chosen.function, signature, {(names.index(n),): v for n, v in chosen.constants.items()}, hints)
options = {"num_warps": chosen.warps, "num_stages": chosen.stages, "enable_fp_fusion": chosen.fused_multiply_add}
ptx = compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]
print(json.dumps({"fused": ptx.count("fma.rn.f32"), "round": [ptx.count("0f4B000000"), ptx.count("0fCB000000")]}))
"""


def ptx_of(name: str, cache: str, *ones: str) -> dict[str, object]:
    """Compiled in a child, which sees neither TRITON_INTERPRET nor a GPU."""
    environment = {**os.environ, "TRITON_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", PROGRAM, name, *ones], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["tile_gather_nv12_fp16", "tile_blend_fp16_faults"])
def test_nothing_is_fused(name: str, tmp_path: object) -> None:
    found = ptx_of(name, str(tmp_path))
    assert found["fused"] == 0
    if name.startswith("tile_blend"):
        up, down = found["round"]  # type: ignore[misc]
        assert up > 0
        assert up == down  # up by 2^23 and down again: the compiler has not seen through it


def test_fusing_is_seen(tmp_path: object) -> None:
    assert ptx_of("attention_d64_fp16", str(tmp_path))["fused"]  # type: ignore[operator]
