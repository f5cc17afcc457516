"""Derivatives of every order: numerically, and against autograd through torch's own convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, GROUPS, OPERATIONS, Case
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import gconv

# The window overlaps the border, skips pixels, leaves some unread, and lies wholly on the padding (padding > K - 1).
SETTINGS = [
    {"size": 2, "stride": 1, "padding": 0, "height": 3, "width": 2},
    {"size": 3, "stride": 2, "padding": 1, "height": 4, "width": 3},
    {"size": 2, "stride": 1, "padding": 2, "height": 1, "width": 2},
    {"size": 1, "stride": 3, "padding": 2, "height": 2, "width": 1},
]


def doubles(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("setting", range(len(SETTINGS)))
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_convolutions_once_and_twice(operation: str, group: str, setting: int, backend: str) -> None:
    case = Case(operation, group, c_in=1, c_out=2 if setting else 1, batch=1, **SETTINGS[setting])
    operands = case.operands(doubles)
    assert gradcheck(lambda *a: case.run(*a, backend), operands, fast_mode=True)
    assert gradgradcheck(lambda *a: case.run(*a, backend), operands, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_convolutions_once_and_twice_entry_by_entry(operation: str, backend: str) -> None:
    case = Case(operation, "C4", size=2, stride=2, padding=1, height=3, width=2, c_in=1, c_out=1, batch=2)
    operands = case.operands(doubles)
    assert gradcheck(lambda *a: case.run(*a, backend), operands)
    assert gradgradcheck(lambda *a: case.run(*a, backend), operands)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("subgroup", [None, [0, 4], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_pooling_once_and_twice(mode: str, subgroup: list[int] | None, backend: str) -> None:
    x = torch.randperm(2 * 2 * 8 * 3).double().view(2, 2, 8, 3, 1).requires_grad_()  # far from ties

    def pool(x: Tensor) -> Tensor:
        return gconv.group_pool(x, group=gconv.DihedralGroup(4), mode=mode, subgroup=subgroup, backend=backend)

    assert gradcheck(pool, (x,))
    assert gradgradcheck(lambda x: pool(x) ** 2, (x / 10,))


def planar(case: Case, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution by torch's own ops alone, with torch's derivatives."""
    bank = gconv.expand_filter(weight, case.planar_group)
    out = F.conv2d(x.flatten(1, -3), bank, stride=case.stride, padding=case.padding)
    return out.unflatten(1, (case.c_out, case.planar_group.order))


def derivatives(function: object, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Gradients of a curved scalar in (x, weight), of their squares, and of those again: three orders."""
    assert callable(function)
    value = (function(x, weight) ** 3).sum()
    found: list[Tensor] = []
    for _ in range(3):
        grads = torch.autograd.grad(value, (x, weight), create_graph=True)
        found.extend(grads)
        value = sum(((grad * grad).sum() for grad in grads), start=torch.zeros((), dtype=x.dtype))
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_third_order_equals_torchs_own(operation: str, group: str, stride: int, backend: str) -> None:
    case = Case(operation, group, size=3, stride=stride, padding=1, height=4, width=3, bias=False)
    x, weight, _ = case.operands(doubles)
    found = derivatives(lambda x, weight: case.run(x, weight, None, backend), x, weight)
    expected = derivatives(lambda x, weight: planar(case, x, weight), x, weight)
    for ours, torchs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-9 * float(torchs.detach().abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_exist_only_where_asked(operation: str, backend: str) -> None:
    case = Case(operation, "C4")
    for wanted in ({0}, {1}, {2}, {0, 2}, {1, 2}):
        operands = [torch.randn_like(t) for t in case.operands(torch.randn) if t is not None]
        for i in wanted:
            operands[i].requires_grad_()
        case.run(*operands, backend).square().sum().backward()
        assert {i for i, t in enumerate(operands) if t.grad is not None} == wanted
    assert not case.run(*(t.detach() for t in operands), backend).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_gradient_penalty_trains_every_parameter(operation: str, backend: str) -> None:
    """R1: the squared norm of the gradient in x, differentiated in the weight."""
    case = Case(operation, "D4", bias=False)
    x, weight, _ = case.operands(doubles)
    score = F.softplus(case.run(x, weight, None, backend)).sum()
    (grad_x,) = torch.autograd.grad(score, x, create_graph=True)
    (grad_weight,) = torch.autograd.grad(grad_x.square().sum(), weight)
    (expected_x,) = torch.autograd.grad(F.softplus(planar(case, x, weight)).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(expected_x.square().sum(), weight)
    torch.testing.assert_close(grad_weight, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_input_gradient_when_nothing_of_the_input_is_read(backend: str) -> None:
    """One pixel, two of padding, a stride past it: every window lies on the padding."""
    for operation in OPERATIONS:
        case = Case(operation, "C4", size=1, stride=5, padding=2, height=1, width=1)
        x, weight, bias = case.operands(doubles)
        case.run(x, weight, bias, backend).sum().backward()
        assert x.grad is not None
        assert not x.grad.any()
        assert weight.grad is not None
        assert not weight.grad.any()
