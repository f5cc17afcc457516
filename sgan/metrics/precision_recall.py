"""Precision and recall of a generated law, by nearest neighbours in a feature space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2048  # rows of a distance matrix held at once
EPS = torch.finfo(torch.float64).eps
# A network's float32 features of one image differ with the batch that it is in: by up to 1.4e-6 of the largest norm
# (EfficientNet-Lite0 on the CPU). The same image twice must be a tie.
FLOAT32_TIE = 2.0**-18


class PrecisionRecall(NamedTuple):
    """Four numbers, for each of which higher is better.

    Attributes:
        precision: share of fakes inside the real manifold, in [0, 1].
        recall: share of real images inside the fake manifold, in [0, 1].
        density: real balls that a fake lies in, divided by k, averaged: at least 0, about 1 for the same law.
        coverage: share of real balls that hold a fake, in [0, 1]; for the same law below 1, by k and the sizes.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(real_features: Tensor, fake_features: Tensor, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (arXiv 1904.06991), with density and coverage (arXiv 2002.09797) beside them.

    A set's manifold is the union of balls around its points; a ball's radius is the distance to the k-th nearest
    neighbour in the own set, the point itself excluded. A point on the boundary is inside (<=).

    Args:
        real_features: (N, D), N > k.
        fake_features: (M, D), M > k.
        k: neighbours.

    Returns:
        The four values. Memory is some (2048, max(N, M)) blocks of distances, in float64; distances that differ by
        their rounding alone count as equal, and of float32 features by 2^-18 of the largest norm. Where images come
        several times, a ball's radius may be 0, and density may exceed 1.

    Raises:
        ValueError: another shape, too few rows, or a value that is not finite.
    """
    for name, features in (("real_features", real_features), ("fake_features", fake_features)):
        if k < 1 or features.ndim != 2 or len(features) <= k:
            raise ValueError(
                f"precision_recall: {name} must be (N, D) with N > k = {k} >= 1, got {tuple(features.shape)}"
            )
        if not features.isfinite().all():
            raise ValueError(f"precision_recall: {name} must be finite, got NaN or infinity")
    if real_features.shape[1] != fake_features.shape[1]:
        dims = f"{real_features.shape[1]} and {fake_features.shape[1]}"
        raise ValueError(f"precision_recall: both sets must have one feature dimension D, got {dims}")
    centre = real_features.detach().double().mean(0)
    real, fake = (features.detach().double() - centre for features in (real_features, fake_features))
    # |x|^2 + |y|^2 - 2 <x, y> with D + 2 roundings of at most (|x| + |y|)^2 eps, on either side of a comparison.
    slack = 8 * (real.shape[1] + 2) * EPS * max(float(x.square().sum(1).max()) for x in (real, fake))
    tie = _tie(real_features, fake_features)
    real_radius = (_squared_radii(real, k).clamp(min=0).sqrt() + tie).square() + slack
    fake_radius = (_squared_radii(fake, k).clamp(min=0).sqrt() + tie).square() + slack
    balls_of_fake = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    is_recalled, is_covered = [], []
    for rows, radius in zip(real.split(CHUNK), real_radius.split(CHUNK), strict=True):
        distance = _squared_distances(rows, fake)
        in_real_ball = distance <= radius[:, None]
        balls_of_fake += in_real_ball.sum(0)
        is_covered.append(in_real_ball.any(1))
        is_recalled.append((distance <= fake_radius).any(1))
    return PrecisionRecall(
        precision=float((balls_of_fake > 0).double().mean()),
        recall=float(torch.cat(is_recalled).double().mean()),
        density=float(balls_of_fake.double().mean() / k),
        coverage=float(torch.cat(is_covered).double().mean()),
    )


def _tie(*sets: Tensor) -> float:
    """Distances closer than this are equal: 0 of float64 features."""
    if all(features.dtype == torch.float64 for features in sets):
        return 0.0
    return FLOAT32_TIE * max(float(features.detach().double().norm(dim=1).max()) for features in sets)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.addmm(y.square().sum(1) + x.square().sum(1, keepdim=True), x, y.T, alpha=-2)


def _squared_radii(x: Tensor, k: int) -> Tensor:
    # The (k + 1)-th smallest distance in the own set: the point itself is the smallest.
    return torch.cat([_squared_distances(rows, x).topk(k + 1, largest=False).values[:, -1] for rows in x.split(CHUNK)])
