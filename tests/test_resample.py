"""Up- and down-sampling: exact equivariance on every size, the values of the filters, layout, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import GROUPS, integers

import gconv

LAYERS = {
    "average": lambda: gconv.nn.GroupDownsample2d("average"),
    "max": lambda: gconv.nn.GroupDownsample2d("max"),
    "blur_down": lambda: gconv.nn.GroupDownsample2d("blur"),
    "nearest": lambda: gconv.nn.GroupUpsample2d("nearest"),
    "blur_up": lambda: gconv.nn.GroupUpsample2d("blur"),
}
SIZES = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 7), (7, 7), (8, 6), (9, 1)]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", GROUPS)
def test_every_size_is_exactly_equivariant(name: str, layer: str) -> None:
    group, resample = gconv.group_from_name(name), LAYERS[layer]()
    for height, width in SIZES:
        x = integers((2, 3, group.order, height, width))
        out = resample(x)
        for element in group.elements:
            assert torch.equal(resample(group.act(x, element)), group.act(out, element)), (height, width)


@pytest.mark.parametrize("layer", LAYERS)
def test_sizes_layout_and_the_planar_case(layer: str) -> None:
    resample = LAYERS[layer]()
    for height, width in SIZES:
        for batch in (0, 1, 3):
            x = torch.randn(batch, 5, 4, height, width)
            down = layer in ("average", "max", "blur_down")
            shape = (-(-height // 2), -(-width // 2)) if down else (2 * height, 2 * width)
            out = resample(x.contiguous(memory_format=torch.channels_last_3d))
            assert out.shape == (batch, 5, 4, *shape)
            if batch:
                assert out.is_contiguous(memory_format=torch.channels_last_3d)
            assert torch.allclose(resample(x), out, atol=1e-6)
            for g in range(4):  # every orientation is an image of its own
                assert torch.allclose(resample(x[:, :, g]), out[:, :, g], atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_constants_and_gradients_are_kept(layer: str) -> None:
    resample = LAYERS[layer]()
    for height, width in SIZES:
        x = torch.full((1, 2, 4, height, width), 3.5, dtype=torch.float64, requires_grad=True)
        assert resample(x).eq(3.5).all()
    x = torch.randn(1, 1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(resample, (x,))
    assert torch.autograd.gradgradcheck(resample, (x,))


def test_average_by_hand() -> None:
    down = gconv.nn.GroupDownsample2d()
    row = torch.tensor([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]])
    assert down(row).flatten().tolist() == [1.5, 3.0, 4.5]  # windows of 2, 3 and 2 pixels
    assert down(torch.arange(4.0).view(1, 1, 2, 2)).flatten().tolist() == [1.5]
    even = torch.randn(1, 2, 6, 8)
    assert torch.allclose(down(even), F.avg_pool2d(even, 2))


def test_max_by_hand() -> None:
    down = gconv.nn.GroupDownsample2d("max")
    row = torch.tensor([[[[5.0, 1.0, 2.0, 4.0, -3.0]]]])
    assert down(row).flatten().tolist() == [5.0, 4.0, 4.0]  # windows of 2, 3 and 2 pixels
    even = torch.randn(1, 2, 6, 8)
    assert torch.equal(down(even), F.max_pool2d(even, 2))


def test_blur_by_hand() -> None:
    down, up = gconv.nn.GroupDownsample2d("blur"), gconv.nn.GroupUpsample2d("blur")
    even = torch.zeros(1, 1, 2, 8)
    even[..., 3] = 8
    assert down(even).flatten().tolist() == [0, 3, 1, 0]  # windows start at -1, 1, 3, 5
    odd = torch.zeros(1, 1, 1, 5)
    odd[..., 2] = 4
    assert down(odd).flatten().tolist() == [0, 2, 0]  # 1 2 1 over 4
    assert up(odd)[0, 0].tolist() == [[0, 0, 0, 1, 3, 3, 1, 0, 0, 0]] * 2  # nearest, then 1 2 1 over 4


def test_modes_are_shown() -> None:
    assert repr(gconv.nn.GroupDownsample2d("blur")) == "GroupDownsample2d(mode='blur')"
