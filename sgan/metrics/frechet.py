"""The Frechet distance of two feature sets (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

import torch
from torch import Tensor


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
    for name, features in (("real_features", real_features), ("fake_features", fake_features)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"frechet_distance: {name} must be (N, D) with N >= 2, got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError(f"frechet_distance: {name} must be finite, got NaN or infinity")
    if real_features.shape[1] != fake_features.shape[1]:
        dims = f"{real_features.shape[1]} and {fake_features.shape[1]}"
        raise ValueError(f"frechet_distance: both sets must have one feature dimension D, got {dims}")
    mean1, covariance1 = _moments(real_features)
    mean2, covariance2 = _moments(fake_features)
    return gaussian_frechet_distance(mean1, covariance1, mean2, covariance2)


def gaussian_frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians, from (D,) means and (D, D) symmetric covariances, float64.

    tr (S1 S2)^(1/2) is the sum of the singular values of S1^(1/2) S2^(1/2), since S1 S2 is similar to A A^T with
    A = S1^(1/2) S2^(1/2). Both roots come from symmetric eigenvalues, negative rounding errors set to 0.
    """
    trace_root = torch.linalg.svdvals(_root(covariance1) @ _root(covariance2)).sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * trace_root
    return max(0.0, float(distance))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    x = features.detach().cpu().to(torch.float64)
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
