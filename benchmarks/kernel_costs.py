"""Writes the table of docs/kernels.md: what each kernel moves and computes, and the floors that this implies.

python -m benchmarks.kernel_costs

Nothing is timed here. Bandwidths and peaks are the vendor's: H200 data sheet (4.8 TB/s, FP16 989 TFLOP/s dense, FP32
67); Ada architecture white paper for the RTX 4090 (1008 GB/s, FP16 with FP32 sums 165.2 TFLOP/s dense, FP32 82.6).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import table
from zoomrt.kernels import attention, tile_blend, tile_gather
from zoomrt.kernels.cost import Cost

PAGE = Path(__file__).parent.parent / "docs" / "kernels.md"
BEGIN, END = "<!-- costs: python -m benchmarks.kernel_costs -->", "<!-- end of costs -->"
GPUS = {"H200": (4800.0, 989.0, 67.0), "RTX 4090": (1008.0, 165.2, 82.6)}
"""GB/s, TFLOP/s of FP16 with FP32 sums, TFLOP/s of FP32."""

CASES: list[tuple[str, str, Cost]] = [
    ("attention", "UNet, 5 heads of 64, 4096 tokens", attention.cost(1, 5, 4096, 4096, 64)),
    ("attention", "UNet, 10 heads of 64, 1024 tokens", attention.cost(1, 10, 1024, 1024, 64)),
    ("attention", "UNet, 5 heads of 64, 4096 tokens, prompt of 77", attention.cost(1, 5, 4096, 77, 64)),
    ("attention", "VAE, 1 head of 512, 4096 tokens", attention.cost(1, 1, 4096, 4096, 512)),
    ("attention", "VAE, 1 head of 512, 16384 tokens", attention.cost(1, 1, 16384, 16384, 512)),
    ("attention", "SinSR, 64 windows, 6 heads of 32, 64 tokens", attention.cost(64, 6, 64, 64, 32)),
    ("tile_gather", "25 tiles of 128x128, RGB", tile_gather.cost(25, 128, 128)),
    ("tile_gather", "25 tiles of 128x128, NV12", tile_gather.cost(25, 128, 128, "nv12")),
    ("tile_blend", "25 tiles of 512x512 to 2048x2048", tile_blend.cost(2048, 2048, 25, 512, 512)),
]


def floors(kernel: str, cost: Cost) -> list[str]:
    cells = []
    for bandwidth, half, single in GPUS.values():
        peak = half if kernel == "attention" else single
        cells.append(f"{cost.floor_us(bandwidth, peak):.1f} us ({cost.bound(bandwidth, peak)})")
    return cells


def render() -> str:
    """The block between the two marks, marks included."""
    rows = [
        [f"`{kernel}`", case, f"{cost.bytes / 1e6:.2f}", f"{cost.operations / 1e9:.3f}", *floors(kernel, cost)]
        for kernel, case, cost in CASES
    ]
    head = ["Kernel", "Case, FP16", "MB", "GFLOP", *(f"floor on {name}" for name in GPUS)]
    return "\n".join([BEGIN, "", *table(head, rows), END])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + render() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
