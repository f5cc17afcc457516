"""The generator: equal sizes, equivariant synthesis, and the law of its images."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gconv
from sgan.config import PRESETS, resolve
from sgan.generators import Generator, stage_resolutions
from sgan.latents import Latents, sample_latents, stream
from sgan.metrics import two_sample_test
from sgan.trainer import build_generator, parameter_count

GROUPS = ["C1", "C2", "C4", "D1", "D2", "D4"]
SHAPE = {"resolution": 28, "channels": 1, "num_classes": 10}


def build(group: str, *, resolution: int = 28, width: float = 1 / 32, symmetrise_latent: bool = True) -> Generator:
    torch.manual_seed(0)
    return Generator(
        group=gconv.group_from_name(group),
        resolution=resolution,
        channels=2,
        num_classes=3,
        width=width,
        symmetrise_latent=symmetrise_latent,
    ).to(torch.float64)


def draw(generator: Generator, count: int, purpose: str) -> Latents:
    latents = sample_latents(
        torch.arange(count) % 3, latent_dim=generator.latent_dim, group=generator.group, rng=stream(0, purpose)
    )
    return latents._replace(z=latents.z.double())


@pytest.mark.parametrize(
    ("resolution", "stages"), [(28, (7, 14, 28)), (32, (8, 16, 32)), (64, (8, 16, 32, 64)), (27, (27,)), (7, (7,))]
)
def test_stages_halve_down_to_a_small_map(resolution: int, stages: tuple[int, ...]) -> None:
    assert stage_resolutions(resolution) == stages


def test_resolutions_below_the_latent_map_are_refused() -> None:
    with pytest.raises(ValueError, match="resolution must be >= 7, got 6"):
        stage_resolutions(6)


@pytest.mark.parametrize(("resolution", "below", "above"), [(299, 288, 304), (29, 28, 30), (101, 100, 104)])
def test_resolutions_that_cannot_be_halved_are_refused_with_ones_that_can(
    resolution: int, below: int, above: int
) -> None:
    with pytest.raises(ValueError, match=f"got {resolution}: resize the images to {below} or {above} pixels"):
        stage_resolutions(resolution)
    assert all(7 <= stage_resolutions(side)[0] <= 27 for side in (below, above))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("width", [None, 0.25, 1.0])
def test_every_preset_has_the_planar_networks_parameter_count(preset: str, width: float | None) -> None:
    planar = resolve("digits-cnn", generator_width=width)
    options = resolve(preset, generator_width=width)
    expected = parameter_count(build_generator(planar, **SHAPE))
    assert parameter_count(build_generator(options, **SHAPE)) == pytest.approx(expected, rel=0.05)


def test_the_planar_network_is_the_published_one() -> None:
    generator = build_generator(resolve("digits-cnn", generator_width=1.0), **SHAPE)
    assert generator.widths == (512, 256, 128)
    assert parameter_count(generator) == pytest.approx(2.97e6, rel=0.01)


def from_state(generator: Generator, state: dict[str, Tensor], function: Callable[[], Tensor]) -> Tensor:
    """Call function with the generator in this state: a training forward moves the spectral norms' power iterations."""
    generator.load_state_dict(state)
    with torch.no_grad():
        return function()


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("training", [True, False])
def test_synthesis_is_equivariant_for_every_element(group: str, training: bool) -> None:
    generator = build(group)
    act = generator.group.act
    latents = draw(generator, 6, "latents")
    generator(latents)  # running statistics that are not the initial ones
    generator.train(training)
    state = copy.deepcopy(generator.state_dict())
    latent_map, condition = (x.detach() for x in generator.latent_map(latents.z, latents.labels))
    images = from_state(generator, state, lambda: generator.synthesis(latent_map, condition))
    assert images.shape == (6, 2, 28, 28)
    assert images.std() > 1e-3
    for element in range(generator.group.order):
        moved = act(latent_map, element)
        actual = from_state(generator, state, lambda moved=moved: generator.synthesis(moved, condition))  # type: ignore[misc]  # bound now
        torch.testing.assert_close(actual, act(images, element), atol=1e-10, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_coupled_elements_move_the_images(training: bool) -> None:
    """With elements g h_n in place of h_n, all images are moved by g, though every sample has an h_n of its own."""
    generator = build("D4").train(training)
    group = generator.group
    latents = draw(generator, 8, "latents")
    state = copy.deepcopy(generator.state_dict())
    images = from_state(generator, state, lambda: generator(latents))
    for element in range(group.order):
        coupled = latents._replace(elements=torch.tensor([group.product(element, int(h)) for h in latents.elements]))
        moved = from_state(generator, state, lambda coupled=coupled: generator(coupled))  # type: ignore[misc]  # bound now
        torch.testing.assert_close(moved, group.act(images, element), atol=1e-10, rtol=0)


@pytest.mark.parametrize("resolution", [8, 14, 20])
def test_other_resolutions_give_images_of_that_size(resolution: int) -> None:
    generator = build("C4", resolution=resolution)
    images = generator(draw(generator, 2, "latents"))
    assert images.shape == (2, 2, resolution, resolution)
    assert images.abs().max() <= 1


def test_without_symmetrisation_the_elements_do_nothing() -> None:
    generator = build("C4", symmetrise_latent=False).eval()
    latents = draw(generator, 4, "latents")
    other = latents._replace(elements=(latents.elements + 1) % 4)
    assert torch.equal(generator(latents), generator(other))


def law_p_values(generator: Generator) -> list[float]:
    """p-values of "X and T_g Y have one law" for independent samples X, Y and every g but the identity."""
    with torch.no_grad():
        for _ in range(3):
            generator(draw(generator, 120, "statistics"))  # the batch norms' running statistics
        generator.eval()
        x, y = (generator(draw(generator, 120, purpose)) for purpose in ("x", "y"))
    return [
        two_sample_test(x, generator.group.act(y, element), permutations=300, seed=0).p_value
        for element in range(1, generator.group.order)
    ]


@pytest.mark.parametrize("group", ["C2", "C4", "D4"])
def test_the_law_is_invariant_only_with_the_symmetrised_latent(group: str) -> None:
    """Two generators, equal but for the switch, whose latent map has a strong mean that no element leaves in place.

    At initialisation that mean is small against the part that depends on z, and 120 samples do not show it; training on
    upright digits would grow it. Here the projection's random bias, which is that mean, is 30 times the initial one.
    """
    for symmetrise_latent in (True, False):
        generator = build(group, symmetrise_latent=symmetrise_latent)
        with torch.no_grad():
            generator.project.bias.mul_(30)
        p_values = law_p_values(generator)
        assert min(p_values) > 0.01 if symmetrise_latent else max(p_values) < 0.01, p_values


def test_images_are_float32_by_default() -> None:
    generator = build_generator(resolve("digits-c4", generator_width=1 / 32), **SHAPE)
    latents = sample_latents(torch.arange(2), latent_dim=64, group=generator.group, rng=stream(0, "latents"))
    images: Tensor = generator(latents)
    assert images.dtype == torch.float32
