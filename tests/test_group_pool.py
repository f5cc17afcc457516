"""group_pool: the loop oracle, ties, NaN, cosets, and invariance."""

from __future__ import annotations

from itertools import product

import oracle
import pytest
import torch
from cases import BACKENDS, GROUPS, integers

import gconv

NAN, INF = float("nan"), float("inf")
SUBGROUPS = {
    "C1": [None, [0]],
    "C2": [None, [0]],
    "C4": [None, [0, 2], [0]],
    "D1": [None, [0], [1, 0]],
    "D2": [None, [0, 1], [0, 2], [0, 3]],
    "D4": [None, [0, 4], [0, 2], [0, 5], [0, 1, 2, 3], [0, 2, 4, 6]],
}
ALL = [(name, subgroup) for name in GROUPS for subgroup in SUBGROUPS[name]]


@pytest.mark.parametrize(("name", "subgroup"), ALL)
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_every_backend_equals_the_loop_oracle(name: str, subgroup: list[int] | None, mode: str) -> None:
    group = gconv.group_from_name(name)
    for shape in [(2, 3, group.order, 3, 4), (1, 1, group.order, 1, 1), (1, 17, group.order, 2, 1)]:
        x = integers(shape)  # many ties
        expected = torch.from_numpy(oracle.pool(x.numpy(), name, mode, subgroup or list(group.elements)))
        if subgroup is None:
            expected = expected.squeeze(2)
        for backend, dtype in product(BACKENDS, (torch.float32, torch.float64)):
            found = gconv.group_pool(x.to(dtype), group=group, mode=mode, subgroup=subgroup, backend=backend)
            assert found.dtype == dtype
            assert torch.equal(found.double(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "subgroup"), ALL)
def test_gradients_agree_and_ties_take_the_first_member(name: str, subgroup: list[int] | None, backend: str) -> None:
    group = gconv.group_from_name(name)
    x = integers((2, 3, group.order, 3, 4)).requires_grad_()
    out = gconv.group_pool(x, group=group, subgroup=subgroup, backend=backend)
    weights = integers(tuple(out.shape))
    (grad,) = torch.autograd.grad(out, x, weights)
    expected = torch.zeros_like(x)
    for i, members in enumerate(oracle.cosets(name, subgroup or list(group.elements))):
        planes = x.detach()[:, :, members]
        first = planes.argmax(dim=2, keepdim=True)
        ahead = torch.tensor(members)[first]
        source = weights[:, :, i : i + 1] if subgroup else weights.unsqueeze(2)
        expected.scatter_(2, ahead, source)
    values = [x.detach()[:, :, g] for g in group.elements]
    assert len(values) < 2 or any(torch.any(values[0] == v) for v in values[1:])  # there are ties
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_map_sends_its_gradient_to_the_first_member(backend: str) -> None:
    x = torch.ones(1, 1, 8, 2, 2, requires_grad=True)
    group = gconv.DihedralGroup(4)
    gconv.group_pool(x, group=group, backend=backend).sum().backward()
    assert x.grad is not None
    assert x.grad.sum((0, 1, 3, 4)).tolist() == [4, 0, 0, 0, 0, 0, 0, 0]
    x.grad = None
    gconv.group_pool(x, group=group, subgroup=[0, 4], backend=backend).sum().backward()
    assert x.grad.sum((0, 1, 3, 4)).tolist() == [4, 4, 4, 4, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_propagate(backend: str, dtype: torch.dtype) -> None:
    group = gconv.CyclicGroup(4)
    rows = [
        ([1, NAN, 3, NAN], NAN, 1),  # the first NaN wins
        ([NAN, INF, 3, 4], NAN, 0),
        ([1, -INF, INF, INF], INF, 2),
        ([-INF, -INF, -INF, -INF], -INF, 0),
        ([-0.0, 0.0, -0.0, 0.0], 0.0, 0),
        ([-INF, -5, -5, -7], -5, 1),
    ]
    for channels in (1, 7, 19):  # with and without a vector of the native code
        x = torch.tensor([row for row, _, _ in rows], dtype=dtype).T.reshape(1, 1, 4, 1, -1)
        x = x.repeat(1, channels, 1, 1, 1).requires_grad_()
        out = gconv.group_pool(x, group=group, backend=backend)
        out.backward(torch.ones_like(out))
        assert x.grad is not None
        for column, (_, value, winner) in enumerate(rows):
            wanted = torch.full((channels,), value, dtype=dtype)
            torch.testing.assert_close(out[0, :, 0, column], wanted, rtol=0, atol=0, equal_nan=True)
            assert x.grad[0, :, :, 0, column].argmax(1).eq(winner).all()
            assert x.grad[0, :, :, 0, column].sum(1).eq(1).all()
        assert gconv.group_pool(x, group=group, mode="mean", backend=backend)[0, 0, 0, :3].isnan().tolist() == [
            True,
            True,
            True,
        ]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize("name", GROUPS)
def test_pooling_over_the_group_is_invariant_up_to_the_grid(name: str, mode: str, backend: str) -> None:
    group = gconv.group_from_name(name)
    x = integers((2, 3, group.order, 4, 5))
    out = gconv.group_pool(x, group=group, mode=mode, backend=backend)
    for element in group.elements:
        moved = gconv.group_pool(group.act(x, element), group=group, mode=mode, backend=backend)
        assert torch.equal(moved, group.act(out, element))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "subgroup"), [entry for entry in ALL if entry[1]])
def test_pooling_over_cosets_moves_the_cosets(name: str, subgroup: list[int], backend: str) -> None:
    group = gconv.group_from_name(name)
    cosets = group.cosets(sorted(subgroup))
    x = integers((1, 2, group.order, 4, 3))
    out = gconv.group_pool(x, group=group, subgroup=subgroup, backend=backend)
    for element in group.elements:
        moved = gconv.group_pool(group.act(x, element), group=group, subgroup=subgroup, backend=backend)
        for i, coset in enumerate(cosets):
            to = cosets.index(tuple(sorted(group.product(element, g) for g in coset)))
            assert torch.equal(moved[:, :, to], group.act_grid(out[:, :, i], element))


def test_pooling_in_two_steps_is_pooling_at_once() -> None:
    x = torch.randn(1, 2, 8, 3, 3)
    group = gconv.DihedralGroup(4)
    assert torch.equal(gconv.group_pool(x, group=group, subgroup=[0, 4]).amax(2), gconv.group_pool(x, group=group))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_trivial_subgroup_changes_nothing_and_copies(backend: str) -> None:
    x = torch.randn(1, 2, 4, 3, 3).contiguous(memory_format=torch.channels_last_3d)
    for mode in ("max", "mean"):
        out = gconv.group_pool(x, group=gconv.CyclicGroup(4), subgroup=[0], mode=mode, backend=backend)
        assert torch.equal(out, x)
        assert out.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_once(dtype: torch.dtype, backend: str) -> None:
    group = gconv.DihedralGroup(4)
    x = torch.randn(2, 3, 8, 4, 4).to(dtype)
    mean = gconv.group_pool(x, group=group, mode="mean", backend=backend)
    assert torch.equal(mean, x.float().mean(2).to(dtype))
    assert torch.equal(gconv.group_pool(x, group=group, backend=backend), x.amax(2))
