"""group_conv2d: the loop oracle, equivariance, its expanded bank, and the algebra of its filters."""

from __future__ import annotations

import oracle
import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, GROUPS, Case, integers

import gconv

# (size, stride, padding, height, width, c_in, c_out, batch, bias)
TINY = [
    (1, 1, 0, 1, 1, 1, 1, 1, False),  # one pixel: the group algebra alone
    (3, 1, 1, 3, 2, 2, 2, 1, True),
    (2, 1, 0, 3, 2, 1, 2, 2, True),  # even filter: the centre is between pixels
    (3, 2, 1, 4, 3, 2, 1, 1, False),
    (4, 3, 2, 2, 5, 1, 1, 1, True),  # K > H, met by the padding
]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", TINY)
def test_reference_equals_the_loop_oracle(group: str, shape: tuple[int, ...]) -> None:
    case = Case("group_conv2d", group, *shape)
    for draw in (integers, lambda shape: torch.randn(shape, dtype=torch.float64)):
        x, weight, bias = case.operands(draw)
        expected = oracle.convolution(
            x.numpy(), weight.numpy(), None if bias is None else bias.numpy(), group, case.stride, case.padding
        )
        found = case.run(x, weight, bias, "reference")
        if draw is integers:
            assert torch.equal(found, torch.from_numpy(expected))
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (2, 1, 0), (3, 2, 1), (4, 1, 5)])
def test_moving_the_map_moves_the_output(group: str, size: int, stride: int, padding: int, backend: str) -> None:
    case = Case("group_conv2d", group, size, stride, padding, height=7, width=5)
    x, weight, bias = case.operands(integers)
    out = case.run(x, weight, bias, backend)
    for element in case.planar_group.elements:
        moved = case.run(case.planar_group.act(x, element), weight, bias, backend)
        assert torch.equal(moved, case.planar_group.act(out, element))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", GROUPS)
def test_a_delta_at_the_identity_changes_nothing(group: str, backend: str) -> None:
    planar_group = gconv.group_from_name(group)
    weight = torch.zeros(2, 2, planar_group.order, 3, 3)
    weight[[0, 1], [0, 1], 0, 1, 1] = 1
    x = torch.randn(1, 2, planar_group.order, 4, 5)
    found = gconv.group_conv2d(x, weight, group=planar_group, padding=1, backend=backend)
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", GROUPS)
def test_a_delta_at_an_element_translates_on_the_group(group: str, backend: str) -> None:
    """W = delta at e: out(g) = f(g e)."""
    planar_group = gconv.group_from_name(group)
    x = integers((1, 1, planar_group.order, 3, 4))
    for e in planar_group.elements:
        weight = torch.zeros(1, 1, planar_group.order, 1, 1, dtype=torch.float64)
        weight[0, 0, e] = 1
        found = gconv.group_conv2d(x, weight, group=planar_group, backend=backend)
        planes = [planar_group.product(g, e) for g in planar_group.elements]
        assert torch.equal(found, x[:, :, planes])


@pytest.mark.parametrize("group", GROUPS)
def test_the_expanded_bank_is_the_same_operator(group: str) -> None:
    case = Case("group_conv2d", group, size=4, stride=1, padding=2)
    order = case.planar_group.order
    x, weight, _ = case.operands(integers)
    bank = gconv.expand_filter(weight, case.planar_group)
    assert bank.shape == (case.c_out * order, case.c_in * order, 4, 4)
    out = case.run(x, weight, None)
    assert torch.equal(F.conv2d(x.flatten(1, 2), bank, padding=2), out.flatten(1, 2))
    for s in case.planar_group.elements:  # plane s of the bank is L_s W
        moved = case.planar_group.act(weight, s).flatten(1, 2)
        assert torch.equal(bank.unflatten(0, (-1, order))[:, s], moved)


@pytest.mark.parametrize("operation", ["lifting_conv2d", "group_conv2d"])
def test_the_trivial_group_is_the_planar_convolution(operation: str) -> None:
    case = Case(operation, "C1", stride=2)
    x, weight, bias = case.operands(integers)
    planar = F.conv2d(x.flatten(1, -3), weight.flatten(1, -3), bias, stride=2, padding=1)
    for backend in BACKENDS:
        assert torch.equal(case.run(x, weight, bias, backend).squeeze(2), planar)


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"dilation": 2, "backend": None}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["D4", "C8"])
def test_negative_slope_and_pool_are_the_ops(name: str, backend: str, options: dict[str, object]) -> None:
    case, group = Case("group_conv2d", name), gconv.group_from_name(name)
    given = {"group": group, "padding": 2, "backend": backend, **options}
    activations = {None: lambda x: x, 0: F.relu, 0.2: lambda x: F.leaky_relu(x, 0.2)}
    for slope, pool in ((0, None), (0.2, "max"), (None, "mean"), (0.2, None)):
        leaves = [tensor.requires_grad_() for tensor in case.operands(torch.randn) if tensor is not None]
        found = gconv.group_conv2d(*leaves, **given, negative_slope=slope, pool=pool)
        wanted = activations[slope](gconv.group_conv2d(*leaves, **given))
        if pool:
            wanted = gconv.group_pool(wanted, group=group, mode=pool, backend=given["backend"])
        cotangent = torch.randn_like(wanted)
        gradients = [torch.autograd.grad(out, leaves, cotangent) for out in (found, wanted)]
        for ours, theirs in zip([found, *gradients[0]], [wanted, *gradients[1]], strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()
