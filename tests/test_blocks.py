"""Stages and layers that generators and discriminators are made of; whole networks are tested with those."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gconv
from sgan.architectures import StridedFilter, TransposedFilter
from sgan.blocks import (
    AnalysisBlock,
    Layers,
    MinibatchDiscrimination,
    ResidualAnalysisBlock,
    ResidualSynthesisBlock,
    StridedBlock,
    SynthesisBlock,
    TransposedBlock,
    halvings,
    taps,
)

GROUPS = ["C1", "C4", "D4", "C8"]


@pytest.mark.parametrize("group", GROUPS)
def test_taps_are_the_parameters_of_one_filter(group: str) -> None:
    layers = Layers(gconv.group_from_name(group))
    assert layers.convolution(1, 1, lift=True, bias=False).weight.numel() == taps(layers.group)


@pytest.mark.parametrize("group", GROUPS)
def test_sizes_of_every_block(group: str) -> None:
    layers = Layers(gconv.group_from_name(group))
    order = layers.group.order
    planar, on_group, condition = torch.randn(2, 3, 6, 6), torch.randn(2, 3, order, 6, 6), torch.randn(2, 4)
    up, same, down = ((2, 5, order, side, side) for side in (12, 6, 3))
    assert SynthesisBlock(3, 5, 4, layers, normalise=True)(on_group, condition).shape == up
    for lift, x in ((True, planar), (False, on_group)):
        for upsample, shape in ((True, up), (False, same)):
            residual = ResidualSynthesisBlock(3, 5, 4, layers, lift=lift, upsample=upsample)
            assert residual(x, condition).shape == shape
        transposed = TransposedBlock(3, 5, TransposedFilter(4, 1), layers, lift=lift, activation="silu")
        assert transposed(x, condition).shape == up
        for mode, shape in (("max", down), ("average", down), (None, same)):
            assert AnalysisBlock(3, 5, layers, lift=lift, downsample=mode)(x).shape == shape
            for batch_norm in (True, False):
                block = ResidualAnalysisBlock(3, 5, layers, lift=lift, downsample=mode, batch_norm=batch_norm)
                assert block(x).shape == shape
        for norm in ("none", "spectral", "batch"):
            assert StridedBlock(3, 5, StridedFilter(4, 2, 1, norm), layers, lift=lift)(x).shape == down


def test_residual_blocks_by_hand() -> None:
    """On C1 with identical weights, from torch's own layers, in evaluation."""
    layers = Layers(gconv.CyclicGroup(1))
    block = ResidualAnalysisBlock(3, 5, layers, lift=True, downsample="max", batch_norm=True).eval()
    x = torch.randn(2, 3, 6, 6)

    def planar(convolution: nn.Module) -> nn.Conv2d:
        return gconv.to_planar(convolution)

    skip = planar(block.conv1)(torch.relu(x / (1 + 1e-5) ** 0.5))
    skip = planar(block.conv2)(torch.relu(skip / (1 + 1e-5) ** 0.5))
    expected = nn.MaxPool2d(2)(planar(block.shortcut)(x)) + nn.MaxPool2d(2)(skip)
    torch.testing.assert_close(block(x).squeeze(2), expected, atol=1e-5, rtol=1e-5)


def test_conditions_scale_and_shift_channels_of_residual_synthesis() -> None:
    layers = Layers(gconv.CyclicGroup(4))
    block = ResidualSynthesisBlock(3, 5, 4, layers, lift=False, upsample=True).eval()
    x = torch.randn(1, 3, 4, 6, 6)
    first, second = block(x, torch.randn(1, 4)), block(x, torch.randn(1, 4))
    assert not torch.allclose(first, second)


def minibatch_by_hand(layer: MinibatchDiscrimination, features: Tensor, dim: int) -> Tensor:
    """Salimans et al. 2016, with loops."""
    matrix = layer.direction / layer.direction.norm(dim=0) * layer.scale.exp()
    moved = (features @ matrix).view(len(features), -1, dim)
    out = torch.zeros(len(features), moved.shape[1], dtype=features.dtype)
    for i in range(len(features)):
        for j in range(len(features)):
            if i != j:
                out[i] += torch.exp(-(moved[i] - moved[j]).abs().sum(dim=1))
    return out


def test_minibatch_discrimination_by_hand() -> None:
    layer = MinibatchDiscrimination(4, 3, 2).double()
    nn.init.normal_(layer.scale)
    features = torch.randn(5, 4, dtype=torch.float64)
    out = layer(features)
    torch.testing.assert_close(out[:, :4], features)
    torch.testing.assert_close(out[:, 4:], minibatch_by_hand(layer, features, 2))
    collapsed = layer(features[:1].expand(5, 4))
    torch.testing.assert_close(collapsed[:, 4:], torch.full((5, 3), 4.0, dtype=torch.float64))


@pytest.mark.parametrize(("resolution", "side", "count"), [(64, 4, 4), (7, 7, 0), (28, 7, 2)])
def test_halvings(resolution: int, side: int, count: int) -> None:
    assert halvings(resolution, side) == count


@pytest.mark.parametrize(("resolution", "side"), [(63, 4), (3, 4), (12, 4)])
def test_sizes_that_are_no_power_of_two_apart_are_refused(resolution: int, side: int) -> None:
    with pytest.raises(ValueError, match=f"resolution must be {side} times a power of two, got {resolution}"):
        halvings(resolution, side)
