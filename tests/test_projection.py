"""Projections make any network invariant or equivariant: on images, points, translations and permutations."""

from __future__ import annotations

import copy
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

import gconv
import gconv.nn as gnn
from sgan.heads import SanHead, SanScores
from sgan.projection import (
    EquivariantProjection,
    InvariantProjection,
    TensorMap,
    image_maps,
    permutation_maps,
    point_maps,
    translation_maps,
)


class LabelledScores(nn.Module):
    """A network without any symmetry, with batch norm, power iterations and a label."""

    def __init__(self, channels: int = 2, resolution: int = 4) -> None:
        super().__init__()
        self.convolve = gnn.spectral_norm(nn.Conv2d(channels, 3, 3, padding=1))
        self.norm = nn.BatchNorm2d(3)
        self.linear = nn.Linear(3 * resolution**2, 5)
        self.head = SanHead(5, 3)

    def forward(self, x: Tensor, labels: Tensor, *, split: bool = False) -> Tensor | SanScores:
        return self.head(self.linear(self.norm(self.convolve(x)).relu().flatten(1)), labels, split=split)


IMAGES = {
    **{name: image_maps(gconv.group_from_name(name)) for name in ("C1", "C2", "C4", "D1", "D2", "D4")},
    "translations": translation_maps(4, 1),
    "even translations": translation_maps(4, 2),
}
SYMMETRIC_3 = permutation_maps(list(permutations(range(3))))
LABELS = torch.tensor([0, 2, 1])


def images() -> Tensor:
    return torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", IMAGES)
def test_the_invariant_projection_of_any_network_is_invariant(name: str, training: bool) -> None:
    maps, x = IMAGES[name], images()
    projection = InvariantProjection(LabelledScores().to(torch.float64), maps)
    projection(x, LABELS)  # fills the running statistics
    projection.train(training)

    def scores(x: Tensor) -> Tensor:
        return copy.deepcopy(projection)(x, LABELS)  # a step of the power iteration changes the function

    values = scores(x)
    assert values.shape == (3,)
    assert values.std() > 1e-3
    for move in maps:
        torch.testing.assert_close(scores(move(x)), values, atol=1e-10, rtol=0)


def test_the_projection_is_the_mean_over_the_orbit_and_idempotent() -> None:
    network, x = LabelledScores().to(torch.float64).eval(), images()
    maps = IMAGES["D4"]
    projection = InvariantProjection(network, maps)
    values = projection(x, LABELS)
    torch.testing.assert_close(values, sum(network(move(x), LABELS) for move in maps) / len(maps))
    torch.testing.assert_close(InvariantProjection(projection, maps)(x, LABELS), values)


def test_both_halves_of_san_scores_are_averaged() -> None:
    projection = InvariantProjection(LabelledScores().to(torch.float64), IMAGES["C4"]).eval()
    scores, values = projection(images(), LABELS, split=True), projection(images(), LABELS)
    assert isinstance(scores, SanScores)
    torch.testing.assert_close(scores.fun, values)
    torch.testing.assert_close(scores.dir, values)
    parameter = projection.network.head.score.weight
    assert torch.autograd.grad(scores.dir.sum(), parameter)[0].abs().max() > 0


def test_a_list_that_is_no_group_gives_no_invariance() -> None:
    projection = InvariantProjection(LabelledScores().to(torch.float64), IMAGES["C4"][:2]).eval()
    x = images()
    assert (projection(IMAGES["C4"][1](x), LABELS) - projection(x, LABELS)).abs().max() > 1e-4


def test_a_permutation_group() -> None:
    """All orders of three entries: the projection of a non-linear map is symmetric in them."""
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).to(torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    projection = InvariantProjection(network, SYMMETRIC_3)
    for move in SYMMETRIC_3:
        torch.testing.assert_close(projection(move(x)), projection(x))
    assert (network(SYMMETRIC_3[1](x)) - network(x)).abs().max() > 1e-2
    torch.testing.assert_close(permutation_maps([[2, 0, 1]])[0](torch.tensor([[1, 2, 3]])), torch.tensor([[3, 1, 2]]))


POINT_GROUPS = ["C2", "C3", "C5", "C8", "D1", "D3", "D6"]


@pytest.mark.parametrize("name", POINT_GROUPS)
def test_point_maps_are_the_groups_action(name: str) -> None:
    group = gconv.group_from_name(name)
    maps, x = point_maps(group), torch.randn(4, 2, dtype=torch.float64)
    for a in group.elements:
        torch.testing.assert_close(maps[a](x).norm(dim=1), x.norm(dim=1))
        for b in group.elements:
            torch.testing.assert_close(maps[a](maps[b](x)), maps[group.product(a, b)](x))


def inverses(name: str) -> list[TensorMap]:
    group = gconv.group_from_name(name)
    maps = point_maps(group)
    return [maps[group.inverse(element)] for element in group.elements]


@pytest.mark.parametrize("name", POINT_GROUPS)
def test_the_equivariant_projection_of_any_generator_is_equivariant(name: str) -> None:
    maps = point_maps(gconv.group_from_name(name))
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).to(torch.float64)
    generator = EquivariantProjection(network, maps, inverses(name))
    z = torch.randn(6, 2, dtype=torch.float64)
    for move in maps:
        torch.testing.assert_close(generator(move(z)), move(generator(z)))
    assert (network(maps[1](z)) - maps[1](network(z))).abs().max() > 1e-2
    assert generator(z).abs().max() > 1e-3


def test_conditions_reach_the_generator() -> None:
    class Scaled(nn.Module):
        def forward(self, z: Tensor, scale: Tensor) -> Tensor:
            return scale[:, None] * z

    z, scale = torch.randn(3, 2), torch.tensor([1.0, 2.0, 3.0])
    generator = EquivariantProjection(Scaled(), point_maps(gconv.CyclicGroup(4)), inverses("C4"))
    torch.testing.assert_close(generator(z, scale), scale[:, None] * z)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="image_maps: group must be exact on the pixel grid, as C4 is, got C8"):
        image_maps(gconv.CyclicGroup(8))
    with pytest.raises(ValueError, match="translation_maps: step must divide side 28, got 3"):
        translation_maps(28, 3)
    with pytest.raises(ValueError, match="InvariantProjection: maps must be a group's"):
        InvariantProjection(nn.Identity(), [])
    with pytest.raises(
        ValueError, match="EquivariantProjection: inverse_maps must be as many as latent_maps, 2, got 1"
    ):
        EquivariantProjection(nn.Identity(), IMAGES["C2"], IMAGES["C1"])
