"""The forms of GroupNorm against its definition in float64, on fresh pictures of awkward shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from zoomrt.export.graph.group_norm import group_norms_as


def slow_group_norm(x: np.ndarray, norm: nn.GroupNorm) -> np.ndarray:
    weight, bias = (values.detach().double().numpy() for values in (norm.weight, norm.bias))
    out = np.empty(x.shape)
    width = x.shape[1] // norm.num_groups
    for image in range(len(x)):
        for first in range(0, x.shape[1], width):
            group = x[image, first : first + width]
            normal = (group - group.mean()) / np.sqrt(group.var() + norm.eps)
            for channel in range(first, first + width):
                out[image, channel] = normal[channel - first] * weight[channel] + bias[channel]
    return out


@pytest.mark.parametrize("form", ["instance", "moments"])
@pytest.mark.parametrize("shape", [(1, 32, 5, 7), (3, 6, 1, 9), (2, 12, 11), (1, 8, 16, 16)])
@pytest.mark.parametrize("groups", ["one", "third", "each"])
def test_against_the_definition(form: str, shape: tuple[int, ...], groups: str) -> None:
    """Also where eps counts as much as the variance, where there is none, and where the mean is a hundred times the
    deviation: FP32 then holds 1e-5 of it."""
    norm = nn.GroupNorm({"one": 1, "third": shape[1] // 4 or 1, "each": shape[1]}[groups], shape[1], eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    network = nn.Sequential(norm)
    for mean, deviation, tolerance in ((0.0, 1.0, 2e-5), (0.0, 1e-3, 2e-5), (3.0, 0.0, 2e-5), (100.0, 1.0, 1e-3)):
        x = torch.randn(shape) * deviation + mean
        with group_norms_as(form, network), torch.no_grad():  # type: ignore[arg-type]
            assert network[0] is not norm
            got = network(x)
        assert network[0] is norm
        np.testing.assert_allclose(got.numpy(), slow_group_norm(x.double().numpy(), norm), atol=tolerance)


@pytest.mark.parametrize("form", ["instance", "moments"])
def test_vectors_have_groups_too(form: str) -> None:
    network = nn.Sequential(nn.GroupNorm(6, 48))
    x = torch.randn(5, 48)
    with group_norms_as(form, network), torch.no_grad():  # type: ignore[arg-type]
        got = network(x)
    np.testing.assert_allclose(got.numpy(), slow_group_norm(x.double().numpy(), network[0]), atol=2e-5)


def test_a_group_norm_without_weights_is_left_alone() -> None:
    network = nn.Sequential(nn.GroupNorm(2, 4, affine=False))
    with group_norms_as("moments", network):
        assert isinstance(network[0], nn.GroupNorm)
