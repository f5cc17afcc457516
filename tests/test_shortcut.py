"""Calls that go past torch's dispatcher give what the registered op gives, and refuse what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import BACKENDS, OPERATIONS, Case
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

import gconv
from gconv.ops._shortcut import eager, plainly_eager, records


def through_the_op(case: Case, x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    op = getattr(torch.ops.gconv, case.operation)
    return op(x, weight, bias, case.group, case.stride, case.padding, backend)


def values_and_gradients(convolve: Callable[..., Tensor], operands: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """The output, its gradients, and those of their squares."""
    leaves = [tensor.clone().requires_grad_() for tensor in operands]
    out = convolve(*leaves)
    first = torch.autograd.grad(out.pow(2).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(grad.pow(2).sum() for grad in first), leaves)
    return [out, *first, *second]


@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_bits_are_those_of_the_op(operation: str, backend: str | None) -> None:
    case = Case(operation, "D2", size=3, stride=2, height=7, width=9)
    x, weight, bias = case.operands(torch.randn)
    assert bias is not None
    short = values_and_gradients(lambda *leaves: case.run(*leaves, backend), (x, weight, bias))
    long = values_and_gradients(lambda *leaves: through_the_op(case, *leaves, backend or "auto"), (x, weight, bias))
    for a, b in zip(short, long, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_the_bits_of_group_pool_are_those_of_the_op(backend: str | None, mode: str) -> None:
    group = gconv.CyclicGroup(4)
    x = torch.randn(2, 3, 4, 5, 6)

    def short(leaf: Tensor) -> Tensor:
        return gconv.group_pool(leaf, group=group, mode=mode, subgroup=[0, 2], backend=backend)

    def long(leaf: Tensor) -> Tensor:
        return torch.ops.gconv.group_pool(leaf, "C4", [0, 2], mode, backend or "auto")[0]

    results = []
    for pool in (short, long):
        leaf = x.clone().requires_grad_()
        out = pool(leaf)
        (grad,) = torch.autograd.grad(out.pow(3).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(grad.pow(2).sum(), leaf)
        with torch.no_grad():
            results.append([out, grad, second, pool(x)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_what_is_plain() -> None:
    x, weight = torch.randn(2), nn.Parameter(torch.randn(2))
    assert plainly_eager(x, weight, None)
    assert records(x, weight)
    assert not records(x, None)
    with torch.no_grad():
        assert plainly_eager(x, weight)
        assert not records(x, weight)
    with torch.inference_mode():
        assert plainly_eager(x, weight, torch.randn(2))
    for other in (x.to("meta"), torch._neg_view(x), torch._efficientzerotensor(2), [1.0]):
        assert not plainly_eager(x, other)
    seen: list[bool] = []
    torch.func.vmap(lambda row: seen.append(plainly_eager(row)) or row)(torch.randn(2, 2))
    torch.jit.trace(lambda row: seen.append(plainly_eager(row)) or row + 1, x, check_trace=False)
    torch.compile(lambda row: row + plainly_eager(row), backend="eager", fullgraph=True)(x)
    assert seen == [False, False]
    with torch.device("cpu"):
        assert not plainly_eager(x)


def test_what_is_eager() -> None:
    """All that is plain, and what only the profiler watches."""
    x, weight = torch.randn(2), nn.Parameter(torch.randn(2))
    assert eager(x, weight, None)
    with torch.profiler.profile():
        assert eager(x, weight)
        assert not plainly_eager(x, weight)
    with torch.inference_mode():
        assert eager(torch.randn(2), x)
    with torch.autocast("cpu"):
        assert eager(x)
    for other in (x.to("meta"), torch._neg_view(x), torch._efficientzerotensor(2), [1.0]):
        assert not eager(x, other)
    assert eager(x.to("meta"))
    seen: list[bool] = []
    torch.func.vmap(lambda row: seen.append(eager(row)) or row)(torch.randn(2, 2))
    torch.jit.trace(lambda row: seen.append(eager(row)) or row + 1, x, check_trace=False)
    torch.compile(lambda row: row + eager(row), backend="eager", fullgraph=True)(x)
    assert seen == [False, False]
    with torch.device("cpu"):
        assert not eager(x)
    with FakeTensorMode():
        assert not eager(x)


def test_saved_tensors_and_checkpoints_work() -> None:
    case = Case("group_conv2d", "C4")
    x, weight, bias = case.operands(torch.randn)
    packed: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):
        case.run(x, weight.requires_grad_(), bias)
    assert sorted(packed) == sorted([x.shape, weight.shape])
    (expected,) = torch.autograd.grad(case.run(x, weight, bias).pow(2).sum(), weight)
    (found,) = torch.autograd.grad(
        checkpoint(lambda w: case.run(x, w, bias), weight, use_reentrant=False).pow(2).sum(), weight
    )
    assert torch.equal(found, expected)


def test_a_write_to_a_saved_tensor_is_noticed() -> None:
    case = Case("group_conv2d", "C4")
    x, weight, bias = case.operands(torch.randn)
    out = case.run(x, weight.requires_grad_(), bias)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"stride": True}, TypeError),
        ({"stride": 1.0}, TypeError),
        ({"padding": True}, TypeError),
        ({"padding": [1]}, TypeError),
        ({"backend": ["cpu"]}, ValueError),
        ({"backend": "auto"}, ValueError),
        ({"group": "C4"}, TypeError),
    ],
)
def test_arguments_that_equal_checked_ones_are_checked(wrong: dict[str, object], error: type[Exception]) -> None:
    x, weight = torch.randn(1, 2, 4, 5, 6), torch.randn(3, 2, 4, 3, 3)
    good = {"group": gconv.CyclicGroup(4), "stride": 1, "padding": 1}
    gconv.group_conv2d(x, weight, **good)
    with pytest.raises(error, match=r"^group_conv2d: "):
        gconv.group_conv2d(x, weight, **good | wrong)


@pytest.mark.parametrize("operation", [*OPERATIONS, "group_pool"])
def test_forward_mode_is_refused_and_drops_no_tangent(operation: str) -> None:
    group = gconv.CyclicGroup(4)
    x = torch.randn(1, 2, *(() if operation == "lifting_conv2d" else (4,)), 5, 5)
    weight = torch.randn(3, 2, *x.shape[2:-2], 3, 3)

    def run(x: Tensor) -> Tensor:
        if operation == "group_pool":
            return gconv.group_pool(x, group=group)
        return getattr(gconv, operation)(x, weight, group=group)

    message = f"^{operation}: forward-mode derivatives .* are not implemented"
    with pytest.raises(NotImplementedError, match=message):
        torch.func.jvp(run, (x,), (x,))
    with pytest.raises(NotImplementedError, match=message), torch.autograd.forward_ad.dual_level():
        run(torch.autograd.forward_ad.make_dual(x, x))
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(run(x), run(x.clone()))  # nothing to drop
