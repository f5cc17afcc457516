"""Laws in the plane whose density is known: symmetric mixtures, Gaussian or heavy-tailed, and DeLiGAN's toy targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gconv import CyclicGroup, PlanarGroup

__all__ = ["TOY2D", "Mixture2d", "orbit_mixture"]

TOY_STREAM = 20  # apart from the streams of sgan.data.split

Point = tuple[float, float]


@dataclass(frozen=True)
class Mixture2d:
    """Equally likely isotropic components in the plane: c_k + scale * t, t Gaussian or Student's t.

    Attributes:
        centres: c_k, one or more.
        scale: standard deviation of a Gaussian component; the same parameter of Student's t.
        dof: degrees of freedom of Student's t, > 0: moments of order dof and above are infinite. Infinity: Gaussian.
    """

    centres: tuple[Point, ...]
    scale: float
    dof: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what is no law.

        Raises:
            ValueError: no centres, or scale or dof not positive.
        """
        if not self.centres or not 0 < self.scale < math.inf or not self.dof > 0:
            raise ValueError(f"Mixture2d: needs centres, scale > 0 and dof > 0, got {self}")

    def sample(self, count: int, *, seed: int, balanced: bool = False) -> Tensor:
        """Draw points.

        Args:
            count: how many.
            seed: >= 0; the same seed gives the same points.
            balanced: True gives each component count / K points, in order, instead of a random number.

        Returns:
            (count, 2) float32; independent unless balanced.

        Raises:
            ValueError: balanced, and count is no multiple of the number of components.
        """
        components = len(self.centres)
        if balanced and count % components:
            raise ValueError(f"sample: count must be a multiple of {components} to be balanced, got {count}")
        rng = np.random.default_rng([TOY_STREAM, seed])
        drawn = rng.integers(components, size=count)
        chosen = np.arange(count) * components // count if balanced else drawn
        noise = rng.standard_normal((count, 2))
        if self.dof < math.inf:
            noise = noise / np.sqrt(rng.chisquare(self.dof, (count, 1)) / self.dof)
        return torch.from_numpy(np.array(self.centres)[chosen] + self.scale * noise).to(torch.float32)

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) with respect to area: (N, 2) points -> (N), the dtype of x."""
        squares = (x[:, None] - x.new_tensor(self.centres)).square().sum(dim=2) / self.scale**2
        # Both laws have the constant 1 / (2 pi scale^2): Gamma(dof / 2 + 1) = dof / 2 Gamma(dof / 2).
        gaussian = self.dof == math.inf
        kernel = -squares / 2 if gaussian else -(self.dof / 2 + 1) * torch.log1p(squares / self.dof)
        return kernel.logsumexp(dim=1) - math.log(2 * math.pi * self.scale**2 * len(self.centres))


def orbit_mixture(group: PlanarGroup, base: tuple[Point, ...], *, scale: float, dof: float = math.inf) -> Mixture2d:
    """The mixture at every group element's image of the base points: a law that the group leaves as it is.

    Args:
        group: acts on points as `sgan.projection.point_maps` does.
        base: at least one point; a point that some elements leave where it is counts as often as they are.
        scale, dof: as in `Mixture2d`.
    """
    centres = tuple(group.act_offset(element, point) for point in base for element in group.elements)
    return Mixture2d(centres, scale, dof)


TOY2D: dict[str, Mixture2d] = {
    "toy-c4": orbit_mixture(CyclicGroup(4), ((1.0, 0.0),), scale=0.15),
    "toy-c8": orbit_mixture(CyclicGroup(8), ((1.0, 0.0),), scale=0.08),
    "toy-c3-chiral": orbit_mixture(CyclicGroup(3), ((1.0, 0.0), (1.2, 0.6)), scale=0.12),  # no mirror symmetry
    "toy-c4-heavy": orbit_mixture(CyclicGroup(4), ((1.0, 0.0),), scale=0.1, dof=2.0),
    "deligan-unimodal": Mixture2d(((0.0, 0.0),), 0.3),  # DeLiGAN draws 400 points of each
    "deligan-bimodal": Mixture2d(((0.6, 0.6), (-0.6, -0.6)), 0.15),  # balanced: 200 and 200
}
