"""The groups against trigonometry (oracle.py) and against the axioms."""

from __future__ import annotations

import copy
import math
import pickle

import oracle
import pytest
import torch
from cases import GROUPS

import gconv

OFFSETS = [(0.0, 0.0), (1.0, 0.0), (0.5, -1.5), (2.0, 1.0)]


@pytest.mark.parametrize("name", GROUPS)
def test_elements_act_on_offsets_as_trigonometry_says(name: str) -> None:
    group = gconv.group_from_name(name)
    assert group.name == name
    assert group.order == oracle.order(name) == len(group.elements)
    for element in group.elements:
        assert group.inverse(element) == oracle.inverse(name, element)
        for offset in OFFSETS:
            assert group.act_offset(element, offset) == oracle.act(name, element, offset)
        for other in group.elements:
            assert group.product(element, other) == oracle.multiply(name, element, other)


def test_element_numbers_mean_rot90_and_flip() -> None:
    image = torch.randn(2, 3, 4, 5)
    for r in range(4):
        assert torch.equal(gconv.CyclicGroup(4).act(image, r), torch.rot90(image, r, (2, 3)))
        turned = torch.rot90(image, r, (2, 3))
        assert torch.equal(gconv.DihedralGroup(4).act(image, r), turned)
        assert torch.equal(gconv.DihedralGroup(4).act(image, 4 + r), torch.flip(turned, (2,)))
    assert torch.equal(gconv.CyclicGroup(2).act(image, 1), torch.rot90(image, 2, (2, 3)))
    assert torch.equal(gconv.DihedralGroup(1).act(image, 1), torch.flip(image, (2,)))


@pytest.mark.parametrize("name", GROUPS)
def test_pixels_move_as_their_offsets_do(name: str) -> None:
    group = gconv.group_from_name(name)
    image = torch.arange(12.0).view(1, 1, 3, 4)
    for element in group.elements:
        moved = group.act(image, element)
        for row in range(3):
            for column in range(4):
                i, j = oracle.act(name, element, (row - 1, column - 1.5))
                to_row, to_column = i + (moved.shape[2] - 1) / 2, j + (moved.shape[3] - 1) / 2
                assert moved[0, 0, int(to_row), int(to_column)] == image[0, 0, row, column]


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("axis", ["image", "map"])
def test_act_is_an_action(name: str, axis: str) -> None:
    group = gconv.group_from_name(name)
    x = torch.randn(2, 3, *([group.order] if axis == "map" else []), 4, 5)
    assert torch.equal(group.act(x, 0), x)
    for a in group.elements:
        assert torch.equal(group.act(group.act(x, a), group.inverse(a)), x)
        for b in group.elements:
            assert torch.equal(group.act(group.act(x, b), a), group.act(x, group.product(a, b)))
    if axis == "map":
        for a in group.elements:
            for h in group.elements:  # (L_a f)(., a h) = L_a f(., h)
                assert torch.equal(group.act(x, a)[:, :, group.product(a, h)], group.act_grid(x[:, :, h], a))


@pytest.mark.parametrize("name", GROUPS)
def test_irreps_are_inequivalent_orthogonal_representations_that_fill_the_group(name: str) -> None:
    group = gconv.group_from_name(name)
    assert sum(irrep.dim * irrep.columns for irrep in group.irreps) == group.order
    characters = []
    for irrep in group.irreps:
        tables = torch.tensor(irrep.matrices, dtype=torch.float64)
        for a in group.elements:
            assert torch.equal(tables[a] @ tables[a].T, torch.eye(irrep.dim, dtype=torch.float64))
            for b in group.elements:
                assert torch.equal(tables[a] @ tables[b], tables[group.product(a, b)])
        characters.append(tables.diagonal(dim1=1, dim2=2).sum(1))
    gram = torch.stack(characters) @ torch.stack(characters).T / group.order
    kinds = [irrep.dim / irrep.columns for irrep in group.irreps]  # 1 real, 2 complex
    assert torch.equal(gram, torch.diag(torch.tensor(kinds, dtype=torch.float64)))


@pytest.mark.parametrize("name", GROUPS)
def test_moved_axes(name: str) -> None:
    moves = {"C1": (False, False), "D1": (True, False)}.get(name, (True, True))
    assert tuple(gconv.group_from_name(name).moves_axis(axis) for axis in (0, 1)) == moves


@pytest.mark.parametrize(
    ("name", "subgroup", "expected"),
    [
        ("C4", [0, 2], ((0, 2), (1, 3))),
        ("D4", [0, 4], ((0, 4), (1, 7), (2, 6), (3, 5))),  # left cosets g H: R F = F R^-1
        ("D4", [0, 1, 2, 3], ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("D2", [0], ((0,), (1,), (2,), (3,))),
        ("D1", [1, 0], ((0, 1),)),
    ],
)
def test_cosets(name: str, subgroup: list[int], expected: tuple[tuple[int, ...], ...]) -> None:
    assert gconv.group_from_name(name).cosets(subgroup) == expected
    assert [list(coset) for coset in expected] == oracle.cosets(name, subgroup)


def test_groups_are_values() -> None:
    assert gconv.CyclicGroup(4) == gconv.group_from_name("C4")
    assert gconv.CyclicGroup(4) != gconv.DihedralGroup(4)
    assert len({gconv.CyclicGroup(4), gconv.CyclicGroup(4), gconv.DihedralGroup(2)}) == 2
    for group in (gconv.CyclicGroup(4), gconv.DihedralGroup(1), gconv.CyclicGroup(8)):
        assert copy.deepcopy(group) == group
        assert pickle.loads(pickle.dumps(group)) == group
    assert repr(gconv.DihedralGroup(2)) == "DihedralGroup(2)"


@pytest.mark.parametrize("n", range(1, 17))
@pytest.mark.parametrize("letter", ["C", "D"])
def test_every_group_acts_on_the_plane_and_holds_its_lattice_subgroup(letter: str, n: int) -> None:
    group = gconv.group_from_name(f"{letter}{n}")
    assert group.order == n * (2 if letter == "D" else 1)
    matrices = [torch.tensor(group.matrix(g), dtype=torch.float64) for g in group.elements]
    for a in group.elements:
        assert group.product(a, group.inverse(a)) == 0
        for b in group.elements:
            expected = matrices[group.product(a, b)]
            torch.testing.assert_close(matrices[a] @ matrices[b], expected, rtol=0, atol=1e-14)
    turn = 2 * math.pi / n
    expected = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    torch.testing.assert_close(matrices[1 % n], expected, rtol=0, atol=1e-14)
    lattice, m = group.lattice, group.coset_count
    assert lattice.name == f"{letter}{math.gcd(n, 4)}"
    assert (m == 1) == group.is_lattice == (n in (1, 2, 4))
    for h in lattice.elements:
        assert group.lattice_elements[h] == h * m
        assert group.matrix(h * m) == lattice.matrix(h)
        assert {type(entry) for row in group.matrix(h * m) for entry in row} == {int}
        for c in range(m):
            assert group.product(h * m, c) == h * m + c
    exact = [g for g in group.elements if matrices[g].round().sub(matrices[g]).abs().max() < 1e-9]
    assert list(group.lattice_elements) == exact


@pytest.mark.parametrize("name", ["C6", "C8", "D3", "D12"])
def test_lattice_elements_act_as_in_the_lattice_group(name: str) -> None:
    group = gconv.group_from_name(name)
    x = torch.randn(2, 3, group.order, 4, 5)
    for h, element in enumerate(group.lattice_elements):
        assert torch.equal(group.act(x[:, :, 0], element), group.lattice.act(x[:, :, 0], h))
        moved = group.act(x, element)
        for g in group.elements:  # (L_a f)(., a g) = L_a f(., g)
            assert torch.equal(moved[:, :, group.product(element, g)], group.lattice.act_grid(x[:, :, g], h))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gconv.CyclicGroup(0), ValueError, "CyclicGroup: n must be positive, got 0"),
        (lambda: gconv.DihedralGroup(17), ValueError, "DihedralGroup: n must be at most 16, got 17"),
        (lambda: gconv.CyclicGroup(2.0), TypeError, "CyclicGroup: n must be an int, got float"),
        (lambda: gconv.DihedralGroup(True), TypeError, "DihedralGroup: n must be an int, got bool"),
        (lambda: gconv.group_from_name("E4"), ValueError, "group_from_name: name must be like 'C4' or 'D2', got 'E4'"),
        (lambda: gconv.group_from_name("C04"), ValueError, "group_from_name: name must be like .*, got 'C04'"),
        (lambda: gconv.group_from_name(4), TypeError, "group_from_name: name must be a str, got int"),
        (lambda: gconv.CyclicGroup(4).inverse(4), ValueError, r"C4: a must be in 0\.\.3, got 4"),
        (lambda: gconv.CyclicGroup(4).product(0, -1), ValueError, r"C4: b must be in 0\.\.3, got -1"),
        (lambda: gconv.CyclicGroup(4).act(torch.zeros(1, 1, 2, 2), 1.0), TypeError, "C4: element must be an int, got"),
        (lambda: gconv.CyclicGroup(4).act([1], 1), TypeError, "act: x must be a Tensor, got list"),
        (lambda: gconv.CyclicGroup(4).act(torch.zeros(2, 2), 1), ValueError, r"act: x must be .* got \(2, 2\)"),
        (
            lambda: gconv.CyclicGroup(4).act(torch.zeros(1, 1, 2, 3, 3), 1),
            ValueError,
            r"act: x must be \(N, C, H, W\) or \(N, C, 4, H, W\) for group C4, got \(1, 1, 2, 3, 3\)",
        ),
        (lambda: gconv.CyclicGroup(4).cosets([0, 1]), ValueError, r"cosets: subgroup must .*C4, got \[0, 1\]"),
        (lambda: gconv.CyclicGroup(4).cosets([2]), ValueError, r"cosets: subgroup must hold the identity 0"),
        (lambda: gconv.CyclicGroup(4).cosets([]), ValueError, r"cosets: subgroup must hold the identity 0"),
    ],
)
def test_bad_arguments_are_named(call: object, error: type[Exception], message: str) -> None:
    assert callable(call)
    with pytest.raises(error, match=f"^{message}"):
        call()
