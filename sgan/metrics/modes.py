"""Which components of a known mixture in the plane have been learned."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gconv import CyclicGroup
from sgan.data.toy2d import Mixture2d

__all__ = ["ModeCoverage", "component_radius", "mode_coverage", "rotation_symmetry"]

CONTENT = 0.95  # of a component lies within its radius
MOST_ROTATIONS = 8
ROUNDING = 1e-6  # of centres, against differences of 0.1 and more


class ModeCoverage(NamedTuple):
    """How points fall on the components of a mixture.

    Attributes:
        precision: share of the points within the radius of a component; 0.95 for the law itself.
        recall: mean over the components of min(1, share / due share), in [0, 1]; 1 if every component has at least the
            points that it is due, 1 / K if all fall on one of K, just below 1 for a sample of the law itself.
        shares: (K) share of the points within each component's radius; 0.95 / K is due.
    """

    precision: float
    recall: float
    shares: Tensor


def component_radius(law: Mixture2d, content: float = CONTENT) -> float:
    """The radius around a centre that holds this share of its component.

    In the plane P(|x - c| > r) = (1 + r^2 / (dof scale^2))^(-dof / 2), exp(-r^2 / (2 scale^2)) for a Gaussian: the
    integral of the density of `Mixture2d.log_density` over the outside.
    """
    outside = 1 - content
    if law.dof == math.inf:
        return law.scale * math.sqrt(-2 * math.log(outside))
    return law.scale * math.sqrt(law.dof * (outside ** (-2 / law.dof) - 1))


def mode_coverage(points: Tensor, law: Mixture2d) -> ModeCoverage:
    """Count points by their nearest component, as far as they lie within its radius.

    Args:
        points: (N >= 1, 2).
        law: with components that overlap little.

    Raises:
        ValueError: another shape.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"mode_coverage: points must be (N >= 1, 2), got {tuple(points.shape)}")
    points = points.detach().cpu().to(torch.float64)
    distances, nearest = torch.cdist(points, points.new_tensor(law.centres)).min(dim=1)
    inside = nearest[distances <= component_radius(law)]
    shares = inside.bincount(minlength=len(law.centres)) / len(points)
    due = CONTENT / len(law.centres)
    return ModeCoverage(float(shares.sum()), float((shares / due).clamp(max=1).mean()), shares)


def rotation_symmetry(law: Mixture2d) -> CyclicGroup:
    """The largest C_n, n at most 8, that maps the centres onto each other, and so leaves the law as it is."""

    def closed(group: CyclicGroup) -> bool:
        centres = torch.tensor(law.centres, dtype=torch.float64)
        turn = torch.tensor(group.matrix(1 % group.order), dtype=torch.float64)
        return bool((torch.cdist(centres @ turn.T, centres).amin(dim=1) < ROUNDING).all())

    return next(group for n in range(MOST_ROTATIONS, 0, -1) if closed(group := CyclicGroup(n)))
