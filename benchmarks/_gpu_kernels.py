"""The parts of benchmarks/gpu.py about single kernels: the machine, correctness, then speed beside torch.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks._gpu_run import Row, Run, median_us, share, timed


def part_machine(run: Run) -> list[Row]:
    """The device, and what it copies and multiplies at: all shares are of these two."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    source = torch.empty(2**29, dtype=torch.float16, device="cuda")
    target = torch.empty_like(source)
    run.copy_gb_per_s = 2 * source.nbytes / median_us(target.copy_, source) * 1e-3
    a, b = (torch.randn(8192, 8192, dtype=torch.float16, device="cuda") for _ in range(2))
    run.matmul_tflop_per_s = 2 * 8192**3 / median_us(torch.matmul, a, b) * 1e-6
    return [
        {
            "device": properties.name,
            "sm": f"{properties.major}{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory_gb": properties.total_memory / 1e9,
            "cuda": torch.version.cuda,
            "copy_gb_per_s": run.copy_gb_per_s,
            "fp16_matmul_tflop_per_s": run.matmul_tflop_per_s,
        }
    ]


ATTENTIONS = [
    (1, 5, 4096, 4096, 64),
    (1, 10, 1024, 1024, 64),
    (1, 5, 4096, 77, 64),
    (1, 8, 4096, 4096, 40),
    (1, 16, 4096, 4096, 72),
    (1, 16, 1024, 1024, 128),
    (1, 1, 4096, 4096, 512),
    (1, 1, 16384, 16384, 512),
]
"""batch, heads, query tokens, key tokens, size."""


def _attention_inputs(shape: tuple[int, ...], dtype: Any) -> list[Any]:
    import torch

    batch, heads, queries, keys, size = shape
    return [
        torch.randn(batch, tokens, heads, size, device="cuda").to(dtype).transpose(1, 2)
        for tokens in (queries, keys, keys)
    ]


def part_attention_correct(_run: Run) -> list[Row]:
    """Largest error against float64 of the same inputs, beside torch's own."""
    import torch
    from torch.nn import functional as F

    from zoomrt.kernels.attention import SIZES, attention, reference

    rows = []
    for dtype in (torch.float16, torch.bfloat16):
        for size in (*SIZES, 30, 160):
            q, k, v = _attention_inputs((2, 3, 333, 77, size), dtype)
            exact = reference(q.double(), k.double(), v.double())
            ours = (attention(q, k, v) - exact).abs().max().item()
            torchs = (F.scaled_dot_product_attention(q, k, v) - exact).abs().max().item()
            allowed = (2 * torch.finfo(dtype).eps / 2 + 1e-5) * v.abs().max().item()
            rows.append({"case": f"d{size} {dtype}", "ours": ours, "torch": torchs, "within": ours <= allowed})
        q, k, v = _attention_inputs((12, 6, 64, 64, 32), dtype)
        bias, mask = torch.randn(6, 64, 64, device="cuda"), torch.randn(4, 64, 64, device="cuda") * 10
        exact = reference(q.double(), k.double(), v.double(), bias, mask)
        ours = (attention(q, k, v, bias, mask) - exact).abs().max().item()
        allowed = (2 * torch.finfo(dtype).eps / 2 + 1e-5) * v.abs().max().item()
        rows.append({"case": f"windows {dtype}", "ours": ours, "torch": "", "within": ours <= allowed})
    return rows


def part_attention(run: Run) -> list[Row]:
    """Beside every backend of torch's attention. Goals: d64 0.9 of flash, d512 twice the best that accepts it."""
    import torch
    from torch.nn import functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from zoomrt.kernels.attention import attention, cost, reference

    backends = {
        "flash": SDPBackend.FLASH_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "math": SDPBackend.MATH,
    }
    compiled = torch.compile(reference, dynamic=False)
    rows = []
    for shape in ATTENTIONS:
        q, k, v = _attention_inputs(shape, torch.float16)
        ours = timed(attention, q, k, v)
        row: Row = {"case": "x".join(map(str, shape)), "ours_us": ours}
        for name, backend in backends.items():
            with sdpa_kernel(backend):
                row[f"{name}_us"] = timed(F.scaled_dot_product_attention, q, k, v)
        row["compile_us"] = timed(compiled, q, k, v)
        peers = [row[f"{name}_us"] for name in (*backends, "compile") if isinstance(row[f"{name}_us"], float)]
        if isinstance(ours, float):
            row["best_peer_over_ours"] = min(peers) / ours if peers else ""
            row["share_of_floor"] = share(cost(*shape).floor_us(run.copy_gb_per_s, run.matmul_tflop_per_s), ours)
        rows.append(row)
    return rows


def part_attention_blocks(_run: Run) -> list[Row]:
    """Block sizes, warps and stages around the shipped ones, for heads of 64 and 512."""
    import itertools
    from dataclasses import replace

    import torch

    from zoomrt.kernels import attention as module

    shipped = module.configuration
    rows = []
    tried = [((1, 5, 4096, 4096, 64), *c) for c in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4))]
    tried += [((1, 1, 4096, 4096, 512), *c) for c in itertools.product((64, 128), (32, 64), (8,), (1, 2, 3))]
    try:
        for shape, high, wide, warps, stages in tried:

            def changed(*a: Any, _c: tuple[int, ...] = (high, wide, warps, stages), **o: Any) -> Any:
                base = shipped(*a, **o)
                constants = {**base.constants, "ROWS": _c[0], "COLUMNS": _c[1]}
                return replace(base, constants=constants, warps=_c[2], stages=_c[3])

            module.configuration = changed
            q, k, v = _attention_inputs(shape, torch.float16)
            time = timed(module.attention, q, k, v, repeats=15)
            case = {"size": shape[-1], "rows": high, "columns": wide, "warps": warps, "stages": stages}
            rows.append({**case, "us": time})
    finally:
        module.configuration = shipped
    return sorted(rows, key=lambda row: (row["size"], row["us"] if isinstance(row["us"], float) else 1e9))


def part_frame(run: Run) -> list[Row]:
    """Gather, blend and colours of a 512x512 frame to 2048x2048: bytes equal to the CPU's, then time."""
    import numpy as np
    import torch

    from zoomrt.bundle import TileFacts
    from zoomrt.kernels import tile_blend, tile_gather
    from zoomrt.runtime.tiles import pixels
    from zoomrt.runtime.tiles.blend import Blender
    from zoomrt.runtime.tiles.plan import plan

    facts = TileFacts(
        height=128, width=128, overlap=32, context=8, scale=4, batches=(1,), value_range=(-1.0, 1.0),
        dtype="float16",
    )  # fmt: skip
    tiles = plan(512, 512, facts)
    places = [(row.origin, column.origin) for row in tiles.rows.spans for column in tiles.columns.spans]
    origins = torch.tensor(places, dtype=torch.int32, device="cuda")
    frame = torch.randint(0, 256, (512, 512, 3), dtype=torch.uint8)
    on_gpu, gathered = frame.cuda(), torch.empty(len(tiles), 3, 128, 128, dtype=torch.float16, device="cuda")
    tile_gather.tile_gather(on_gpu, origins, gathered, (-1.0, 1.0))
    expected = np.empty((len(tiles), 3, 128, 128), np.float32)
    for index in range(len(tiles)):
        pixels.gather(frame.numpy(), tiles, index, facts, expected[index])
    rows: list[Row] = [{"case": "gather", "equal": torch.equal(gathered.cpu(), torch.from_numpy(expected).half())}]
    rows[0]["ours_us"] = median_us(lambda: tile_gather.tile_gather(on_gpu, origins, gathered, (-1.0, 1.0)))
    moved = tile_gather.cost(len(tiles), 128, 128).bytes
    rows[0]["share_of_copy"] = share(moved / run.copy_gb_per_s * 1e-3, rows[0]["ours_us"])

    grid = (len(tiles.rows.spans), len(tiles.columns.spans))
    values = (torch.rand(*grid, 3, 512, 512) * 2.2 - 1.1).half()
    out = np.empty((2048, 2048, 3), np.uint8)
    blender = Blender(tiles)
    for index, tile in enumerate(values.flatten(0, 1).numpy()):
        high, wide, block = blender.add(index, tile)
        pixels.store(pixels.values_of(block, facts, 3, 255.0), out[high, wide], 255.0)
    axes = [tile_blend.axis_table(axis.spans, axis.ramp.tolist()) for axis in (tiles.rows, tiles.columns)]
    across, down = ((places.cuda(), weights.cuda()) for places, weights in (axes[1], axes[0]))
    tiles_on_gpu, target = values.cuda(), torch.empty(2048, 2048, 3, dtype=torch.uint8, device="cuda")
    faults = torch.empty(tile_blend.programs(2048, 2048), device="cuda")

    def blend() -> None:
        tile_blend.tile_blend(tiles_on_gpu, down, across, target, (-1.0, 1.0), faults=faults)

    blend()
    row: Row = {"case": "blend", "equal": torch.equal(target.cpu(), torch.from_numpy(out)), "ours_us": median_us(blend)}
    moved = tile_blend.cost(2048, 2048, len(tiles), 512, 512).bytes
    rows.append({**row, "share_of_copy": share(moved / run.copy_gb_per_s * 1e-3, row["ours_us"])})

    return rows


def part_interop(_run: Run) -> list[Row]:
    """A frame in CuPy's memory, gathered and blended where it lies."""
    import cupy
    import torch

    from zoomrt.kernels.tile_gather import reference, tile_gather

    frame = cupy.random.randint(0, 256, (33, 47, 3), dtype=cupy.uint8)
    view = torch.from_dlpack(frame)
    origins = torch.tensor([[-5, 3], [20, 30]], dtype=torch.int32)
    out = torch.empty(2, 3, 24, 32, device="cuda")
    tile_gather(view, origins.cuda(), out)
    exact = reference(origins, (24, 32), (0, 1), view.cpu())
    error = (out.cpu() - exact).abs().max().item()
    return [{"case": "CuPy frame", "same_memory": view.data_ptr() == frame.data.ptr, "largest_error": error}]


CORRECT: dict[str, Callable[[Run], list[Row]]] = {
    "machine": part_machine,
    "attention-correct": part_attention_correct,
    "frame": part_frame,
    "interop": part_interop,
}
FAST: dict[str, Callable[[Run], list[Row]]] = {
    "attention": part_attention,
    "attention-blocks": part_attention_blocks,
}
