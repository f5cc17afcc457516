"""lifting_conv2d: the loop oracle, equivariance, and its expanded bank."""

from __future__ import annotations

import oracle
import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, GROUPS, Case, integers

import gconv

# (size, stride, padding, height, width, c_in, c_out, batch, bias)
TINY = [
    (1, 1, 0, 1, 1, 1, 1, 1, False),  # one pixel
    (3, 1, 1, 4, 3, 2, 2, 1, True),
    (2, 1, 0, 3, 2, 1, 2, 2, True),  # even filter: the centre is between pixels
    (3, 2, 1, 5, 4, 2, 1, 1, False),
    (4, 3, 2, 2, 5, 1, 1, 1, True),  # K > H, met by the padding
]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", TINY)
def test_reference_equals_the_loop_oracle(group: str, shape: tuple[int, ...]) -> None:
    case = Case("lifting_conv2d", group, *shape)
    x, weight, bias = case.operands(integers)
    expected = oracle.convolution(
        x.numpy(), weight.numpy(), None if bias is None else bias.numpy(), group, case.stride, case.padding
    )
    assert torch.equal(case.run(x, weight, bias, "reference"), torch.from_numpy(expected))
    x, weight, bias = case.operands(lambda shape: torch.randn(shape, dtype=torch.float64))
    expected = oracle.convolution(
        x.numpy(), weight.numpy(), None if bias is None else bias.numpy(), group, case.stride, case.padding
    )
    torch.testing.assert_close(
        case.run(x, weight, bias, "reference"), torch.from_numpy(expected), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (2, 1, 0), (3, 2, 1), (4, 1, 5)])
def test_moving_the_image_moves_the_map(group: str, size: int, stride: int, padding: int, backend: str) -> None:
    case = Case("lifting_conv2d", group, size, stride, padding, height=7, width=5)
    x, weight, bias = case.operands(integers)
    out = case.run(x, weight, bias, backend)
    for element in case.planar_group.elements:
        moved = case.run(case.planar_group.act(x, element), weight, bias, backend)
        assert torch.equal(moved, case.planar_group.act(out, element))


@pytest.mark.parametrize("group", GROUPS)
def test_the_expanded_bank_is_the_same_operator(group: str) -> None:
    case = Case("lifting_conv2d", group, size=4, stride=1, padding=2)
    x, weight, _ = case.operands(integers)
    bank = gconv.expand_filter(weight, case.planar_group)
    assert bank.shape == (case.c_out * case.planar_group.order, case.c_in, 4, 4)
    out = case.run(x, weight, None)
    assert torch.equal(F.conv2d(x, bank, padding=2), out.flatten(1, 2))


def test_c4_turns_the_filter_counter_clockwise() -> None:
    """A hand-made example: the filter reads the right neighbour, its copies the upper, the left and the lower one."""
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 2] = 1
    x = torch.arange(9.0).view(1, 1, 3, 3)
    out = gconv.lifting_conv2d(x, weight, group=gconv.CyclicGroup(4))
    assert out.flatten().tolist() == [5, 1, 3, 7]
