"""How GroupNorm is written into a graph: the same numbers, in the operators that the runner is fastest at.

`node` leaves it to the exporter: one GroupNormalization from opset 21 on, which TensorRT fuses. `instance` makes each
group a channel of an InstanceNormalization, for which ONNX Runtime has kernels on the CPU and on CUDA. `moments` writes
the arithmetic out in means over height and width, which leave pixels where they are: OpenVINO takes both others apart
into views that want another memory layout, and copies every picture twice for it (`benchmarks/group_norm_forms.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoomrt.runtime.backends import GroupNormForm


class _Instances(nn.Module):
    """Each group as one channel of an instance norm. x : (N, C, *)."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], self.norm.num_groups, -1)
        normal = nn.functional.instance_norm(grouped, eps=self.norm.eps).reshape(x.shape)
        weight, bias = (values.view(1, -1, *[1] * (x.dim() - 2)) for values in (self.norm.weight, self.norm.bias))
        return normal * weight + bias


class _Moments(nn.Module):
    """Means of channels, then of groups, whose channels have equally many pixels. x : (N, C, *).

    Two passes, for the mean and for the deviations from it: of x * x, small deviations from a large mean would be lost.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        deviations = x - self._means(x)
        gain = torch.rsqrt(self._means(deviations * deviations) + self.norm.eps)
        weight, bias = (values.view(1, -1, *[1] * (x.dim() - 2)) for values in (self.norm.weight, self.norm.bias))
        return deviations * (gain * weight) + bias

    def _means(self, x: Tensor) -> Tensor:
        """Of each channel's group: (N, C, 1, ...)."""
        images, channels, *rest = x.shape
        groups = self.norm.num_groups
        means = x.mean(dim=tuple(range(2, x.dim()))) if rest else x
        means = means.reshape(images, groups, channels // groups).mean(2, keepdim=True)
        return means.expand(-1, -1, channels // groups).reshape(images, channels, *[1] * len(rest))


_FORMS = {"instance": _Instances, "moments": _Moments}


@contextlib.contextmanager
def group_norms_as(form: GroupNormForm, network: nn.Module) -> Iterator[None]:
    """Swap the network's affine GroupNorms for that form, for the time of an export; no weight is copied.

    `moments` is for FP32: in FP16 the squares would end at 65504.
    """
    places = [
        (parent, name, child)
        for parent in (network.modules() if form != "node" else ())
        for name, child in parent.named_children()
        if isinstance(child, nn.GroupNorm) and child.affine
    ]
    try:
        for parent, name, norm in places:
            setattr(parent, name, _FORMS[form](norm))
        yield
    finally:
        for parent, name, norm in places:
            setattr(parent, name, norm)
