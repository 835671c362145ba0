"""Move range between what a layer reads and its weights, channel by channel, without changing the network's function.

A channel that is much larger than the others forces a coarse scale on all of them. Dividing it by s where it is made
and multiplying the reader's weights for it by s is exact where nothing but linear steps lie between (SmoothQuant,
Xiao et al., arXiv 2211.10438; cross-layer equalisation, Nagel et al., arXiv 1906.04721). Here that is so

  norm -> to_q, to_k, to_v       into the norm's affine
  norm -> proj_in, norm3 -> ff   likewise
  to_v -> attention -> to_out    into to_v, or the constant values: attention averages over tokens, not channels
  ff value half -> ff output     into the value half of a gated feed-forward; the gate is not linear

and nowhere else: a residual block's norm -> SiLU -> conv cannot be, because SiLU(x / s) is not SiLU(x) / s, and a
multiplication of its own would cost a pass over memory. Convolutions are helped by their range (`ranges`), not here.

Factors are powers of two, so FP32 and FP16 results stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoomrt.calibration.calibrate import Statistics
from zoomrt.errors import PrecisionError

MIGRATION = 0.5
"""SmoothQuant's alpha: 0 leaves activations alone, 1 makes all their channels equal."""
_SMALLEST_SHARE = 1e-4  # channels weaker than this share of the strongest count as this strong


@dataclass(frozen=True)
class Seam:
    """Where a channel's range can be moved.

    makers : tensors that make the channels, each with the shape that channel factors take to divide it.
    readers : the layers that read them, in no other way than as their input channels.
    """

    makers: tuple[tuple[Tensor, tuple[int, ...]], ...]
    readers: tuple[nn.Conv2d | nn.Linear, ...]


@torch.no_grad()
def equalise(network: nn.Module, statistics: Statistics, tile: Tensor, *, per_channel: bool) -> int:
    """Balance every seam of the network, in place; returns how many there were. Calibrate again afterwards.

    statistics : of this network. tile : an input, for the proof that the function stayed the same.
    per_channel : whether weights get a scale for each output channel. If not, a maker's rows have a common scale too,
    and are balanced with the rest.

    Raises PrecisionError if the function changed; that is a network whose parts have the usual names and do other
    things. Everything is then as it was.
    """
    names = {id(module): name for name, module in network.named_modules()}
    wanted = network(tile)
    moved: list[tuple[Seam, Tensor]] = []
    for seam in seams_of(network):
        observer = statistics.observers.get(names[id(seam.readers[0])])
        if observer is None:
            continue  # never ran
        factors = _factors(seam, observer.channel_max, per_channel)
        _apply(seam, factors)
        moved.append((seam, factors))
    if not torch.equal(network(tile), wanted):
        for seam, factors in reversed(moved):
            _apply(seam, 1 / factors)
        raise PrecisionError(
            "equalising channels changed what the network computes",
            seen=f"another result after {len(moved)} seams",
            needed="the same result to the bit",
            remedy="Report this model.",
        )
    return len(moved)


def _factors(seam: Seam, activation: Tensor, per_channel: bool) -> Tensor:
    """(channels,) powers of two: by how much the makers shrink and the readers grow."""
    shrinks = _floored(activation)
    rows = [tensor for tensor, _ in seam.makers if tensor.ndim > 1]
    if rows and not per_channel:
        shrinks = (shrinks * _floored(rows[0].abs().flatten(1).amax(1))).sqrt()
    columns = [reader.weight.abs().transpose(0, 1).flatten(1).amax(1) for reader in seam.readers]
    grows = _floored(torch.stack(columns).amax(0))
    exponents = MIGRATION * shrinks.log2() - (1 - MIGRATION) * grows.log2()
    return torch.exp2(exponents.round())


def _floored(ranges: Tensor) -> Tensor:
    return ranges.clamp(min=max(float(ranges.max()) * _SMALLEST_SHARE, 1e-20))


def _apply(seam: Seam, factors: Tensor) -> None:
    for tensor, shape in seam.makers:
        tensor.div_(factors.reshape(shape))
    for reader in seam.readers:
        reader.weight.mul_(factors.reshape(1, -1, *[1] * (reader.weight.ndim - 2)))


def seams_of(network: nn.Module) -> Iterator[Seam]:
    """Every seam, found by the names that diffusers and the families share for parts of a transformer."""
    module: Any
    for module in network.modules():
        if _affine(norm := getattr(module, "group_norm", None)) and hasattr(module, "to_q"):
            yield Seam(_makers(norm), _inputs_of(module))
        if _affine(norm := getattr(module, "norm1", None)) and hasattr(module, "attn1"):
            yield Seam(_makers(norm), _inputs_of(module.attn1))
        if _affine(norm := getattr(module, "norm2", None)) and hasattr(module, "attn2"):
            yield Seam(_makers(norm), (module.attn2.to_q,))  # keys and values come from the prompt
        if _affine(norm := getattr(module, "norm", None)) and hasattr(module, "proj_in"):
            yield Seam(_makers(norm), (module.proj_in,))
        if _affine(norm := getattr(module, "norm3", None)) and hasattr(module, "ff"):
            yield from _feed_forward(norm, module.ff)
        if hasattr(module, "to_out") and (hasattr(module, "to_v") or hasattr(module, "value")):
            yield _values(module)


def _affine(norm: object) -> bool:
    return isinstance(norm, (nn.GroupNorm, nn.LayerNorm)) and norm.weight is not None


def _makers(norm: Any) -> tuple[tuple[Tensor, tuple[int, ...]], ...]:
    return tuple((tensor, (-1,)) for tensor in (norm.weight, norm.bias) if tensor is not None)


def _rows(layer: nn.Linear, count: int) -> tuple[tuple[Tensor, tuple[int, ...]], ...]:
    """The first `count` outputs of a layer as makers."""
    bias = () if layer.bias is None else ((layer.bias[:count], (-1,)),)
    return ((layer.weight[:count], (-1, 1)), *bias)


def _inputs_of(attention: Any) -> tuple[nn.Linear, ...]:
    return attention.to_q, attention.to_k, attention.to_v


def _values(attention: Any) -> Seam:
    """Values of an attention and its output matrix; the values are a constant where the prompt is."""
    out = attention.to_out if isinstance(attention.to_out, nn.Linear) else attention.to_out[0]
    if hasattr(attention, "to_v"):
        return Seam(_rows(attention.to_v, out.in_features), (out,))
    _, heads, _, size = attention.value.shape
    return Seam(((attention.value, (1, heads, 1, size)),), (out,))


def _feed_forward(norm: Any, feed_forward: Any) -> Iterator[Seam]:
    """A gated feed-forward: one matrix makes values and gate, value * GELU(gate) goes through a second one."""
    first, last = feed_forward.net[0].proj, feed_forward.net[2]
    yield Seam(_makers(norm), (first,))
    if first.out_features == 2 * last.in_features:
        yield Seam(_rows(first, last.in_features), (last,))
