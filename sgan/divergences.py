"""Distances between laws that a GAN can minimise: f-divergences and Wasserstein-1 in dual form, MMD, Sinkhorn.

Q is the law of the data and P the generator's. Samples may carry weights, so that the same functions integrate by
quadrature. Everything is differentiable in scores and samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

__all__ = [
    "AlphaDivergence",
    "FDivergence",
    "JensenShannon",
    "Kernel",
    "KullbackLeibler",
    "ReverseKullbackLeibler",
    "energy_kernel",
    "f_gamma_objective",
    "gaussian_kernel",
    "laplace_kernel",
    "mmd_squared",
    "polynomial_kernel",
    "rational_quadratic_kernel",
    "sinkhorn_divergence",
    "wasserstein_objective",
]

Kernel = Callable[[Tensor, Tensor], Tensor]


class FDivergence(ABC):
    """D_f(Q || P) = E_P f(dQ/dP), f convex with f(1) = 0.

    Source of the pairs f, f*: Nowozin et al., NeurIPS 2016 (arXiv 1606.00709), table 6; each tested against f.

    Attributes:
        upper: f* is finite below it (infinity: everywhere).
    """

    upper: float = math.inf

    @abstractmethod
    def f(self, ratio: Tensor) -> Tensor:
        """f(t) for density ratios t = dQ/dP > 0."""

    @abstractmethod
    def slope(self, ratio: Tensor) -> Tensor:
        """f'(t), the gamma = f'(dQ/dP) that attains the divergence."""

    @abstractmethod
    def conjugate(self, y: Tensor) -> Tensor:
        """f*(y) = sup_{t >= 0} y t - f(t), convex and non-decreasing, for y < upper."""

    @abstractmethod
    def conjugate_slope(self, y: Tensor) -> Tensor:
        """f*'(y) >= 0, the inverse of `slope` where that has one."""


class KullbackLeibler(FDivergence):
    """KL(Q || P): f(t) = t log t, f*(y) = exp(y - 1). Its (f, Gamma) form is Donsker and Varadhan's."""

    def f(self, ratio: Tensor) -> Tensor:
        return ratio * ratio.log()

    def slope(self, ratio: Tensor) -> Tensor:
        return ratio.log() + 1

    def conjugate(self, y: Tensor) -> Tensor:
        return (y - 1).exp()

    def conjugate_slope(self, y: Tensor) -> Tensor:
        return (y - 1).exp()


class ReverseKullbackLeibler(FDivergence):
    """KL(P || Q): f(t) = -log t, f*(y) = -1 - log(-y) for y < 0."""

    upper = 0.0

    def f(self, ratio: Tensor) -> Tensor:
        return -ratio.log()

    def slope(self, ratio: Tensor) -> Tensor:
        return -1 / ratio

    def conjugate(self, y: Tensor) -> Tensor:
        return -1 - (-y).log()

    def conjugate_slope(self, y: Tensor) -> Tensor:
        return -1 / y


class JensenShannon(FDivergence):
    """JS = (KL(Q || M) + KL(P || M)) / 2, M = (Q + P) / 2, in [0, log 2].

    f(t) = (t log t - (1 + t) log((1 + t) / 2)) / 2, f*(y) = -log(2 - exp(2 y)) / 2 for y < log(2) / 2.
    """

    upper = math.log(2) / 2

    def f(self, ratio: Tensor) -> Tensor:
        return (ratio * ratio.log() - (1 + ratio) * ((1 + ratio) / 2).log()) / 2

    def slope(self, ratio: Tensor) -> Tensor:
        return (2 * ratio / (1 + ratio)).log() / 2

    def conjugate(self, y: Tensor) -> Tensor:
        return -(2 - (2 * y).exp()).log() / 2

    def conjugate_slope(self, y: Tensor) -> Tensor:
        return 1 / (2 * (-2 * y).exp() - 1)


class AlphaDivergence(FDivergence):
    """D_alpha: f(t) = (t^alpha - 1) / (alpha (alpha - 1)), alpha > 1; alpha = 2 is half of Pearson's chi^2.

    f*(y) = (alpha - 1)^{alpha / (alpha - 1)} / alpha * relu(y)^{alpha / (alpha - 1)} + 1 / (alpha (alpha - 1)).
    Source: SP-GAN (arXiv 2202.01129), section 2.

    Args:
        alpha: > 1.

    Raises:
        ValueError: alpha <= 1, or not finite.
    """

    def __init__(self, alpha: float) -> None:
        if not 1 < alpha < math.inf:
            raise ValueError(f"AlphaDivergence: alpha must be finite and > 1, got {alpha}")
        self.alpha = alpha

    def f(self, ratio: Tensor) -> Tensor:
        return (ratio**self.alpha - 1) / (self.alpha * (self.alpha - 1))

    def slope(self, ratio: Tensor) -> Tensor:
        return ratio ** (self.alpha - 1) / (self.alpha - 1)

    def conjugate(self, y: Tensor) -> Tensor:
        power = self.alpha / (self.alpha - 1)
        scale = (self.alpha - 1) ** power / self.alpha
        return scale * y.clamp(min=0) ** power + 1 / (self.alpha * (self.alpha - 1))

    def conjugate_slope(self, y: Tensor) -> Tensor:
        return ((self.alpha - 1) * y.clamp(min=0)) ** (1 / (self.alpha - 1))


def f_gamma_objective(
    divergence: FDivergence,
    gamma_q: Tensor,
    gamma_p: Tensor,
    *,
    weights_q: Tensor | None = None,
    weights_p: Tensor | None = None,
) -> Tensor:
    """H(gamma; Q, P) = E_Q gamma - inf_nu { nu + E_P f*(gamma - nu) }, whose supremum over Gamma is D_f^Gamma(Q || P).

    Source: Birrell et al., JMLR 2022 (arXiv 2011.05953). The infimum is found by bisection to the last bit of float64,
    so shifting gamma by a constant changes nothing; the argument of f* stays inside its domain. Differentiable once:
    nu is held fixed, which the envelope theorem allows for the first derivative only.

    Args:
        divergence: f.
        gamma_q: (N) values of gamma at samples of Q.
        gamma_p: (M) values at samples of P.
        weights_q: (N) probabilities of these samples, None for 1 / N each.
        weights_p: (M), likewise.

    Returns:
        Scalar of the dtype of gamma_p; at most D_f(Q || P) of the weighted samples' laws.

    Raises:
        ValueError: shapes do not match, or a value is not finite.
    """
    weights_q = _probabilities("f_gamma_objective", "q", gamma_q, weights_q)
    weights_p = _probabilities("f_gamma_objective", "p", gamma_p, weights_p)
    values = gamma_p.to(torch.float64)
    nu = _solve_shift(divergence, values.detach(), weights_p)
    penalty = nu + (weights_p * divergence.conjugate(values - nu)).sum()
    return ((weights_q * gamma_q.to(torch.float64)).sum() - penalty).to(gamma_p.dtype)


def wasserstein_objective(
    gamma_q: Tensor, gamma_p: Tensor, *, weights_q: Tensor | None = None, weights_p: Tensor | None = None
) -> Tensor:
    """E_Q gamma - E_P gamma, whose supremum over 1-Lipschitz gamma is W_1(Q, P) (Kantorovich and Rubinstein).

    Args and Raises: as in `f_gamma_objective`.

    Returns:
        Scalar of the dtype of gamma_p.
    """
    weights_q = _probabilities("wasserstein_objective", "q", gamma_q, weights_q)
    weights_p = _probabilities("wasserstein_objective", "p", gamma_p, weights_p)
    return ((weights_q * gamma_q).sum() - (weights_p * gamma_p).sum()).to(gamma_p.dtype)


def _solve_shift(divergence: FDivergence, gamma: Tensor, weights: Tensor) -> Tensor:
    """The nu with E f*'(gamma - nu) = 1, from the side where f* is finite.

    With y1 = f'(1), f*'(y1) = 1, the mean slope is at most 1 at nu = max gamma - y1 and at least 1 at min gamma - y1.
    """
    neutral = divergence.slope(gamma.new_ones(()))
    high = gamma.max() - neutral
    low = torch.maximum(gamma.min() - neutral, gamma.max() - divergence.upper)
    while True:
        middle = low + (high - low) / 2
        if middle <= low or middle >= high:
            return high
        if (weights * divergence.conjugate_slope(gamma - middle)).sum() > 1:
            low = middle
        else:
            high = middle


def _probabilities(op: str, law: str, values: Tensor, weights: Tensor | None) -> Tensor:
    if values.dim() != 1 or len(values) == 0 or not values.isfinite().all():
        raise ValueError(f"{op}: gamma_{law} must be (N >= 1) finite values, got {tuple(values.shape)}")
    if weights is None:
        return values.new_full((len(values),), 1 / len(values), dtype=torch.float64)
    return _checked_weights(op, f"weights_{law}", weights, len(values))


def _checked_weights(op: str, name: str, weights: Tensor, count: int) -> Tensor:
    if weights.shape != (count,) or not (weights > 0).all():
        raise ValueError(f"{op}: {name} must be ({count},) probabilities > 0, got {tuple(weights.shape)}")
    return weights.to(torch.float64)


def gaussian_kernel(x: Tensor, y: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """k(x, y) = exp(-||x - y||^2 / (2 bandwidth^2)): (N, d), (M, d) -> (N, M)."""
    return (-_distances(x, y).square() / (2 * bandwidth**2)).exp()


def laplace_kernel(x: Tensor, y: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    """k(x, y) = exp(-||x - y|| / bandwidth), the Euclidean norm, so invariant under rotations: (N, M)."""
    return (-_distances(x, y) / bandwidth).exp()


def rational_quadratic_kernel(x: Tensor, y: Tensor, *, bandwidth: float = 1.0, alpha: float = 1.0) -> Tensor:
    """k(x, y) = (1 + ||x - y||^2 / (2 alpha bandwidth^2))^-alpha: (N, M)."""
    return (1 + _distances(x, y).square() / (2 * alpha * bandwidth**2)) ** -alpha


def polynomial_kernel(
    x: Tensor, y: Tensor, *, degree: int = 3, scale: float | None = None, offset: float = 1
) -> Tensor:
    """k(x, y) = (scale <x, y> + offset)^degree, scale 1 / d by default: (N, M).

    With the defaults the kernel inception distance's (Binkowski et al., ICLR 2018, arXiv 1801.01401).
    """
    return ((1 / x.shape[1] if scale is None else scale) * (x @ y.T) + offset) ** degree


def energy_kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = -||x - y||: MMD^2 is then the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|: (N, M)."""
    return -_distances(x, y)


def mmd_squared(x: Tensor, y: Tensor, kernel: Kernel, *, unbiased: bool) -> Tensor:
    """MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y): Gretton et al., JMLR 2012, equations 3 and 5.

    Args:
        x: (N, ...) samples, flattened to vectors.
        y: (M, ...) samples of the same shape.
        kernel: ((N, d), (M, d)) -> (N, M), for example `partial(gaussian_kernel, bandwidth=0.5)`.
        unbiased: True for the U-statistic, which leaves k(X, X) out and may be negative; False for the V-statistic,
            which is >= 0 for a positive definite kernel and biased upwards by O(1/N).

    Returns:
        Scalar. Memory (N + M)^2 values.

    Raises:
        ValueError: shapes do not match, or fewer than 2 samples for the U-statistic.
    """
    _check_samples("mmd_squared", x, y, at_least=2 if unbiased else 1)
    x, y = x.flatten(1), y.flatten(1)
    within = _pair_mean(kernel(x, x), unbiased) + _pair_mean(kernel(y, y), unbiased)
    return within - 2 * kernel(x, y).mean()


def _pair_mean(gram: Tensor, unbiased: bool) -> Tensor:
    if not unbiased:
        return gram.mean()
    n = len(gram)
    return (gram.sum() - gram.diagonal().sum()) / (n * (n - 1))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_n - y_m||, from differences: ||x||^2 + ||y||^2 - 2 <x, y> would cancel. Its gradient at equal points is 0."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _check_samples(op: str, x: Tensor, y: Tensor, at_least: int) -> None:
    if x.shape[1:] != y.shape[1:] or x.dim() < 2 or min(len(x), len(y)) < at_least:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"{op}: x and y must be (N >= {at_least}, ...) of one sample shape, got {shapes}")


def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    power: float = 2,
    debias: bool = True,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 10_000,
) -> Tensor:
    """S = OT(x, y) - (OT(x, x) + OT(y, y)) / 2, OT = min_P <P, C> + epsilon KL(P || a b^T), C = ||x_n - y_m||^power.

    P runs over the couplings of the weights a and b. S >= 0, and 0 for equal laws; epsilon -> 0 is optimal transport,
    epsilon -> infinity MMD^2 / 2 with the kernel -C. Source: Feydy et al., AISTATS 2019 (arXiv 1810.08278). Sinkhorn's
    iteration runs in the log domain and in float64. The first derivative is that of the dual with its potentials held
    fixed, exact at convergence (envelope theorem); higher ones are not.

    Args:
        x: (N, ...) samples, flattened to vectors.
        y: (M, ...) samples of the same shape.
        epsilon: > 0, in units of C. The smaller it is against max(C), the more iterations.
        power: p of the cost, > 0.
        debias: False returns OT(x, y) itself, which is not 0 for equal laws.
        weights_x: (N) probabilities > 0, None for 1 / N each.
        weights_y: (M), likewise.
        tolerance: largest total violation of the marginals, sum |P 1 - a|.
        max_iterations: of each of the three problems.

    Returns:
        Scalar of the dtype of x.

    Raises:
        ValueError: shapes do not match, or epsilon <= 0.
        RuntimeError: max_iterations were not enough.
    """
    _check_samples("sinkhorn_divergence", x, y, at_least=1)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"sinkhorn_divergence: epsilon must be finite and > 0, got {epsilon}")
    log_a = _log_weights("weights_x", weights_x, x)
    log_b = _log_weights("weights_y", weights_y, y)
    u, v = x.flatten(1).to(torch.float64), y.flatten(1).to(torch.float64)
    solve = partial(_sinkhorn_potentials, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations)

    def transport(u: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, symmetric: bool) -> Tensor:
        cost = _distances(u, v) ** power
        f, g = solve(cost.detach(), log_a, log_b, symmetric=symmetric)
        log_plan = log_a[:, None] + log_b + (f[:, None] + g - cost) / epsilon
        return (log_a.exp() * f).sum() + (log_b.exp() * g).sum() - epsilon * (log_plan.exp().sum() - 1)

    value = transport(u, v, log_a, log_b, symmetric=False)
    if debias:
        value = value - transport(u, u, log_a, log_a, symmetric=True) / 2
        value = value - transport(v, v, log_b, log_b, symmetric=True) / 2
    return value.to(x.dtype)


def _log_weights(name: str, weights: Tensor | None, samples: Tensor) -> Tensor:
    if weights is None:
        return samples.new_full((len(samples),), -math.log(len(samples)), dtype=torch.float64)
    return _checked_weights("sinkhorn_divergence", name, weights, len(samples)).log()


def _sinkhorn_potentials(
    cost: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    *,
    symmetric: bool,
    epsilon: float,
    tolerance: float,
    max_iterations: int,
) -> tuple[Tensor, Tensor]:
    """The fixed point of f_n = -epsilon log sum_m b_m exp((g_m - C_nm) / epsilon) and the same for g.

    For a law against itself f = g, and averaging f with its update needs tens of iterations instead of thousands.
    """
    f = g = torch.zeros_like(log_a)
    for _ in range(max_iterations):
        if not symmetric:
            g = -epsilon * torch.logsumexp(log_a[:, None] + (f[:, None] - cost) / epsilon, dim=0)
        update = -epsilon * torch.logsumexp(log_b + (g - cost) / epsilon, dim=1)
        violation = (log_a.exp() * torch.expm1((f - update) / epsilon).abs()).sum()
        f = (f + update) / 2 if symmetric else update
        g = f if symmetric else g
        if violation <= tolerance:
            return f, g
    raise RuntimeError(
        f"sinkhorn_divergence: no convergence in {max_iterations} iterations; raise epsilon, tolerance or "
        f"max_iterations, got epsilon = {epsilon}"
    )
