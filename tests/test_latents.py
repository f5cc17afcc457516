"""Derived random streams, latents and per-sample group elements."""

from __future__ import annotations

import pytest
import torch

import gconv
from sgan.latents import (
    LatentLaw,
    LatentMixture,
    act_on_points_per_sample,
    act_per_sample,
    epoch_indices,
    stream,
)


def test_stream_is_a_function_of_its_arguments() -> None:
    def draw(*arguments: object) -> list[float]:
        return torch.rand(4, generator=stream(*arguments)).tolist()  # type: ignore[arg-type]  # any argument list

    assert draw(0, "a", 1) == draw(0, "a", 1)
    different = [draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2), draw(0, "a", 1 << 40)]
    assert len({tuple(values) for values in different}) == len(different)


@pytest.mark.parametrize(("seed", "position"), [(-1, 0), (0, -1)])
def test_stream_refuses_negative_arguments(seed: int, position: int) -> None:
    with pytest.raises(ValueError, match="seed and position must be >= 0"):
        stream(seed, "a", position)


def test_elements_are_uniform_and_z_does_not_depend_on_the_group() -> None:
    labels = torch.zeros(4000, dtype=torch.int64)
    drawn = {
        group.name: LatentLaw(3).sample(labels, group=group, rng=stream(0, "latents"))
        for group in (gconv.CyclicGroup(1), gconv.DihedralGroup(4))
    }
    assert torch.equal(drawn["C1"].z, drawn["D4"].z)
    assert drawn["C1"].elements.max() == 0
    counts = drawn["D4"].elements.bincount(minlength=8)
    assert (counts - 500).abs().max() < 4 * 500**0.5


@pytest.mark.parametrize("name", ["C1", "C2", "C4", "D1", "D2", "D4"])
def test_act_per_sample_is_the_groups_action_sample_by_sample(name: str) -> None:
    group = gconv.group_from_name(name)
    x = torch.randn(9, 2, 5, 5, generator=stream(0, "x"))
    elements = torch.arange(9) % group.order
    expected = torch.cat([group.act(x[i : i + 1], int(element)) for i, element in enumerate(elements)])
    assert torch.equal(act_per_sample(x, elements, group), expected)


@pytest.mark.parametrize("name", ["C8", "D8", "C6", "C16"])
@pytest.mark.parametrize("side", [7, 8])
def test_off_the_grid_the_lattice_subgroup_acts_exactly_on_what_was_turned(name: str, side: int) -> None:
    """T_h (T_g x) = T_hg x for h on the grid: with g uniform the law is exactly invariant under h."""
    group = gconv.group_from_name(name)
    x = torch.randn(group.order, 2, side, side, generator=stream(0, "x"))
    elements = torch.tensor(group.elements)
    turned = act_per_sample(x, elements, group)
    for h in group.lattice_elements:
        moved = torch.tensor([group.product(h, int(g)) for g in elements])
        assert torch.equal(act_per_sample(x, moved, group), group.act(turned, h))


@pytest.mark.parametrize("side", [15, 16])
def test_off_the_grid_pixels_are_the_nearest_ones_inside_the_disk(side: int) -> None:
    """A smooth map turned by 45 degrees, against its values at the turned positions."""
    group = gconv.CyclicGroup(8)
    offsets = torch.arange(side) - (side - 1) / 2
    row, column = torch.meshgrid(offsets, offsets, indexing="ij")
    radius = torch.hypot(row, column)

    def smooth(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return row + 3 * column

    (turned,) = act_per_sample(smooth(row, column)[None, None], torch.tensor([1]), group)[0]
    half = 0.5**0.5  # (row, column) comes from where the inverse, 45 degrees clockwise, takes it
    exact = smooth(half * (row + column), half * (column - row))
    inside = radius <= side / 2 - 0.75
    assert (turned - exact)[inside].abs().max() <= smooth(torch.tensor(0.5), torch.tensor(0.5)) + 1e-5
    assert turned[radius > side / 2].eq(0).all()
    (kept,) = act_per_sample(torch.ones(1, 1, side, side), torch.tensor([0]), group)[0]
    assert torch.equal(kept, (radius <= side / 2).float())


@pytest.mark.parametrize("name", ["C3", "C8", "D4"])
def test_points_are_moved_sample_by_sample(name: str) -> None:
    group = gconv.group_from_name(name)
    x = torch.randn(2 * group.order, 2, generator=stream(0, "x"), dtype=torch.float64)
    elements = torch.tensor([*group.elements, *group.elements])
    expected = []
    for g, (right, up) in zip(elements.tolist(), x.tolist(), strict=True):
        row, column = group.act_offset(g, (-up, right))
        expected.append([column, -row])
    torch.testing.assert_close(act_on_points_per_sample(x, elements, group), torch.tensor(expected, dtype=x.dtype))


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_noise_has_its_moments(noise: str) -> None:
    z = LatentLaw(50, noise=noise).sample(torch.zeros(2000), group=gconv.CyclicGroup(1), rng=stream(0, "z")).z
    variance, kurtosis = {"gaussian": (1.0, 3.0), "uniform": (1 / 3, 9 / 5)}[noise]
    assert z.mean().abs() < 4 * (variance / z.numel()) ** 0.5
    assert float(z.var()) == pytest.approx(variance, rel=0.02)
    assert float(z.pow(4).mean() / z.var() ** 2) == pytest.approx(kurtosis, rel=0.03)
    assert (z.abs().max() <= 1) == (noise == "uniform")


def test_components_are_drawn_last_and_by_their_rule() -> None:
    labels, group = torch.zeros(4000), gconv.CyclicGroup(4)
    plain, uniform, cyclic = (
        LatentLaw(3, components=count, component_rule=rule).sample(labels, group=group, rng=stream(0, "z"))
        for count, rule in ((1, "uniform"), (8, "uniform"), (8, "cyclic"))
    )
    assert torch.equal(plain.z, uniform.z)
    assert torch.equal(plain.elements, uniform.elements)
    assert plain.components.eq(0).all()
    assert cyclic.components.tolist() == [i % 8 for i in range(4000)]
    assert (uniform.components.bincount(minlength=8) - 500).abs().max() < 4 * 500**0.5
    joint = (4 * uniform.components + uniform.elements).bincount(minlength=32)
    assert (joint - 125).abs().max() < 4 * 125**0.5  # independent of the elements


def test_one_component_draws_nothing_more_from_the_stream() -> None:
    rng, other = stream(0, "z"), stream(0, "z")
    LatentLaw(3).sample(torch.zeros(5), group=gconv.CyclicGroup(4), rng=rng)
    torch.randn(5, 3, generator=other), torch.randint(4, (5,), generator=other)
    assert torch.equal(rng.get_state(), other.get_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim must be >= 1, got 0"),
        ({"dim": 1, "components": 0}, "components must be >= 1, got 0"),
        ({"dim": 1, "noise": "cauchy"}, "noise must be one of gaussian, uniform, got 'cauchy'"),
        ({"dim": 1, "component_rule": "first"}, "component_rule must be one of uniform, cyclic, got 'first'"),
    ],
)
def test_laws_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"LatentLaw: {message}"):
        LatentLaw(**arguments)  # type: ignore[arg-type]  # any arguments


def test_the_mixture_is_deligans() -> None:
    """z = mu_i + sigma_i eps; mu starts in (-1, 1), sigma where told; the penalty is the mean of (1 - sigma)^2."""
    mixture = LatentMixture(50, 30, sigma=0.2).double()
    assert float(mixture.penalty().detach()) == pytest.approx(0.64)
    assert mixture.mu.abs().max() < 1
    assert float(mixture.mu.var().detach()) == pytest.approx(1 / 3, rel=0.1)
    torch.nn.init.uniform_(mixture.sigma)
    by_hand = sum((1 - sigma) ** 2 for sigma in mixture.sigma.flatten().tolist()) / (50 * 30)
    assert float(mixture.penalty().detach()) == pytest.approx(by_hand)
    noise, components = torch.randn(7, 30, dtype=torch.float64), torch.tensor([3, 0, 3, 49, 1, 2, 0])
    z = mixture(noise, components)
    for n, i in enumerate(components.tolist()):
        torch.testing.assert_close(z[n], mixture.mu[i] + mixture.sigma[i] * noise[n])
    z.sum().backward()
    assert mixture.mu.grad is not None
    assert mixture.mu.grad[3].eq(2).all()
    assert mixture.mu.grad[4].eq(0).all()


def test_act_per_sample_passes_gradients() -> None:
    group = gconv.DihedralGroup(4)
    x = torch.randn(8, 1, 3, 3, dtype=torch.float64, generator=stream(0, "x"), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: act_per_sample(x, torch.arange(8), group), x)


def test_epochs_show_every_image_once_whatever_the_batches() -> None:
    size = 7
    whole = epoch_indices(3, 0, 3 * size, size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in whole.split(size))
    pieces = [epoch_indices(3, position, count, size) for position, count in [(0, 5), (5, 12), (17, 4)]]
    assert torch.equal(torch.cat(pieces), whole)
    assert len(epoch_indices(3, 4, 0, size)) == 0
    with pytest.raises(ValueError, match="size must be >= 1"):
        epoch_indices(0, 0, 1, 0)
