"""Precision and recall of a generated law, by nearest neighbours in a feature space."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2048  # rows of a distance matrix held at once


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
        The four values. Memory is one (2048, max(N, M)) block of distances; distances are in the features' dtype.

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
    real_radius = _radii(real_features, k)
    fake_radius = _radii(fake_features, k)
    balls_of_fake = torch.zeros(len(fake_features), dtype=torch.int64, device=fake_features.device)
    is_recalled, is_covered = [], []
    for rows, radius in zip(real_features.split(CHUNK), real_radius.split(CHUNK), strict=True):
        distance = _distances(rows, fake_features)
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


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # Differences, not the expanded square: a point's distance to itself is 0, and equal pairs give equal distances.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int) -> Tensor:
    # The (k + 1)-th smallest distance in the own set: the point itself is the smallest.
    return torch.cat([_distances(rows, x).kthvalue(k + 1, dim=1).values for rows in x.split(CHUNK)])
