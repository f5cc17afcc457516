"""The theorems behind structure-preserving GANs (Birrell et al., ICML 2022, arXiv 2202.01129), on laws in the plane.

T1: between invariant laws, invariant discriminators reach the supremum. T2: an equivariant generator of an invariant
latent law makes an invariant law. T3: an invariant discriminator cannot tell a law from its orbit average.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import toy_collapse
from torch import Tensor, nn
from toy_collapse import GROUP, PLAYERS

from sgan.data.toy2d import TOY2D, Mixture2d, orbit_mixture
from sgan.divergences import (
    AlphaDivergence,
    FDivergence,
    JensenShannon,
    Kernel,
    KullbackLeibler,
    ReverseKullbackLeibler,
    energy_kernel,
    f_gamma_objective,
    gaussian_kernel,
    laplace_kernel,
    mmd_squared,
    rational_quadratic_kernel,
    wasserstein_objective,
)
from sgan.latents import stream
from sgan.losses import LOSSES
from sgan.metrics.symmetry import symmetry_tests
from sgan.projection import EquivariantProjection, InvariantProjection, permutation_maps, point_maps

MAPS = point_maps(GROUP)
INVERSES = [MAPS[GROUP.inverse(element)] for element in GROUP.elements]

# A square grid, which quarter turns leave as it is, and three laws on it. The last one is not symmetric.
SIDE = torch.linspace(-3, 3, 41, dtype=torch.float64)
GRID = torch.stack([SIDE.repeat_interleave(len(SIDE)), SIDE.repeat(len(SIDE))], 1)


def on_grid(law: Mixture2d) -> Tensor:
    return law.log_density(GRID).softmax(0)


Q = on_grid(orbit_mixture(GROUP, ((1.0, 0.4),), scale=0.5))
P = on_grid(orbit_mixture(GROUP, ((0.3, 0.3),), scale=0.7))
ASYMMETRIC = on_grid(Mixture2d(((0.5, 0.1),), 0.7))

DIVERGENCES: list[FDivergence] = [KullbackLeibler(), ReverseKullbackLeibler(), JensenShannon(), AlphaDivergence(2)]
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)


def perceptron(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, outputs)).to(torch.float64)


def objective(divergence: FDivergence | None, gamma: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """H(gamma; Q, P) for values of gamma on the grid; None: Wasserstein's."""
    if divergence is None:
        return wasserstein_objective(gamma, gamma, weights_q=q, weights_p=p)
    return f_gamma_objective(divergence, gamma, gamma, weights_q=q, weights_p=p)


def original_gan(gamma: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """V = E_Q log s(gamma) + E_P log(1 - s(gamma))."""
    return (q * nn.functional.logsigmoid(gamma)).sum() + (p * nn.functional.logsigmoid(-gamma)).sum()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_t1_projecting_any_discriminator_never_lowers_the_objective(seed: int) -> None:
    """H(S[gamma]) >= H(gamma), by invariance and concavity: suprema over families closed under S are invariant."""
    torch.manual_seed(seed)
    network = nn.Sequential(perceptron(1), nn.Flatten(0))
    network[0][2].weight.mul_(2)
    gamma, projected = network(GRID), InvariantProjection(network, MAPS)(GRID)
    objectives = [*(partial(objective, divergence) for divergence in DIVERGENCES), original_gan]
    for value in objectives:
        assert value(projected, q=Q, p=P) > value(gamma, q=Q, p=P) + 1e-4
    # Without the penalty term it is linear in gamma, and the projection changes nothing.
    torch.testing.assert_close(objective(None, projected, Q, P), objective(None, gamma, Q, P), rtol=0, atol=1e-12)


@torch.no_grad()
@every_divergence
def test_t1_among_all_functions_the_optimum_is_invariant(divergence: FDivergence) -> None:
    gamma = divergence.slope(Q / P)
    value = objective(divergence, gamma, Q, P)
    torch.testing.assert_close(value, (P * divergence.f(Q / P)).sum())
    turned = gamma.view(len(SIDE), len(SIDE)).rot90().flatten()
    torch.testing.assert_close(turned, gamma, rtol=1e-9, atol=1e-9)


ORBIT_CENTRES = [(1.2, 0.3), (0.6, 0.6)]


def bumps(centres: list[tuple[float, float]]) -> Tensor:
    """(points, centres) features: one Gaussian bump at each centre."""
    return gaussian_kernel(GRID, GRID.new_tensor(centres), bandwidth=0.6)


def orbit(centres: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [GROUP.act_offset(element, centre) for centre in centres for element in GROUP.elements]


def supremum(divergence: FDivergence, features: Tensor, p: Tensor) -> float:
    """sup of the concave H over the linear span of the features, by L-BFGS."""
    theta = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=150, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -objective(divergence, features @ theta, Q, p)
        loss.backward()
        return loss

    optimizer.step(closure)
    return -float(closure().detach())


@every_divergence
def test_t1_suprema_agree_on_a_family_that_is_closed_under_the_projection(divergence: FDivergence) -> None:
    """The span of whole orbits of bumps is closed; its invariant part is the span of their sums."""
    family = bumps(orbit(ORBIT_CENTRES))
    invariant = family.unflatten(1, (len(ORBIT_CENTRES), GROUP.order)).sum(dim=2)
    assert supremum(divergence, invariant, P) == pytest.approx(supremum(divergence, family, P), rel=1e-5)
    assert supremum(divergence, family, P) > 0.01
    # P is not symmetric: whatever tells its orientation is lost.
    assert supremum(divergence, invariant, ASYMMETRIC) < 0.9 * supremum(divergence, family, ASYMMETRIC)


@every_divergence
def test_t1_needs_the_family_to_be_closed(divergence: FDivergence) -> None:
    """One orbit and a bump alone: no invariant function of the family contains the bump, which the others use."""
    centres = orbit(ORBIT_CENTRES[1:])
    family = bumps([*centres, ORBIT_CENTRES[0]])
    invariant = family[:, : len(centres)].sum(dim=1, keepdim=True)
    assert supremum(divergence, invariant, P) < supremum(divergence, family, P) - 1e-3


KERNELS: list[Kernel] = [gaussian_kernel, laplace_kernel, rational_quadratic_kernel, energy_kernel]


def averaged(kernel: Kernel) -> Kernel:
    """The kernel of the invariant functions of the ball: mean_s k(T_s x, y)."""
    return lambda x, y: torch.stack([kernel(move(x), y) for move in MAPS]).mean(dim=0)


def orbits(points: Tensor) -> Tensor:
    """The orbit average of an empirical law."""
    return torch.cat([move(points) for move in MAPS])


@pytest.mark.parametrize("kernel", KERNELS)
def test_t1_for_the_unit_ball_of_a_kernel_that_the_group_leaves_as_it_is(kernel: Kernel) -> None:
    """sup over the ball is MMD, sup over its invariant functions MMD of the averaged kernel."""
    x, y = (TOY2D[name].sample(40, seed=0).to(torch.float64) for name in ("toy-c4", "toy-c4-heavy"))
    mmd = partial(mmd_squared, unbiased=False)
    torch.testing.assert_close(mmd(orbits(x), orbits(y), averaged(kernel)), mmd(orbits(x), orbits(y), kernel))
    torch.testing.assert_close(mmd(x, y, averaged(kernel)), mmd(orbits(x), orbits(y), kernel))
    assert mmd(x, y, averaged(kernel)) < 0.9 * mmd(x, y, kernel)  # samples are not symmetric


def random_generator() -> nn.Module:
    return EquivariantProjection(perceptron(2), MAPS, INVERSES)


NAMED_MAPS = {f"{element} quarter turns": MAPS[element] for element in GROUP.elements if element}
LEVEL = 0.01 / len(NAMED_MAPS)


def smallest_p_value(points: Tensor) -> float:
    return min(result.p_value for result in symmetry_tests(points, NAMED_MAPS, permutations=999).values())


@torch.no_grad()
def test_t2_maps_orbits_of_latents_to_orbits() -> None:
    """Exactly: the empirical law of whole orbits of latents is mapped to a set that every element permutes."""
    generator = random_generator()
    points = generator(orbits(torch.randn(10, 2, dtype=torch.float64)))
    for move in MAPS:
        distances = torch.cdist(move(points), points, compute_mode="donot_use_mm_for_euclid_dist")
        assert distances.min(dim=1).values.max() < 1e-12
        assert sorted(distances.argmin(dim=1).tolist()) == list(range(len(points)))


@torch.no_grad()
def test_t2_both_premises_are_needed() -> None:
    z = torch.randn(600, 2, dtype=torch.float64)
    generator = random_generator()
    assert smallest_p_value(generator(z)) > LEVEL
    assert smallest_p_value(generator(z + 1)) <= LEVEL  # the latent law is not invariant
    assert smallest_p_value(perceptron(2)(z)) <= LEVEL  # the generator is not equivariant


@torch.no_grad()
def test_t2_for_a_permutation_group() -> None:
    turns = permutation_maps([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    network = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).to(torch.float64)
    generator = EquivariantProjection(network, turns, [turns[0], turns[2], turns[1]])
    z = torch.randn(600, 3, dtype=torch.float64)
    tests = {"1": turns[1], "2": turns[2]}
    for law, symmetric in ((generator(z), True), (network(z), False)):
        p_value = min(result.p_value for result in symmetry_tests(law, tests, permutations=199).values())
        assert (p_value > 0.05 / 2) == symmetric


@every_divergence
def test_t3_one_copy_of_the_data_is_a_global_optimum_for_invariant_discriminators(divergence: FDivergence) -> None:
    """P is one mode of four. Every invariant gamma scores it as it scores Q itself, so the supremum is 0; in general
    it is large."""
    one = on_grid(Mixture2d(((1.0, 0.4),), 0.5))
    network = nn.Sequential(perceptron(1), nn.Flatten(0))
    with torch.no_grad():
        invariant = InvariantProjection(network, MAPS)(GRID)
        torch.testing.assert_close(objective(divergence, invariant, Q, one), objective(divergence, invariant, Q, Q))
        assert (one * divergence.f(Q / one)).sum() > 0.2
    family = bumps(orbit(ORBIT_CENTRES))
    sums = family.unflatten(1, (len(ORBIT_CENTRES), GROUP.order)).sum(dim=2)
    assert supremum(divergence, sums, one) == pytest.approx(0, abs=1e-9)
    assert supremum(divergence, family, one) > 0.2


def test_t3_the_generators_gradient_sees_only_the_orbit_average() -> None:
    """For every loss: exchanging each generated point for another of its orbit changes neither player's loss."""
    discriminator = InvariantProjection(nn.Sequential(perceptron(1), nn.Flatten(0)), MAPS)
    real, fake = torch.randn(8, 2, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    moved = torch.stack([MAPS[n % GROUP.order](fake[n : n + 1])[0] for n in range(8)])
    for loss in LOSSES.values():
        real_scores, fake_scores, moved_scores = map(discriminator, (real, fake, moved))
        torch.testing.assert_close(
            loss.discriminator(real_scores, moved_scores), loss.discriminator(real_scores, fake_scores)
        )
        torch.testing.assert_close(loss.generator(real_scores, moved_scores), loss.generator(real_scores, fake_scores))


@pytest.mark.parametrize("players", PLAYERS[1:], ids=lambda players: players.title)
def test_t3_the_flawed_generator_collapses_and_the_correct_one_does_not(players: toy_collapse.Players) -> None:
    """A short run of examples/toy_collapse.py: both orbit averages are near the data, only one law is."""
    generator = toy_collapse.train(players, steps=150, seed=0)
    with torch.no_grad():
        points = toy_collapse.generate(generator, stream(0, "test"), 400)
    real = toy_collapse.LAW.sample(400, seed=99)
    shares = toy_collapse.mode_shares(points)
    distance = partial(mmd_squared, real, kernel=energy_kernel, unbiased=True)
    assert distance(orbits(points)) < 0.05
    if players.symmetrise_latent:
        assert max(shares) < 0.35
        assert smallest_p_value(points) > LEVEL
        assert distance(points) < 0.05
    else:
        assert max(shares) > 0.95
        assert smallest_p_value(points) <= LEVEL
        assert distance(points) > 0.5
