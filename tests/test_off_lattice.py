"""Groups off the pixel grid: the ops on filters of the lattice subgroup, bit for bit on integers."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, OPERATIONS, integers
from torch import Tensor

import gconv

NAMES = ("C3", "C5", "C6", "C8", "C12", "C16", "D3", "D5", "D6", "D8", "D12")
SIZES = {"C3": 1, "C5": 1, "C6": 2, "C8": 4, "C12": 4, "C16": 4, "D3": 2, "D5": 2, "D6": 4, "D8": 8, "D12": 8}  # |H|


def spatial_filter(group: gconv.PlanarGroup, operation: str, c_out: int = 2, c_in: int = 3, size: int = 3) -> Tensor:
    """Integers in the shape that the op takes."""
    m = group.coset_count
    if operation == "lifting_conv2d":
        return integers((m * c_out, c_in, size, size))
    return integers((m * c_out, m * c_in, group.lattice.order, size, size))


def operands(name: str, operation: str) -> tuple[gconv.PlanarGroup, Tensor, Tensor, Tensor]:
    group = gconv.group_from_name(name)
    axis = () if operation == "lifting_conv2d" else (group.order,)
    return group, integers((2, 3, *axis, 6, 5)), spatial_filter(group, operation), integers((2,))


def bank_by_definition(weight: Tensor, group: gconv.PlanarGroup, c_out: int, c_in: int) -> Tensor:
    """B_{hc,tc'}(d) = W_H(c, c', h^-1 t, h^-1 d), element by element: (C_out, |G|, C_in[, |G|], K, K)."""
    m, lattice = group.coset_count, group.lattice
    lifting = weight.dim() == 4
    axis = () if lifting else (group.order,)
    bank = weight.new_zeros(c_out, group.order, c_in, *axis, *weight.shape[-2:])
    for g, o, i in product(group.elements, range(c_out), range(c_in)):
        h, c = divmod(g, m)
        if lifting:
            bank[o, g, i] = lattice.act_grid(weight[c * c_out + o, i], h)
            continue
        for plane in group.elements:
            t, other = divmod(plane, m)
            upright = weight[c * c_out + o, other * c_in + i, lattice.product(lattice.inverse(h), t)]
            bank[o, g, i, plane] = lattice.act_grid(upright, h)
    return bank


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_backend_equals_the_definition(name: str, operation: str) -> None:
    group, x, weight, bias = operands(name, operation)
    assert group.lattice.order == SIZES[name]
    bank = bank_by_definition(weight, group, 2, 3)
    flat = bank.flatten(2, 3) if x.dim() == 5 else bank
    planar = x.flatten(1, 2) if x.dim() == 5 else x
    expected = F.conv2d(planar, flat.flatten(0, 1), bias.repeat_interleave(group.order), 2, 1)
    assert torch.equal(gconv.expand_filter(weight, group), flat.flatten(0, 1))
    for backend, dtype in product((None, *BACKENDS), (torch.float32, torch.float64)):
        tensors = [tensor.to(dtype) for tensor in (x, weight, bias)]
        out = getattr(gconv, operation)(*tensors, group=group, stride=2, padding=1, backend=backend)
        assert out.dtype == dtype
        assert torch.equal(out.double(), expected.unflatten(1, (2, group.order)))
        assert out.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["C3", "C6", "C8", "D5", "D8"])
def test_gradients_are_those_of_the_bank(name: str, operation: str, backend: str) -> None:
    group, *tensors = operands(name, operation)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    x, weight, bias = leaves
    out = getattr(gconv, operation)(x, weight, bias, group=group, padding=1, backend=backend)
    planar = x.flatten(1, 2) if x.dim() == 5 else x
    same = F.conv2d(planar, gconv.expand_filter(weight, group), bias.repeat_interleave(group.order), 1, 1)
    same = same.unflatten(1, (2, group.order))
    grad_out = integers(tuple(out.shape)).requires_grad_()
    first, true_first = (torch.autograd.grad(y, leaves, grad_out, create_graph=True) for y in (out, same))
    for found, true in zip(first, true_first, strict=True):
        assert torch.equal(found, true)
    vectors = [integers(tuple(leaf.shape)) for leaf in leaves]
    second, true_second = (torch.autograd.grad(grads, [x, weight, grad_out], vectors) for grads in (first, true_first))
    for found, true in zip(second, true_second, strict=True):
        assert torch.equal(found, true)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_equivariant_under_the_lattice_subgroup_bit_for_bit(name: str, backend: str) -> None:
    group = gconv.group_from_name(name)
    lifting, bias = spatial_filter(group, "lifting_conv2d", 2, 1), integers((2,))
    weight = spatial_filter(group, "group_conv2d", 2, 2)

    def network(image: Tensor) -> tuple[Tensor, Tensor]:
        options = {"group": group, "padding": 1, "backend": backend}
        hidden = gconv.lifting_conv2d(image, lifting, bias, **options).relu()
        out = gconv.group_conv2d(hidden, weight, **options)
        return out, gconv.group_pool(out, group=group, backend=backend)

    image = integers((1, 1, 6, 5))
    out, pooled = network(image)
    for element in group.lattice_elements:
        moved, moved_pooled = network(group.act(image, element))
        assert torch.equal(moved, group.act(out, element))
        assert torch.equal(moved_pooled, group.act(pooled, element))


@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize(
    ("name", "subgroup"),
    [("C3", None), ("C6", [0, 3]), ("C8", None), ("C8", [0, 2, 4, 6]), ("D5", [0, 7]), ("D8", [0, 8]), ("D16", None)],
)
def test_pooling_over_the_group_and_its_cosets(name: str, subgroup: list[int] | None, mode: str) -> None:
    group = gconv.group_from_name(name)
    x = integers((2, 3, group.order, 3, 4))
    members = subgroup or list(group.elements)
    left = {tuple(sorted(group.product(g, h) for h in members)) for g in group.elements}
    planes = [x[:, :, list(coset)] for coset in sorted(left)]
    expected = torch.stack([p.amax(2) if mode == "max" else p.mean(2) for p in planes], dim=2)
    for backend in (None, *BACKENDS):
        leaf = x.clone().requires_grad_()
        found = gconv.group_pool(leaf, group=group, mode=mode, subgroup=subgroup, backend=backend)
        torch.testing.assert_close(found, expected if subgroup else expected.squeeze(2), rtol=1e-15, atol=0)
        (grad,) = torch.autograd.grad(found.sum(), leaf)
        assert float(grad.sum()) == pytest.approx(found.numel())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_explain_says_what_a_layer_runs_as(operation: str) -> None:
    group, x, weight, _ = operands("C8", operation)
    told = gconv.explain(operation, x, weight, group=group, padding=1)
    assert told.runs_as.startswith("C8 runs as C4 with 2 x the channels: ")
    fewer = operation == "group_conv2d" and told.backend == "cpu"
    assert ("3.2 times fewer multiplications than its dense bank" in told.runs_as) == fewer
    assert ("as many multiplications as its dense bank" in told.runs_as) == (not fewer)
    assert str(told).splitlines()[1] == f"  {told.runs_as}"
    chosen, named = (
        getattr(gconv, operation)(x, weight, group=group, padding=1, backend=backend)
        for backend in (None, told.backend)
    )
    assert torch.equal(chosen, named)


@pytest.mark.parametrize(
    ("name", "lattice", "ratio"), [("D8", "D4 with 2", "5.33"), ("D6", "D2 with 3", "4"), ("C6", "C2 with 3", "2")]
)
def test_the_saving_is_the_lattice_groups(name: str, lattice: str, ratio: str) -> None:
    group = gconv.group_from_name(name)
    x, m = torch.empty(8, 64, group.order, 28, 28), group.coset_count
    weight = torch.empty(m * 64, m * 64, group.lattice.order, 3, 3)
    told = gconv.explain("group_conv2d", x, weight, group=group, padding=1)
    wanted = f"{ratio} times fewer" if told.backend == "cpu" else "as many"
    assert told.runs_as.startswith(f"{name} runs as {lattice} x the channels: {wanted} multiplications")


def test_odd_rotations_alone_save_nothing() -> None:
    group, x, weight, _ = operands("C5", "group_conv2d")
    told = gconv.explain("group_conv2d", x, weight, group=group, padding=1)
    assert told.runs_as == "C5 runs as C1 with 5 x the channels: as many multiplications as its dense bank"
    assert gconv.explain("group_pool", x, group=group).runs_as == ""


@pytest.mark.parametrize("operation", OPERATIONS)
def test_half_precision_and_autocast(operation: str) -> None:
    group, *tensors = operands("C8", operation)
    x, weight, bias = (tensor.bfloat16() for tensor in tensors)
    out = getattr(gconv, operation)(x, weight, bias, group=group, padding=1)
    assert out.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        cast = getattr(gconv, operation)(x.float(), weight.float(), bias.float(), group=group, padding=1)
    assert torch.equal(out, cast)


C8, MADE = gconv.CyclicGroup(8), "for group C8, as gconv.steerable_filters makes it"
MAP, IMAGE = torch.zeros(1, 3, 8, 5, 5), torch.zeros(1, 3, 5, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gconv.group_conv2d(MAP, torch.zeros(4, 3, 8, 3, 3), group=C8),
            f"group_conv2d: weight must be (2 C_out, 2 C_in, 4, K, K) {MADE}, got (4, 3, 8, 3, 3)",
        ),
        (
            lambda: gconv.group_conv2d(MAP, torch.zeros(4, 5, 4, 3, 3), group=C8),
            "group_conv2d: weight must be (2 C_out",
        ),
        (
            lambda: gconv.lifting_conv2d(IMAGE, torch.zeros(3, 3, 3, 3), group=C8),
            f"lifting_conv2d: weight must be (2 C_out, C_in, K, K) {MADE}, got (3, 3, 3, 3)",
        ),
        (
            lambda: gconv.group_conv2d(MAP[:, :, :4], torch.zeros(4, 6, 4, 3, 3), group=C8),
            "group_conv2d: x must be (N, 3, 8, H, W) for group C8 and weight (4, 6, 4, 3, 3), got (1, 3, 4, 5, 5)",
        ),
        (
            lambda: gconv.group_conv2d(MAP, torch.zeros(4, 6, 4, 3, 3), torch.zeros(4), group=C8),
            "group_conv2d: bias must be (2,), got (4,)",
        ),
        (
            lambda: gconv.group_pool(MAP[:, :, :4], group=C8),
            "group_pool: x must be (N, C, 8, H, W) for group C8, got (1, 3, 4, 5, 5)",
        ),
        (
            lambda: gconv.group_pool(MAP, group=C8, subgroup=[0, 3]),
            "group_pool: subgroup must hold elements of C8, the identity 0 among them, and be closed",
        ),
        (
            lambda: gconv.expand_filter(torch.zeros(3, 3, 3, 3), C8),
            "expand_filter: weight must be (2 C_out, C_in, K, K)",
        ),
        (
            lambda: C8.act(MAP, 1),
            "C8: element must be one of [0, 2, 4, 6], which move the pixel grid onto itself, got 1; to turn an image "
            "by other angles, interpolate it",
        ),
        (lambda: C8.irreps, "irreps: group must be exact on the pixel grid, as C4 is, got C8"),
        (lambda: gconv.CyclicGroup(17), "CyclicGroup: n must be at most 16, got 17"),
        (lambda: gconv.group_from_name("D32"), "DihedralGroup: n must be at most 16, got 32"),
    ],
)
def test_errors_say_what_an_off_lattice_group_takes(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()
