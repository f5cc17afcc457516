"""Symmetry of laws: energy distance, permutation test, and every element of a group, on points and on images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gconv import CyclicGroup, DihedralGroup, PlanarGroup
from sgan.data import load_dataset
from sgan.metrics import law_symmetry, rotate_images, symmetry_tests, two_sample_test
from sgan.metrics.actions import act_on_points


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_energy_distance_by_hand() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [5.0]])
    # between: mean of 2, 5, 1, 4 = 3; within x: 1; within y: 3.
    assert two_sample_test(x, y).distance == pytest.approx(2 * 3 - 1 - 3)


def test_p_values_of_equal_laws_are_uniform() -> None:
    p = [
        two_sample_test(normal(20, 2, seed=i), normal(25, 2, seed=1000 + i), permutations=99).p_value
        for i in range(200)
    ]
    counts = torch.histc(torch.tensor(p) - 0.005, 10, 0, 1)
    assert ((counts - 20) ** 2 / 20).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_different_laws_are_told_apart() -> None:
    x = normal(60, 3)
    for y in (normal(60, 3, seed=1) + 1, 3 * normal(60, 3, seed=1)):
        result = two_sample_test(x, y)
        assert result.p_value == 1 / 501
        assert result.distance > 0
    assert two_sample_test(x, normal(60, 3, seed=1), seed=5) == two_sample_test(x, normal(60, 3, seed=1), seed=5)


def test_a_constant_law_equals_itself() -> None:
    assert two_sample_test(torch.full((8, 3), 0.1), torch.full((9, 3), 0.1)) == (0, 1)


def test_bad_samples() -> None:
    with pytest.raises(ValueError, match="x and y must be"):
        two_sample_test(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="must be finite"):
        two_sample_test(torch.zeros(5, 2), torch.full((5, 2), math.inf))
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        two_sample_test(torch.zeros(5, 2), torch.ones(5, 2), permutations=0)
    with pytest.raises(ValueError, match=r"symmetry_tests: samples must be \(N >= 4"):
        symmetry_tests(torch.zeros(3, 2), {})


def test_rotated_digits_are_symmetric_and_upright_ones_are_not() -> None:
    turns = {f"r{k}": lambda x, k=k: torch.rot90(x, k, (2, 3)) for k in range(1, 4)}
    chosen = torch.randperm(1438, generator=torch.Generator().manual_seed(0))[:600]
    symmetric = symmetry_tests(load_dataset("digits-rotated").train.batch(chosen), turns, permutations=200)
    assert list(symmetric) == ["r1", "r2", "r3"]
    assert min(result.p_value for result in symmetric.values()) > 0.01
    broken = symmetry_tests(load_dataset("digits").train.batch(chosen), turns, permutations=200)
    assert max(result.p_value for result in broken.values()) < 0.01


def points(group: PlanarGroup, count: int, *, seed: int = 0) -> Tensor:
    """Points near (2, 0.5), each moved by a uniform element: a law that is invariant under no larger group."""
    z = torch.tensor([2.0, 0.5]) + 0.2 * normal(count, 2, seed=seed)
    elements = torch.randint(group.order, (count,), generator=torch.Generator().manual_seed(seed + 1))
    moved = torch.stack([act_on_points(group, element, z) for element in group.elements])
    return moved[elements, torch.arange(count)]


@pytest.mark.parametrize("group", [CyclicGroup(3), CyclicGroup(8), DihedralGroup(5)], ids=lambda group: group.name)
def test_symmetric_points_pass_for_every_element(group: PlanarGroup) -> None:
    results = law_symmetry(points(group, 800), group, permutations=400)
    assert len(results) == group.order - 1
    assert min(result.p_value for result in results.values()) > 0.05 / group.order


def test_points_with_half_the_symmetry_fail_for_the_other_elements() -> None:
    results = law_symmetry(points(CyclicGroup(4), 800), CyclicGroup(8), permutations=200)
    assert list(results) == [f"turn {angle}" for angle in range(45, 360, 45)]
    for name, result in results.items():
        assert (result.p_value > 0.01) == (int(name.split()[1]) % 90 == 0), name
    flips = law_symmetry(points(CyclicGroup(4), 800), DihedralGroup(4), permutations=200)
    assert {name for name, result in flips.items() if result.p_value < 0.01} == {n for n in flips if "flip" in n}


def test_digits_in_every_direction_pass_between_the_pixels_and_quarter_turned_ones_fail() -> None:
    chosen = torch.randperm(1438, generator=torch.Generator().manual_seed(0))[:800]
    uniform = law_symmetry(load_dataset("digits-rotated").train.batch(chosen), CyclicGroup(8), permutations=400)
    assert min(result.p_value for result in uniform.values()) > 0.05 / 8
    quarter = law_symmetry(load_dataset("digits-quarter").train.batch(chosen), CyclicGroup(8), permutations=200)
    for name, result in quarter.items():
        assert (result.p_value > 0.01) == (int(name.split()[1]) % 90 == 0), name


def test_pictures_of_points_pass_for_the_elements_that_the_points_do() -> None:
    """C3 in C12: 120 degrees are an exact quarter turn and 30 degrees between the pixels."""
    offset = torch.arange(17.0) - 8
    x, y = (3 * points(CyclicGroup(3), 600)).T[:, :, None, None]
    pictures = torch.exp(-((offset - x).square() + (-offset[:, None] - y).square()) / 8)[:, None]
    for name, result in law_symmetry(pictures, CyclicGroup(12), permutations=200).items():
        assert (result.p_value > 0.01) == (int(name.split()[1]) % 120 == 0), name


@pytest.mark.parametrize("group", [CyclicGroup(8), DihedralGroup(8)], ids=lambda group: group.name)
def test_interpolation_is_not_taken_for_asymmetry(group: PlanarGroup) -> None:
    """Independent pixels have a law as symmetric as a grid allows, and interpolating one side only would reject it."""
    noise = normal(400, 1, 9, 9)
    one_side = two_sample_test(noise[:200], rotate_images(noise[200:], math.pi / 4), permutations=100)
    assert one_side.p_value < 0.02
    results = law_symmetry(noise, group, permutations=400)
    assert min(result.p_value for result in results.values()) > 0.05 / group.order


def test_law_symmetry_of_bad_samples() -> None:
    with pytest.raises(ValueError, match=r"law_symmetry: samples must be .* got \(5, 1, 4, 6\)"):
        law_symmetry(torch.zeros(5, 1, 4, 6), CyclicGroup(4))
    with pytest.raises(ValueError, match=r"got \(3, 1, 4, 4\)"):
        law_symmetry(torch.zeros(3, 1, 4, 4), CyclicGroup(4))
    with pytest.raises(ValueError, match=r"got \(5, 3\)"):
        law_symmetry(torch.zeros(5, 3), CyclicGroup(4))
