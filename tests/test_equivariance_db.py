"""Actions on images and points against complex numbers and drawn shapes; errors in dB against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

import gconv.nn as gnn
from gconv import CyclicGroup, DihedralGroup, PlanarGroup
from sgan.metrics import (
    disk_mask,
    equivariance_db,
    image_actions,
    invariance_db,
    point_actions,
    rotate_images,
    shift_actions,
)

GROUPS = [CyclicGroup(3), CyclicGroup(4), CyclicGroup(8), DihedralGroup(4), DihedralGroup(6)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def named(group: PlanarGroup) -> str:
    return group.name


def blob(x: float, y: float, side: int = 41) -> Tensor:
    """A spot of standard deviation 4 at the point (x, y), y up, as a (1, 1, side, side) image."""
    offset = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return torch.exp(-((offset - x).square() + (-offset[:, None] - y).square()) / 32).view(1, 1, side, side)


# Actions


@pytest.mark.parametrize("group", GROUPS, ids=named)
def test_points_move_as_complex_numbers(group: PlanarGroup) -> None:
    points = normal(6, 2)
    z = torch.complex(points[:, 0], points[:, 1])
    actions = point_actions(group)
    assert len(actions) == group.order - 1
    for element, (name, act) in zip(group.elements[1:], actions.items(), strict=True):
        flip, rotation = divmod(element, group.rotations)
        expected = z * torch.polar(torch.tensor(1.0), torch.tensor(2 * math.pi * rotation / group.rotations)).to(z)
        expected = expected.conj() if flip else expected
        torch.testing.assert_close(act(points), torch.view_as_real(expected.resolve_conj()), rtol=0, atol=1e-6)
        assert ("flip" in name) == bool(flip)


@pytest.mark.parametrize("group", GROUPS, ids=named)
def test_images_move_as_points_do(group: PlanarGroup) -> None:
    """Torch's bicubic filter (a = -3/4) errs by up to 4.8 % of the slope per axis, here 0.0103, and by curvature."""
    point = torch.tensor([[7.0, 3.0]], dtype=torch.float64)
    for (name, act), act_point in zip(image_actions(group).items(), point_actions(group).values(), strict=True):
        expected = blob(*act_point(point)[0].tolist())
        assert ((act(blob(7, 3)) - expected) * disk_mask(41)).abs().max() < 0.015, name


def test_lattice_elements_move_pixels_and_feature_maps_exactly() -> None:
    group = DihedralGroup(4)
    x, features = normal(2, 3, 5, 5), normal(2, 3, 8, 5, 5)
    for element, act in zip(group.elements[1:], image_actions(group).values(), strict=True):
        assert torch.equal(act(x), group.act(x, element))
        assert torch.equal(act(features), group.act(features, element))


def test_a_quarter_turn_by_interpolation_is_a_permutation_of_pixels() -> None:
    x = normal(2, 1, 6, 6)
    torch.testing.assert_close(rotate_images(x, math.pi / 2), torch.rot90(x, 1, (2, 3)), rtol=0, atol=1e-9)


def test_the_disk_is_what_rotations_keep() -> None:
    mask = disk_mask(5)
    expected = ["..#..", ".###.", "#####", ".###.", "..#.."]
    assert ["".join(".#"[int(p)] for p in row) for row in mask.tolist()] == expected


def test_shifts_are_periodic() -> None:
    x = normal(1, 1, 3, 4)
    shifted = shift_actions([(1, -1)])["shift 1,-1"](x)
    assert shifted[0, 0, 0, 0] == x[0, 0, 2, 1]


def test_bad_images_and_points() -> None:
    with pytest.raises(ValueError, match=r"rotate_images: images must be \(N, C, H, H\), got \(1, 1, 3, 4\)"):
        rotate_images(torch.zeros(1, 1, 3, 4), 0.1)
    with pytest.raises(ValueError, match=r"act_on_points: points must be \(N, 2\), got \(3, 3\)"):
        point_actions(CyclicGroup(3))["turn 120"](torch.zeros(3, 3))


# dB


def test_an_error_is_a_peak_signal_to_noise_ratio() -> None:
    """f adds a fixed picture, so f(T x) - T f(x) is that picture minus its transform."""
    picture, x = 0.3 * normal(1, 1, 6, 6), normal(4, 1, 6, 6, seed=1)
    actions = image_actions(DihedralGroup(4))
    got = equivariance_db(lambda images: images + picture, x, actions)
    for name, act in actions.items():
        expected = peak_signal_noise_ratio(act(x) + picture, act(x + picture), data_range=2.0)
        assert got[name] == pytest.approx(float(expected), rel=1e-6)
        by_hand = 10 * math.log10(4 / float((picture - act(picture)).square().mean()))
        assert got[name] == pytest.approx(by_hand, rel=1e-9)


def test_peak_mask_and_output_actions() -> None:
    x, actions = normal(3, 2, 5, 5), image_actions(CyclicGroup(4))
    corner = torch.zeros(5, 5, dtype=torch.float64)
    corner[0, 0] = 0.5

    def add(images: Tensor) -> Tensor:
        return images + corner

    expected = 10 * math.log10(4 / (2 * 0.25 / 25))  # two of 25 pixels are off by a half
    assert list(equivariance_db(add, x, actions).values()) == pytest.approx([expected] * 3)
    of_peak_1 = equivariance_db(add, x, actions, peak=1.0)
    assert list(of_peak_1.values()) == pytest.approx([expected - 20 * math.log10(2)] * 3)
    assert set(equivariance_db(add, x, actions, mask=disk_mask(5)).values()) == {math.inf}
    still = dict.fromkeys(actions, lambda image: image)
    total = equivariance_db(lambda images: images.sum((2, 3)), x, actions, output_actions=still)
    assert min(total.values()) > 280  # sums of 25 numbers in another order


@pytest.mark.parametrize("group", [CyclicGroup(4), DihedralGroup(4)], ids=named)
def test_group_convolutions_are_equivariant_and_pooled_scores_invariant(group: PlanarGroup) -> None:
    lift = gnn.LiftingConv2d(1, 4, 3, group=group, padding="same").double()
    network = nn.Sequential(lift, nn.ReLU(), gnn.GroupConv2d(4, 3, 3, group=group, padding="same").double())
    x, actions = normal(5, 1, 8, 8), image_actions(group)
    assert min(equivariance_db(network, x, actions).values()) > 250
    pool = gnn.GroupPool(group=group)

    def score(images: Tensor) -> Tensor:
        return pool(network(images)).mean((1, 2, 3))

    assert min(invariance_db(score, x, actions).values()) > 250
    planar = nn.Conv2d(1, 1, 3, padding="same").double()
    assert max(equivariance_db(planar, x, actions).values()) < 30
    assert max(invariance_db(lambda images: planar(images)[:, 0, 0, 0], x, actions).values()) < 30


def test_steerable_filters_are_more_equivariant_off_the_grid_than_planar_ones() -> None:
    """A smooth image on C8: between the pixels the group's network errs, but less than one without symmetry."""
    group = CyclicGroup(8)
    x = blob(4, 2) - blob(-3, 5)
    actions, mask = image_actions(group), disk_mask(41)
    network = nn.Sequential(
        gnn.LiftingConv2d(1, 4, 5, group=group, padding="same"), gnn.GroupPool(group=group)
    ).double()
    planar = nn.Conv2d(1, 4, 5, padding="same").double()
    symmetric = equivariance_db(network, x, actions, mask=mask)
    ordinary = equivariance_db(planar, x, actions, mask=mask)
    for name in actions:
        assert symmetric[name] > ordinary[name] + 10, name


def test_a_point_map_and_its_symmetrisation() -> None:
    group, x = CyclicGroup(5), normal(50, 2)
    actions = point_actions(group)
    back = list(reversed(list(actions.values())))  # the inverse of element r is n - r

    def crooked(points: Tensor) -> Tensor:
        return torch.tanh(points + torch.tensor([0.7, 0.0], dtype=points.dtype))

    def symmetrised(points: Tensor) -> Tensor:
        turned = [inverse(crooked(act(points))) for act, inverse in zip(actions.values(), back, strict=True)]
        return (crooked(points) + torch.stack(turned).sum(0)) / 5

    assert min(equivariance_db(symmetrised, x, actions).values()) > 250
    assert max(equivariance_db(crooked, x, actions).values()) < 20


def test_translations() -> None:
    x, shifts = normal(2, 1, 6, 6), shift_actions([(0, 1), (2, 3)])
    periodic = nn.Conv2d(1, 1, 3, padding="same", padding_mode="circular").double()
    padded = nn.Conv2d(1, 1, 3, padding="same").double()
    assert min(equivariance_db(periodic, x, shifts).values()) > 250
    assert max(equivariance_db(padded, x, shifts).values()) < 60


def test_what_cannot_be_measured() -> None:
    x, actions = normal(2, 1, 4, 4), image_actions(CyclicGroup(2))
    with pytest.raises(ValueError, match="output_actions must have the names of actions, got"):
        equivariance_db(nn.Identity(), x, actions, output_actions=image_actions(CyclicGroup(4)))
    with pytest.raises(ValueError, match="peak must be finite and > 0, got 0"):
        equivariance_db(nn.Identity(), x, actions, peak=0)
    with pytest.raises(ValueError, match="mask must keep some of the output"):
        equivariance_db(nn.Identity(), x, actions, mask=torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="the output must keep its shape"):
        equivariance_db(lambda images: images, x, actions, output_actions={"turn 180": lambda y: y[:1]})
    with pytest.raises(ValueError, match=r"scores must differ between inputs, got 3\.0 for all 2"):
        invariance_db(lambda images: images.sum((1, 2, 3)) * 0 + 3, x, actions)
    with pytest.raises(FloatingPointError, match="the output must be finite"):
        equivariance_db(torch.log, x, actions)
