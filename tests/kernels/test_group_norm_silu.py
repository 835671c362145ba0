"""Group norm and SiLU in Triton's interpreter against float64 of the same rounded inputs.

Tolerance: one rounding of the result, u of its size (2^-11 FP16, 2^-8 BF16), and FP32 arithmetic: 2e-6 of a normalised
value (statistics, square root, exponential), more where a mean of m deviations is subtracted: x itself is exact, but
x - mean inherits the mean's FP32 rounding, m * 2^-23.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoomrt.errors import InputError
from zoomrt.kernels import group_norm_silu as module
from zoomrt.kernels.group_norm_silu import configurations, cost, group_norm_silu, reference

# beyond the picture the interpreter computes with zeros that lie a thousand deviations from the mean
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")

ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}


def picture(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, layout: str = "nchw") -> Tensor:
    x = (torch.randn(shape, generator=generator) * 2 + 1).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "nhwc" else x


def check(x: Tensor, groups: int, *parts: Tensor | None, means: float = 1, **options: object) -> None:
    out = group_norm_silu(x, groups, *parts, **options)  # type: ignore[arg-type]
    exact = reference(x.double(), groups, *parts, **options)  # type: ignore[arg-type]
    assert out.dtype == x.dtype
    assert out.stride() == x.stride()
    gain = 1.0
    for part, one in zip(parts, (0, 0, 1, 0), strict=False):
        gain *= 1 if part is None else max(1.0, one + part.abs().max().item())
    allowed = gain * (5e-6 + means * 2.0**-22)
    torch.testing.assert_close(out.double(), exact, rtol=1.01 * ROUNDOFF[x.dtype], atol=allowed)


def parameters(generator: torch.Generator, n: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    shapes = ((channels,), (channels,), (n, channels), (n, channels))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("n", "channels", "groups", "high", "wide", "dtype"),
    [
        (1, 32, 32, 1, 2, torch.float32),
        (4, 6, 2, 5, 7, torch.float16),
        (1, 72, 24, 7, 3, torch.bfloat16),
        (1, 10, 2, 7, 11, torch.float32),
    ],
)
def test_small_groups(
    generator: torch.Generator,
    layout: str,
    n: int,
    channels: int,
    groups: int,
    high: int,
    wide: int,
    dtype: torch.dtype,
) -> None:
    x = picture(generator, (n, channels, high, wide), dtype, layout)
    check(x, groups, *parameters(generator, n, channels, dtype))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("n", "channels", "groups", "high", "wide", "dtype"),
    [
        (1, 8, 2, 37, 33, torch.float16),
        (4, 6, 2, 11, 17, torch.bfloat16),
        (1, 10, 1, 21, 23, torch.float32),
    ],
)
def test_large_groups(
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    n: int,
    channels: int,
    groups: int,
    high: int,
    wide: int,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(module, "HELD", 256)  # two passes over few tiles: the interpreter is slow
    assert module._held(channels // groups, high * wide) > module.HELD
    x = picture(generator, (n, channels, high, wide), dtype, layout)
    check(x, groups, *parameters(generator, n, channels, dtype))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_many_steps_and_parts(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Tiles so small that parts take several steps and the last part and the last step are ragged."""
    monkeypatch.setattr(module, "TILE", 256)
    monkeypatch.setattr(module, "PARTS", 4)
    monkeypatch.setattr(module, "HELD", 256)
    n, size, high, wide = (1, 5, 13, 33) if layout == "nchw" else (1, 5, 3, 13)
    x = picture(generator, (n, size, high, wide), torch.float32, layout)
    first, second = module.two_passes("fp32", layout, size, (None,) * 4)
    shared = module.pass_numbers(layout, n, 1, size, high * wide, first, second)
    assert shared["steps"] > 1
    assert 1 < shared["parts"] <= 4
    check(x, 1, *parameters(generator, n, size, torch.float32))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("held", [64, 16384])
def test_a_mean_of_a_thousand_deviations(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, held: int, layout: str
) -> None:
    """E[x^2] - E[x]^2 in FP32 has an error of 1e6 * 2^-24 times the variance here, and of its sums many times that."""
    monkeypatch.setattr(module, "HELD", held)
    x = picture(generator, (1, 4, 29, 31), torch.float32, layout) / 2 + 1000
    check(x, 2, means=1000)


@pytest.mark.parametrize("used", [(), (0,), (1,), (0, 1), (2,), (3,), (2, 3)])
@pytest.mark.parametrize("silu", [False, True])
def test_parts_left_out(generator: torch.Generator, used: tuple[int, ...], silu: bool) -> None:
    x = picture(generator, (2, 6, 3, 5), torch.float16)
    given_parts = parameters(generator, 2, 6, torch.float32)
    check(x, 3, *(part if i in used else None for i, part in enumerate(given_parts)), silu=silu, epsilon=1e-6)


def test_scale_and_shift_from_one_linear_layer(generator: torch.Generator) -> None:
    """`embedding.chunk(2, dim=1)`: rows with gaps."""
    x = picture(generator, (3, 8, 4, 4), torch.float16)
    scale, shift = torch.randn((3, 16), generator=generator).half().chunk(2, dim=1)
    check(x, 2, None, None, scale, shift)


def test_flat_groups_are_not_blown_up() -> None:
    x = torch.full((1, 4, 3, 3), 5.0, dtype=torch.float16)
    assert (group_norm_silu(x, 2) == 0).all()


@settings(max_examples=200)
@given(
    st.sampled_from(["nchw", "nhwc"]), st.integers(1, 8), st.integers(1, 64), st.integers(1, 80), st.integers(1, 2**20)
)
def test_parts_and_blocks_cover_every_pixel(layout: str, n: int, groups: int, size: int, pixels: int) -> None:
    first, second = module.two_passes("fp16", layout, size, (None,) * 4)
    shared = module.pass_numbers(layout, n, groups, size, pixels, first, second)
    view = module.first_pass_view(layout, size, pixels)
    assert 1 <= shared["parts"] <= module.PARTS
    assert (shared["parts"] - 1) * shared["part_size"] < size * pixels <= shared["parts"] * shared["part_size"]
    grid = first.grid_of({"groups": groups, "pictures": n, **view, **shared})
    assert grid[0] == shared["parts"]
    across = second.grid_of({"groups": groups, "group_channels": size, "pixels": pixels, "pictures": n, **shared})
    assert across[0] * shared["block_steps"] * second.constants["PIXELS"] >= pixels
    assert across[1] * second.constants["GROUPS"] * second.constants["CHANNELS"] >= groups * size


@pytest.mark.parametrize(
    ("x", "groups", "parts", "words"),
    [
        (torch.zeros(1, 6, 4), 2, (), r"\(1, 6, 4\)"),
        (torch.zeros(1, 6, 4, 4), 4, (), "6 channels in 4 groups"),
        (torch.zeros(1, 6, 4, 8)[..., ::2], 2, (), "need a contiguous tensor"),
        (torch.zeros(1, 6, 4, 4, dtype=torch.float64), 2, (), "float64"),
        (torch.zeros(2, 6, 4, 4), 2, (torch.zeros(5),), "weight"),
        (torch.zeros(2, 6, 4, 4), 2, (None, None, torch.zeros(6)), "scale"),
    ],
)
def test_wrong_arguments_are_told_so(x: Tensor, groups: int, parts: tuple[Tensor | None, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        group_norm_silu(x, groups, *parts)


def test_the_cost_counts_the_passes() -> None:
    small, large = torch.empty(1, 1280, 8, 8, dtype=torch.float16), torch.empty(1, 128, 512, 512, dtype=torch.float16)
    assert cost(1, 1280, 64, 32).bytes == 2 * small.nbytes
    assert cost(1, 128, 512 * 512, 32).bytes == 3 * large.nbytes


def test_names_are_unique() -> None:
    names = [configuration.name for configuration in configurations()]
    assert len(set(names)) == len(names)
