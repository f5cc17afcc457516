"""Symmetric players from any network, without group convolutions: averages over a finite list of tensor maps.

The maps are a group's action, closed under composition and inverse. Of other lists the results are averages, too, but
neither invariant nor equivariant; nothing here can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gconv import PlanarConversion, PlanarGroup
from sgan.heads import SanScores
from sgan.latents import point_matrices

__all__ = [
    "EquivariantProjection",
    "InvariantProjection",
    "TensorMap",
    "image_maps",
    "permutation_maps",
    "point_maps",
    "translation_maps",
]

TensorMap = Callable[[Tensor], Tensor]


def image_maps(group: PlanarGroup) -> list[TensorMap]:
    """The action of every element on images (N, C, H, W), in the group's order; H == W for quarter turns.

    Raises:
        ValueError: not a lattice group: other rotations would have to interpolate, and averages of them are not exact.
    """
    if not group.is_lattice:
        raise ValueError(
            f"image_maps: group must be exact on the pixel grid, as {group.lattice.name} is, got {group.name}"
        )
    return [partial(group.act, element=element) for element in group.elements]


def point_maps(group: PlanarGroup) -> list[TensorMap]:
    """The action of every element on points (N, 2), in the group's order (`sgan.latents.point_matrices`)."""
    return [partial(_move_points, group=group, element=element) for element in group.elements]


def translation_maps(side: int, step: int) -> list[TensorMap]:
    """All cyclic shifts of images (N, C, side, side) by multiples of step pixels: (side / step)^2 maps.

    Raises:
        ValueError: step does not divide side.
    """
    if step < 1 or side % step:
        raise ValueError(f"translation_maps: step must divide side {side}, got {step}")
    shifts = range(0, side, step)
    return [partial(torch.roll, shifts=(rows, columns), dims=(-2, -1)) for rows in shifts for columns in shifts]


def permutation_maps(permutations: Sequence[Sequence[int]]) -> list[TensorMap]:
    """x -> x[:, p] for every p, on (N, d, ...): the entry at i comes from p[i]."""
    return [partial(_permute, order=tuple(order)) for order in permutations]


class InvariantProjection(nn.Module):
    """S_Sigma[f](x) = (1 / |Sigma|) sum_s f(T_s x), the invariant part of any network; SP-GAN (arXiv 2202.01129).

    The whole orbit is one batch of |Sigma| N inputs, so that batch statistics and power iterations are shared and the
    average is invariant while training, too. Costs |Sigma| times the network.

    Args:
        network: (|Sigma| N, ...) inputs -> (|Sigma| N, ...) values or SanScores.
        maps: T_s, one per element.

    Raises:
        ValueError: no maps.
    """

    def __init__(self, network: nn.Module, maps: Sequence[TensorMap]) -> None:
        super().__init__()
        self.network = network
        self.maps = _checked("InvariantProjection", maps)

    def forward(self, x: Tensor, *conditions: Tensor, **options: object) -> Tensor | SanScores:
        """Average the network over the orbit.

        Args:
            x: (N, ...) inputs.
            conditions: (N, ...) invariant inputs, such as labels, passed on.
            options: passed on.

        Returns:
            What the network returns, for N inputs.
        """
        values = self.network(_orbit(x, self.maps), *_repeated(conditions, len(self.maps)), **options)
        if isinstance(values, SanScores):
            return SanScores(*(_orbit_mean(part, len(self.maps)) for part in values))
        return _orbit_mean(values, len(self.maps))

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """The average over a planar network; it takes images."""
        conversion.order = None
        return conversion.children(self)


class EquivariantProjection(nn.Module):
    """G(z) = (1 / |Sigma|) sum_s T_s^-1 g(U_s z), equivariant for any g: G(U_s z) = T_s G(z).

    A latent law that every U_s leaves as it is gives an output law that every T_s leaves as it is (theorem T2 of
    docs/theory.md). Where outputs are averaged as pictures, they blur; it is meant for points.

    Args:
        network: (|Sigma| N, ...) latents -> (|Sigma| N, ...) outputs.
        latent_maps: U_s, one per element.
        inverse_maps: T_s^-1 on outputs, in the same order.

    Raises:
        ValueError: no maps, or not as many of both.
    """

    def __init__(self, network: nn.Module, latent_maps: Sequence[TensorMap], inverse_maps: Sequence[TensorMap]) -> None:
        super().__init__()
        if len(latent_maps) != len(inverse_maps):
            raise ValueError(
                f"EquivariantProjection: inverse_maps must be as many as latent_maps, {len(latent_maps)}, "
                f"got {len(inverse_maps)}"
            )
        self.network = network
        self.latent_maps = _checked("EquivariantProjection", latent_maps)
        self.inverse_maps = tuple(inverse_maps)

    def forward(self, z: Tensor, *conditions: Tensor) -> Tensor:
        """Average over the group.

        Args:
            z: (N, ...) latents.
            conditions: (N, ...) invariant inputs, such as labels, passed on.

        Returns:
            (N, ...) outputs.
        """
        outputs = self.network(_orbit(z, self.latent_maps), *_repeated(conditions, len(self.latent_maps)))
        parts = outputs.chunk(len(self.latent_maps))
        return torch.stack([inverse(part) for inverse, part in zip(self.inverse_maps, parts, strict=True)]).mean(dim=0)


def _checked(owner: str, maps: Sequence[TensorMap]) -> tuple[TensorMap, ...]:
    if not maps:
        raise ValueError(f"{owner}: maps must be a group's, the identity at least, got none")
    return tuple(maps)


def _orbit(x: Tensor, maps: Sequence[TensorMap]) -> Tensor:
    """(N, ...) -> (|Sigma| N, ...), all inputs moved by the first element first."""
    return torch.cat([move(x) for move in maps])


def _orbit_mean(values: Tensor, order: int) -> Tensor:
    return values.unflatten(0, (order, -1)).mean(dim=0)


def _repeated(conditions: Sequence[Tensor], order: int) -> list[Tensor]:
    return [torch.cat([condition] * order) for condition in conditions]


def _move_points(x: Tensor, group: PlanarGroup, element: int) -> Tensor:
    return x @ point_matrices(group, x.dtype, x.device)[element].T


def _permute(x: Tensor, order: tuple[int, ...]) -> Tensor:
    return x[:, list(order)]
