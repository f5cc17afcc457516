"""to_planar: the same numbers from a plain torch layer."""

from __future__ import annotations

import pytest
import torch
from cases import GROUPS, integers
from torch import nn

import gconv


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, "same"), (4, 2, 1), (1, 1, 0)])
@pytest.mark.parametrize("name", GROUPS)
def test_the_planar_layer_gives_the_same_map(name: str, size: int, stride: int, padding: int | str, bias: bool) -> None:
    group = gconv.group_from_name(name)
    options = {"group": group, "stride": stride, "padding": padding, "bias": bias}
    lifting = gconv.nn.LiftingConv2d(3, 2, size, **options).double()
    layer = gconv.nn.GroupConv2d(2, 4, size, **options).double()
    with torch.no_grad():
        for parameter in (*lifting.parameters(), *layer.parameters()):
            parameter.copy_(integers(tuple(parameter.shape)))
    image = integers((2, 3, 8, 6))
    feature_map = integers((2, 2, group.order, 8, 6))
    planar_lifting, planar = gconv.to_planar(lifting), gconv.to_planar(layer)
    assert type(planar) is nn.Conv2d
    assert (planar.in_channels, planar.out_channels) == (2 * group.order, 4 * group.order)
    assert torch.equal(planar_lifting(image), lifting(image).flatten(1, 2))
    assert torch.equal(planar(feature_map.flatten(1, 2)), layer(feature_map).flatten(1, 2))
    assert (planar.bias is None) == (not bias)


def test_it_is_a_copy_of_the_same_kind() -> None:
    layer = gconv.nn.GroupConv2d(2, 3, 3, group=gconv.CyclicGroup(4)).eval().double()
    planar = gconv.to_planar(layer)
    assert not planar.training
    assert planar.weight.dtype == torch.float64
    assert planar.weight.requires_grad
    before = layer.weight.detach().clone()
    nn.init.zeros_(planar.weight)
    assert torch.equal(layer.weight, before)


def test_a_normalised_layer_converts_with_the_weight_it_applies() -> None:
    layer = gconv.nn.spectral_norm(gconv.nn.GroupConv2d(2, 3, 3, group=gconv.DihedralGroup(2))).eval()
    x = torch.randn(1, 2, 4, 5, 5)
    torch.testing.assert_close(gconv.to_planar(layer)(x.flatten(1, 2)), layer(x).flatten(1, 2))


def test_other_modules_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^to_planar: module must be a LiftingConv2d or GroupConv2d, got Conv2d"):
        gconv.to_planar(nn.Conv2d(1, 1, 1))
