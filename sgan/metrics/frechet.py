"""The Frechet distance of two feature sets (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """The Gaussian with a feature set's mean and unbiased covariance S, float64 on the CPU.

    mean: (D,). root: (R, D) with root^T root = S, R = min(N, D). variance: tr S.
    """

    mean: Tensor
    root: Tensor
    variance: float


def frechet_distance(real_features: Tensor, fake_features: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the sets' means and covariances; lower is better, 0 is equality.

    ||mu1 - mu2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with unbiased covariances, in float64 on the CPU.

    Estimated from few samples the value is too large (two sets of the same law are above 0), the more so the fewer the
    samples: compare only values of equal sample sizes.

    Args:
        real_features: (N, D), N >= 2.
        fake_features: (M, D), M >= 2.

    Returns:
        The distance, at least 0. Singular covariances are fine.

    Raises:
        ValueError: another shape, fewer than 2 rows, or a value that is not finite.
    """
    if real_features.ndim == fake_features.ndim == 2 and real_features.shape[1] != fake_features.shape[1]:
        dims = f"{real_features.shape[1]} and {fake_features.shape[1]}"
        raise ValueError(f"frechet_distance: both sets must have one feature dimension D, got {dims}")
    return distance_of_moments(moments(real_features, "real_features"), moments(fake_features, "fake_features"))


def moments(features: Tensor, name: str = "features") -> Moments:
    """Return the moments of (N, D) features, N >= 2, to be kept for several distances.

    With fewer samples than features the root is the centred samples themselves, N rows: exact, and the distance then
    costs the singular values of a matrix with that many rows in place of D.

    Raises:
        ValueError: another shape, fewer than 2 rows, or a value that is not finite.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"frechet_distance: {name} must be (N, D) with N >= 2, got {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ValueError(f"frechet_distance: {name} must be finite, got NaN or infinity")
    x = features.detach().cpu().to(torch.float64)
    mean = x.mean(0)
    centred = x - mean
    if len(x) < x.shape[1]:
        root = centred / (len(x) - 1) ** 0.5
        return Moments(mean, root, float(root.square().sum()))
    covariance = centred.T @ centred / (len(x) - 1)
    return Moments(mean, _root(covariance), float(covariance.trace()))


def distance_of_moments(first: Moments, second: Moments) -> float:
    """Squared Frechet distance of two Gaussians.

    tr (S1 S2)^(1/2) is the sum of the singular values of A = root1 root2^T: S1 S2 = root1^T A root2 has the non-zero
    eigenvalues of A root2 root1^T = A A^T.
    """
    trace_root = torch.linalg.svdvals(first.root @ second.root.T).sum()
    distance = float((first.mean - second.mean).square().sum()) + first.variance + second.variance
    return max(0.0, distance - 2 * float(trace_root))


def gaussian_frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians, from (D,) means and (D, D) symmetric covariances, float64.

    Roots come from symmetric eigenvalues, negative rounding errors set to 0.
    """
    first, second = (
        Moments(mean, _root(covariance), float(covariance.trace()))
        for mean, covariance in ((mean1, covariance1), (mean2, covariance2))
    )
    return distance_of_moments(first, second)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
