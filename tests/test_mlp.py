"""Perceptrons as players: symmetry on points for any group, DeLiGAN's baselines, and latent laws under a group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gconv
from sgan.architectures import DISCRIMINATORS, GENERATORS, PerceptronDiscriminatorRow, PerceptronGeneratorRow
from sgan.latents import Latents, stream
from sgan.mlp import PerceptronDiscriminator, PerceptronGenerator
from sgan.projection import point_maps

GROUPS = ["C1", "C3", "C4", "C7", "C8", "D1", "D3", "D8"]
LAWS: list[dict[str, Any]] = [
    {},
    {"noise": "uniform"},
    {"components": 5},
    {"components": 5, "component_rule": "cyclic"},
]


def generator(row: str = "points", group: str = "C1", **options: Any) -> PerceptronGenerator:
    torch.manual_seed(0)
    architecture = GENERATORS[row]
    assert isinstance(architecture, PerceptronGeneratorRow)
    shape = {"resolution": 4, "channels": 1, "num_classes": 3}
    return PerceptronGenerator(
        architecture=architecture, group=gconv.group_from_name(group), **{**shape, **options}
    ).double()


def discriminator(row: str = "points", group: str = "C1", **options: Any) -> PerceptronDiscriminator:
    torch.manual_seed(0)
    architecture = DISCRIMINATORS[row]
    assert isinstance(architecture, PerceptronDiscriminatorRow)
    return PerceptronDiscriminator(
        architecture=architecture, group=gconv.group_from_name(group), resolution=4, channels=1, **options
    ).double()


def draw(player: PerceptronGenerator, count: int) -> Latents:
    latents = player.sample_latents(torch.zeros(count, dtype=torch.int64), stream(0, "latents"))
    return latents._replace(z=latents.z.double())


@pytest.mark.parametrize("row", ["points", "toy", "toy-moe", "toy-ensemble"])
@pytest.mark.parametrize("group", GROUPS)
def test_synthesis_of_points_is_equivariant_for_every_element(group: str, row: str) -> None:
    player = generator(row, group, components=1 if row == "points" else 4)
    latents = draw(player, 20)
    points = player.synthesis(latents.z, latents.components)
    assert points.shape == (20, 2)
    for move in point_maps(player.group):
        moved = player.synthesis(move(latents.z), latents.components)
        torch.testing.assert_close(moved, move(points), atol=1e-12, rtol=0)


def test_without_the_projection_synthesis_is_not_equivariant() -> None:
    player = generator()
    latents = draw(player, 20)
    (_, turn, *_) = point_maps(gconv.CyclicGroup(4))
    moved = player.synthesis(turn(latents.z), latents.components)
    assert (moved - turn(player.synthesis(latents.z, latents.components))).abs().max() > 1e-3


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("group", ["C3", "D8"])
def test_coupled_elements_move_the_points(group: str, law: dict[str, Any]) -> None:
    """As g h_n is as uniform as h_n, the law is invariant under g, whatever the law of z and the component."""
    player = generator("points", group, **law)
    latents = draw(player, 20)
    points = player(latents)
    for element, move in zip(player.group.elements, point_maps(player.group), strict=True):
        elements = torch.tensor([player.group.product(element, int(h)) for h in latents.elements])
        torch.testing.assert_close(player(latents._replace(elements=elements)), move(points), atol=1e-12, rtol=0)


@pytest.mark.parametrize("symmetrise_latent", [True, False])
def test_a_mixtures_law_is_invariant_only_when_symmetrised(symmetrise_latent: bool) -> None:
    """Components on one side: the mean of the points is that of an invariant law, 0, or far from it."""
    player = generator("points", "C3", components=5, sigma=0.05, symmetrise_latent=symmetrise_latent)
    assert player.mixture is not None
    nn.init.constant_(player.mixture.mu, 1.0)
    points = player(draw(player, 3000)).detach()
    error = points.std(dim=0).norm() / 3000**0.5
    distance = points.mean(dim=0).norm()
    assert (distance < 4 * error) == symmetrise_latent


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("head", ["score", "san"])
def test_scores_of_points_are_invariant_for_every_element(group: str, head: str) -> None:
    player = discriminator("points", group, head=head)
    points = torch.randn(20, 2, dtype=torch.float64)
    for move in point_maps(player.group):
        torch.testing.assert_close(player(move(points)), player(points), atol=1e-12, rtol=0)
    turned = points @ torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)  # in none of the groups
    assert (player(turned) - player(points)).abs().max() > 1e-4


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_scores_of_images_are_invariant(group: str) -> None:
    player = discriminator("mnist-mlp", group, width=1 / 64)
    images = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    for element in player.group.elements:
        moved = player(player.group.act(images, element))
        torch.testing.assert_close(moved, player(images), atol=1e-12, rtol=0)


def test_image_players_have_the_images_shape() -> None:
    player = generator("mnist-mlp", channels=3, width=1 / 64)
    images = player(draw(player, 5))
    assert images.shape == (5, 3, 4, 4)
    assert images.abs().max() < 1


def test_the_network_by_hand() -> None:
    for row, activation, output in (("points", torch.relu, lambda x: x), ("toy-gan++", torch.tanh, torch.tanh)):
        player = generator(row)
        latents = draw(player, 5)
        x = latents.z
        *hidden, last = player.network.layers
        for layer in hidden:
            x = activation(layer(x))
        torch.testing.assert_close(player(latents), output(last(x)))
    judge = discriminator("toy")
    x = torch.randn(5, 2, dtype=torch.float64)
    (layer,) = judge.network.network.layers
    torch.testing.assert_close(judge(x), judge.head(torch.tanh(layer(x))))


def test_experts_see_their_component_and_ensembles_are_networks_of_their_own() -> None:
    for row in ("toy-moe", "toy-ensemble"):
        player = generator(row, components=4)
        latents = draw(player, 6)
        components = torch.tensor([0, 1, 2, 3, 0, 1])
        same_noise = latents._replace(z=latents.z[:1].expand(6, 2), components=components)
        points = player(same_noise)
        assert torch.equal(points[0], points[4])
        assert len({tuple(point) for point in points[:4].tolist()}) == 4
    ensemble = generator("toy-ensemble", components=4)
    latents = draw(ensemble, 8)
    out = ensemble(latents)
    for n, component in enumerate(latents.components.tolist()):
        x: Tensor = latents.z[n]
        for layer in ensemble.network.layers:
            x = torch.tanh(layer.weight[component] @ x + layer.bias[component])
        torch.testing.assert_close(out[n], x)


@pytest.mark.parametrize(
    ("row", "group", "options", "message"),
    [
        ("mnist-mlp", "C4", {}, "group must be C1 except on points of the plane, got C4"),
        ("points", "C4", {"latent_dim": 3}, "group must be C1 except on points of the plane, got C4"),
        ("toy-moe", "C1", {}, "components must be > 1 for DeLiGAN"),
    ],
)
def test_what_cannot_be_is_refused(row: str, group: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generator(row, group, **options)
