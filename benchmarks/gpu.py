"""Everything that wants a GPU, in one call: each kernel's correctness, its speed beside torch, then whole networks.

python -m benchmarks.gpu [--out out/gpu] [--only attention --only norm ...]

Needs an NVIDIA GPU from Ampere on, torch with CUDA and Triton; cuda-core for `cubin` and `_gpu_end_to_end.py`, CuPy for
`interop`. Writes gpu.json and gpu.log; each part runs in its own try, and the files are written after each: one failure
loses no other. Kernels' times are medians over CUDA graphs of one call, so they hold no launch from Python; caches are
swept before each.

Written without a GPU at hand and not yet run on one: tests/kernels/test_gpu_benchmark.py holds its arguments, its
tables, its arithmetic and its refusal only. Used features exist in Triton 3.6 and 3.9.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import _gpu_end_to_end, _gpu_kernels
from benchmarks._gpu_run import Row, Run, format_rows

PARTS: dict[str, Callable[[Run], list[Row]]] = {
    **_gpu_kernels.CORRECT,
    **_gpu_end_to_end.PARTS,
    **_gpu_kernels.FAST,
}


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of gpu.json and gpu.log")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="a part to run; may be repeated")
    return parser.parse_args(words)


def obstacle() -> str | None:
    """Why nothing can run here, in one line; None if it can."""
    try:
        import torch
        import triton  # noqa: F401
    except ModuleNotFoundError as missing:
        return f"benchmarks.gpu needs torch and triton: {missing}. Run: pip install 'zoomrt[kernels]'"
    if not torch.cuda.is_available():
        return "benchmarks.gpu needs an NVIDIA GPU and torch with CUDA; torch sees none here. Nothing was run."
    return None


def run_parts(run: Run, parts: dict[str, Callable[[Run], list[Row]]]) -> int:
    """Run each part in its own try and save after each; returns how many failed."""
    failed = 0
    for name, part in parts.items():
        run.say(f"\n## {name}: {(part.__doc__ or '').strip().splitlines()[0] if part.__doc__ else ''}\n")
        try:
            rows = part(run)
            run.figures[name] = rows
            run.say(format_rows(rows))
        except Exception:
            failed += 1
            run.figures[name] = {"failed": traceback.format_exc()}
            run.say(traceback.format_exc())
        run.save()
    return failed


def main(words: Sequence[str] | None = None) -> int:
    chosen = arguments(words)
    why_not = obstacle()
    if why_not:
        print(why_not, file=sys.stderr)
        return 2
    only = chosen.only or list(PARTS)
    parts = {name: part for name, part in PARTS.items() if name in {"machine", *only}}
    run = Run(chosen.out)
    failed = run_parts(run, parts)
    run.say(f"{len(parts) - failed} of {len(parts)} parts ran; {chosen.out / 'gpu.json'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
