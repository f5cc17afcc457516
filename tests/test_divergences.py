"""Divergences on Gaussians: against closed forms, brute force and scipy."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, minimize_scalar
from scipy.stats import wasserstein_distance
from torch import Tensor

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
    polynomial_kernel,
    rational_quadratic_kernel,
    sinkhorn_divergence,
    wasserstein_objective,
)

DIVERGENCES: list[FDivergence] = [
    KullbackLeibler(),
    ReverseKullbackLeibler(),
    JensenShannon(),
    AlphaDivergence(1.5),
    AlphaDivergence(2),
    AlphaDivergence(3),
]
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)

# Q = N(1/2, 0.8^2), P = N(0, 1): dQ/dP is bounded, so every divergence here is finite.
MEAN, SCALE = 0.5, 0.8
GRID = torch.linspace(-8, 8, 4001, dtype=torch.float64)  # trapezoids of an analytic function: exact to rounding


def normal(mean: float, scale: float) -> Tensor:
    """Probabilities of GRID's cells under N(mean, scale^2)."""
    return torch.softmax(-(((GRID - mean) / scale) ** 2) / 2, 0)


Q, P = normal(MEAN, SCALE), normal(0, 1)


def kl(mean: float, scale: float, mean_p: float, scale_p: float) -> float:
    """KL(N(mean, scale^2) || N(mean_p, scale_p^2))."""
    return math.log(scale_p / scale) + (scale**2 + (mean - mean_p) ** 2) / (2 * scale_p**2) - 0.5


def alpha_closed_form(alpha: float) -> float:
    """E_P (dQ/dP)^alpha, a Gaussian integral whose exponent is quadratic with v = alpha + (1 - alpha) s^2 > 0."""
    v = alpha + (1 - alpha) * SCALE**2
    moment = SCALE ** (1 - alpha) / math.sqrt(v) * math.exp(alpha * (alpha - 1) * MEAN**2 / (2 * v))
    return (moment - 1) / (alpha * (alpha - 1))


def closed_form(divergence: FDivergence) -> float:
    if isinstance(divergence, KullbackLeibler):
        return kl(MEAN, SCALE, 0, 1)
    if isinstance(divergence, ReverseKullbackLeibler):
        return kl(0, 1, MEAN, SCALE)
    if isinstance(divergence, AlphaDivergence):
        return alpha_closed_form(divergence.alpha)
    middle = (Q + P) / 2  # JS between Gaussians has no closed form
    return float((Q * (Q / middle).log() + P * (P / middle).log()).sum() / 2)


@every_divergence
def test_the_optimal_gamma_attains_the_divergence(divergence: FDivergence) -> None:
    gamma = divergence.slope(Q / P)
    value = f_gamma_objective(divergence, gamma, gamma, weights_q=Q, weights_p=P)
    assert value.item() == pytest.approx(closed_form(divergence), rel=1e-9)
    assert (P * divergence.f(Q / P)).sum().item() == pytest.approx(closed_form(divergence), rel=1e-9)


@every_divergence
def test_no_other_gamma_exceeds_it_and_a_constant_added_changes_nothing(divergence: FDivergence) -> None:
    gamma = divergence.slope(Q / P)
    objective = partial(f_gamma_objective, divergence, weights_q=Q, weights_p=P)
    for wave in (1, 2, 5):
        other = gamma + 0.3 * (wave * GRID).sin()
        assert objective(other, other).item() < closed_form(divergence) - 1e-4
        torch.testing.assert_close(objective(other + 100, other + 100), objective(other, other), rtol=0, atol=1e-9)


@every_divergence
def test_the_conjugate_is_the_supremum(divergence: FDivergence) -> None:
    for y in (-2.0, -0.5, 0.3, 1.2):
        if y >= divergence.upper:
            continue

        def negative(log_t: float, y: float = y) -> float:
            t = torch.tensor(math.exp(log_t), dtype=torch.float64)
            return float(divergence.f(t) - y * t)

        best = -minimize_scalar(negative, bounds=(-30, 6), method="bounded", options={"xatol": 1e-10}).fun
        at = torch.tensor(y, dtype=torch.float64, requires_grad=True)
        value = divergence.conjugate(at)
        assert value.item() == pytest.approx(best, abs=1e-8)
        (slope,) = torch.autograd.grad(value, at)
        torch.testing.assert_close(divergence.conjugate_slope(at), slope)


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0, 1e-3, 1, 300])
def test_the_infimum_over_nu_is_found_inside_the_domain(
    divergence: FDivergence, dtype: torch.dtype, scale: float
) -> None:
    """Against scipy's bounded minimiser, for samples near and far apart."""
    gamma = (scale * torch.randn(20)).to(dtype)
    values = gamma.to(torch.float64)

    def dual(nu: float) -> float:
        argument = values - nu
        return math.inf if argument.max() >= divergence.upper else nu + float(divergence.conjugate(argument).mean())

    lowest, highest = float(values.min()) - 4, float(values.max()) + 4
    at = max(lowest, float(values.max()) - divergence.upper)
    best = minimize_scalar(dual, bounds=(at, highest), method="bounded", options={"xatol": 1e-12, "maxiter": 2000}).fun
    value = f_gamma_objective(divergence, gamma, gamma)
    assert value.dtype is dtype
    tolerance = 1e-5 if dtype is torch.float32 else 1e-7
    assert float(values.mean() - value) == pytest.approx(best, abs=tolerance * max(1, scale))


@every_divergence
def test_gradients_of_the_objective(divergence: FDivergence) -> None:
    q, p = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (4, 6))
    assert torch.autograd.gradcheck(lambda q, p: f_gamma_objective(divergence, q, p), (q, p))


def test_the_wasserstein_objective_of_the_optimal_potential_is_the_distance() -> None:
    """In one dimension the slope of the potential is sign(F_P - F_Q)."""
    below = torch.cumsum(P - Q, 0)
    slope = below.sign() * (GRID[1] - GRID[0])
    potential = torch.cat([slope.new_zeros(1), slope.cumsum(0)[:-1]])
    value = wasserstein_objective(potential, potential, weights_q=Q, weights_p=P)
    assert value.item() == pytest.approx(wasserstein_distance(GRID, GRID, Q, P), rel=1e-9)


def in_two_dimensions(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """A grid and its product weights."""
    grid = torch.stack([points.repeat_interleave(len(points)), points.repeat(len(points))], 1)
    return grid, (weights[:, None] * weights).flatten()


def gaussian_mmd(bandwidth: float, distance: float, s: float, t: float, d: int) -> float:
    """MMD^2 of N(0, s^2 I) and N(m, t^2 I), |m| = distance; the kernel's mean is a convolution of three Gaussians."""

    def mean(gap: float, variance: float) -> float:
        v = bandwidth**2 + variance
        return (bandwidth**2 / v) ** (d / 2) * math.exp(-(gap**2) / (2 * v))

    return mean(0, 2 * s**2) + mean(0, 2 * t**2) - 2 * mean(distance, s**2 + t**2)


def abs_mean(mean: float, scale: float) -> float:
    """E |N(mean, scale^2)|, the folded normal."""
    ratio = mean / scale
    return scale * math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + mean * math.erf(ratio / math.sqrt(2))


def laplace_mean(mean: float, scale: float, bandwidth: float) -> float:
    """E exp(-|N(mean, scale^2)| / bandwidth), from the two half-line integrals."""

    def half(sign: float) -> float:
        exponent = scale**2 / (2 * bandwidth**2) + sign * mean / bandwidth
        return math.exp(exponent) * math.erfc((scale / bandwidth + sign * mean / scale) / math.sqrt(2)) / 2

    return half(1) + half(-1)


def closed_mmd(mean_kernel: partial[float], s: float, m: float, t: float) -> float:
    return mean_kernel(0, math.sqrt(2) * s) + mean_kernel(0, math.sqrt(2) * t) - 2 * mean_kernel(m, math.hypot(s, t))


def quadrature_mmd(kernel: Kernel, points: Tensor, p: Tensor, q: Tensor) -> float:
    difference = p - q
    return float(difference @ kernel(points, points) @ difference)


COARSE = torch.linspace(-6, 7, 1301, dtype=torch.float64)


def coarse(mean: float, scale: float) -> Tensor:
    return torch.softmax(-(((COARSE - mean) / scale) ** 2) / 2, 0)


def test_kernels_on_gaussians_by_quadrature() -> None:
    """The kernels with a kink at 0 are integrated to the square of the step 0.01."""
    s, m, t = 1.0, 0.7, 0.6
    p, q, points = coarse(0, s), coarse(m, t), COARSE[:, None]
    value = quadrature_mmd(partial(gaussian_kernel, bandwidth=0.9), points, p, q)
    assert value == pytest.approx(gaussian_mmd(0.9, m, s, t, 1), rel=1e-7)
    value = quadrature_mmd(partial(laplace_kernel, bandwidth=0.9), points, p, q)
    assert value == pytest.approx(closed_mmd(partial(laplace_mean, bandwidth=0.9), s, m, t), abs=1e-4)
    value = quadrature_mmd(energy_kernel, points, p, q)
    assert value == pytest.approx(-closed_mmd(partial(abs_mean), s, m, t), abs=1e-4)
    value = quadrature_mmd(partial(polynomial_kernel, degree=2), points, p, q)  # 2 (mean gap)^2 + (second moment gap)^2
    assert value == pytest.approx(2 * m**2 + (s**2 - t**2 - m**2) ** 2, rel=1e-7)


def test_the_gaussian_kernel_in_two_dimensions() -> None:
    axis = torch.linspace(-5, 5, 41, dtype=torch.float64)
    points, p = in_two_dimensions(axis, torch.softmax(-(axis**2) / 2, 0))
    _, q = in_two_dimensions(axis, torch.softmax(-((axis - 0.3) ** 2), 0))
    value = quadrature_mmd(partial(gaussian_kernel, bandwidth=1.5), points, p, q)
    assert value == pytest.approx(gaussian_mmd(1.5, 0.3 * math.sqrt(2), 1, math.sqrt(0.5), 2), rel=1e-5)


def test_the_rational_quadratic_kernel_is_its_mixture_of_gaussians() -> None:
    """(1 + d^2 / (2 a b^2))^-a = E exp(-d^2 r / (2 b^2)), r ~ Gamma(a, rate a)."""
    alpha, bandwidth = 2.5, 0.8
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    r = torch.linspace(1e-6, 12, 20001, dtype=torch.float64)
    density = torch.exp(alpha * math.log(alpha) - math.lgamma(alpha) + (alpha - 1) * r.log() - alpha * r)
    for n, m in product(range(3), range(5)):
        square = float((x[n] - y[m]).square().sum())
        mixture = torch.trapezoid(density * (-square * r / (2 * bandwidth**2)).exp(), r).item()
        value = rational_quadratic_kernel(x, y, bandwidth=bandwidth, alpha=alpha)[n, m].item()
        assert value == pytest.approx(mixture, abs=1e-5)


KERNELS: list[Kernel] = [
    gaussian_kernel,
    laplace_kernel,
    rational_quadratic_kernel,
    polynomial_kernel,
    partial(polynomial_kernel, degree=2, scale=1.0, offset=0.0),
    energy_kernel,
]


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_statistics_are_their_double_sums(kernel: Kernel) -> None:
    x, y = torch.randn(4, 1, 3, dtype=torch.float64), torch.randn(6, 1, 3, dtype=torch.float64)

    def mean(a: Tensor, b: Tensor, skip: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return sum(kernel(a[i].view(1, 3), b[j].view(1, 3)).item() for i, j in pairs) / len(pairs)

    for unbiased in (True, False):
        expected = mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)
        assert mmd_squared(x, y, kernel, unbiased=unbiased).item() == pytest.approx(expected, rel=1e-10)


def test_the_u_statistic_is_unbiased_and_the_v_statistic_is_not() -> None:
    kernel = partial(gaussian_kernel, bandwidth=0.9)
    draws = torch.randn(2000, 2, 8, 1, dtype=torch.float64)
    u = torch.stack([mmd_squared(x, 0.7 + 0.6 * y, kernel, unbiased=True) for x, y in draws])
    v = torch.stack([mmd_squared(x, 0.7 + 0.6 * y, kernel, unbiased=False) for x, y in draws])
    expected, error = gaussian_mmd(0.9, 0.7, 1, 0.6, 1), float(u.std()) / math.sqrt(len(u))
    assert float(u.mean()) == pytest.approx(expected, abs=4 * error)
    assert float(v.mean()) > expected + 10 * error


@pytest.mark.parametrize("kernel", KERNELS)
def test_mmd_has_gradients(kernel: Kernel) -> None:
    x, y = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (3, 4))
    for unbiased in (True, False):
        assert torch.autograd.gradcheck(partial(mmd_squared, kernel=kernel, unbiased=unbiased), (x, y))


def entropic_closed_form(gap: float, variance_a: float, variance_b: float, epsilon: float) -> float:
    """Janati et al., NeurIPS 2020 (arXiv 2006.02572), theorem 1, in one dimension, epsilon = 2 sigma^2."""
    half = epsilon / 2
    d = math.sqrt(4 * variance_a * variance_b + half**2)
    return gap**2 + variance_a + variance_b - d + half * (1 - math.log(epsilon)) + half * math.log(d + half)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 10.0])
def test_sinkhorn_between_gaussians_is_the_closed_form(epsilon: float) -> None:
    points = torch.linspace(-6, 6, 121, dtype=torch.float64)
    a, b = (torch.softmax(-(((points - mean) / scale) ** 2) / 2, 0) for mean, scale in ((0, 1), (0.5, 0.7)))
    weights = {"weights_x": a, "weights_y": b}
    x = points[:, None]
    ab = entropic_closed_form(0.5, 1, 0.49, epsilon)
    aa, bb = entropic_closed_form(0, 1, 1, epsilon), entropic_closed_form(0, 0.49, 0.49, epsilon)
    value = sinkhorn_divergence(x, x, epsilon=epsilon, debias=False, **weights).item()
    assert value == pytest.approx(ab, abs=1e-6)
    value = sinkhorn_divergence(x, x, epsilon=epsilon, **weights).item()
    assert value == pytest.approx(ab - (aa + bb) / 2, abs=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_sinkhorn_tends_to_optimal_transport_and_to_half_the_mmd(power: int) -> None:
    x, y = torch.rand(12, 2, dtype=torch.float64), torch.rand(12, 2, dtype=torch.float64) + 0.5
    cost = torch.cdist(x, y) ** power
    rows, columns = linear_sum_assignment(cost.numpy())
    optimal = float(cost[rows, columns].mean())
    epsilon = 0.02
    value = sinkhorn_divergence(x, y, epsilon=epsilon, power=power, debias=False).item()
    # The optimal coupling, at relative entropy log 12 from the product, bounds the entropic cost from above.
    assert optimal <= value <= optimal + epsilon * math.log(12)
    half_mmd = mmd_squared(x, y, lambda u, v: -(torch.cdist(u, v) ** power), unbiased=False) / 2
    value = sinkhorn_divergence(x, y, epsilon=1e5, power=power).item()
    assert value == pytest.approx(half_mmd.item(), rel=1e-4)


def test_debiasing_makes_equal_laws_equal() -> None:
    x = torch.randn(20, 1, 2, 2)
    order = torch.randperm(20)
    assert sinkhorn_divergence(x, x[order], epsilon=3, tolerance=1e-7).item() == pytest.approx(0, abs=1e-6)
    assert sinkhorn_divergence(x, x, epsilon=0.5, debias=False).item() > 0.1
    assert sinkhorn_divergence(x, x[:10] + 0.1, epsilon=0.5).item() > 1e-3


@pytest.mark.parametrize("debias", [True, False])
def test_the_gradient_of_sinkhorn(debias: bool) -> None:
    x, y = (torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in (4, 5))
    divergence = partial(sinkhorn_divergence, epsilon=0.5, debias=debias, tolerance=1e-12)
    assert torch.autograd.gradcheck(divergence, (x, y))


def test_refusals() -> None:
    ones, points = torch.ones(3), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="AlphaDivergence: alpha must be finite and > 1, got 1"):
        AlphaDivergence(1)
    with pytest.raises(ValueError, match=r"f_gamma_objective: gamma_p must be \(N >= 1\) finite values"):
        f_gamma_objective(KullbackLeibler(), ones, torch.tensor([math.nan]))
    with pytest.raises(ValueError, match="wasserstein_objective: weights_q must be"):
        wasserstein_objective(ones, ones, weights_q=torch.zeros(3))
    with pytest.raises(ValueError, match="mmd_squared: x and y must be"):
        mmd_squared(points, points[:1], gaussian_kernel, unbiased=True)
    with pytest.raises(ValueError, match="sinkhorn_divergence: x and y must be"):
        sinkhorn_divergence(points, points[:, :1], epsilon=1)
    with pytest.raises(ValueError, match="sinkhorn_divergence: epsilon must be finite and > 0, got 0"):
        sinkhorn_divergence(points, points, epsilon=0)
    with pytest.raises(ValueError, match="sinkhorn_divergence: weights_x must be"):
        sinkhorn_divergence(points, points, epsilon=1, weights_x=torch.ones(2))
    far = torch.from_numpy(np.arange(6.0).reshape(3, 2))
    with pytest.raises(RuntimeError, match="no convergence in 2 iterations"):
        sinkhorn_divergence(far, far + 1, epsilon=0.1, max_iterations=2)
