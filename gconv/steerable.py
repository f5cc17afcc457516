"""Filters that turn by any angle: circular harmonics on Gaussian rings.

psi(r, phi) = exp(-(r - radius)^2 / (2 sigma^2)) e^{i k phi} turned by theta is e^{-i k theta} psi, and flipped it is
its conjugate, so combinations of such functions are known at every orientation before they are sampled (Weiler,
Hamprecht and Storath 2018, "Learning Steerable Filters for Rotation Equivariant CNNs", arXiv 1711.07289; Weiler and
Cesa 2019, "General E(2)-Equivariant Steerable CNNs", arXiv 1911.08251). Offsets are (row, column) with rows down; phi
is measured counter-clockwise from the direction of the columns. e^{i k phi} counts as 0 at the origin for k > 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gconv.backends.filters import widen
from gconv.functional import _check_floating, _check_group, _check_int, _check_tensor
from gconv.groups import PlanarGroup

Array = np.ndarray


class Ring(NamedTuple):
    """The circular harmonics of one Gaussian ring: 1 + 2 * max_frequency real functions.

    Attributes:
        radius, sigma: in pixels; the profile is exp(-(r - radius)^2 / (2 sigma^2)).
        max_frequency: the largest k; a ring's pixels are too few for the high ones, which alias.
    """

    radius: float
    sigma: float
    max_frequency: int


Basis = tuple[Ring, ...]


def steerable_basis(kernel_size: int) -> Basis:
    """The default basis of K x K filters: rings one pixel apart, from the centre to the border.

    Radii, widths and cut-offs are those with which escnn samples odd filters by default, so that both have as many
    parameters: the pixel at the centre alone; sigma = 0.6, on the outermost ring 0.4; frequencies up to 2 r, or 2 r - 1
    for even r, and on the outermost ring no more than 2. Even filters have the radii 1/2, 3/2, ... and the same rule.

    Args:
        kernel_size: K.

    Returns:
        The rings, in increasing order: 6 functions for K = 3, 11 for 5 and 18 for 7.

    Raises:
        TypeError, ValueError: K is not a positive int.
    """
    _check_int("steerable_basis", "kernel_size", kernel_size, 1)
    border = (kernel_size - 1) / 2
    rings = []
    for step in range((kernel_size + 1) // 2):
        radius = border % 1 + step
        below_aliasing = int(2 * radius) - (radius % 2 == 0)
        if radius == 0:
            rings.append(Ring(0, 0.005, 0))
        elif radius == border:
            rings.append(Ring(radius, 0.4, min(2, below_aliasing)))
        else:
            rings.append(Ring(radius, 0.6, below_aliasing))
    return tuple(rings)


def sp_gan_basis() -> Basis:
    """The 11 functions of SP-GAN's 5 x 5 filters (Birrell et al. 2022, arXiv 2202.01129): rings 0, 1 and 2.

    At the centre frequency 0 alone, as in the published numbers of parameters.
    """
    return Ring(0, 0.5, 0), Ring(1, 0.5, 2), Ring(2, 0.5, 2)


def steerable_filters(
    coefficients: Tensor, group: PlanarGroup, kernel_size: int, basis: Sequence[Ring] | None = None
) -> Tensor:
    """The filter that the ops take, from its coefficients in a steerable basis.

    The layer's filter is W(d, t) = sum_b a(t, b) psi_b(d) for element t of the group, that of a lifting layer has no t.
    With H the lattice subgroup and c, c' in the m coset representatives (gconv/cosets.py), the result is

        W_H(c, c', h', d) = W(c^-1 d, c^-1 h' c') = sum_b a(c^-1 h' c', b) psi_b(c^-1 d).

    The basis is sampled in float64, kept, and rounded to the coefficients' dtype. Its functions are, for each ring and
    k = 0, 1, ..., max_frequency, the cosine and for k > 0 the sine, scaled so that the sum of their squares over the
    pixels is 1 for k = 0 and 2 for k > 0, at every angle.

    Args:
        coefficients: (C_out, C_in, B) of a lifting layer or (C_out, C_in, |G|, B) of a group layer.
        group: the layer's group; on the pixel grid m = 1.
        kernel_size: K.
        basis: the rings with B functions in all; None for :func:`steerable_basis`.

    Returns:
        (m * C_out, C_in, K, K) for :func:`gconv.lifting_conv2d` or (m * C_out, m * C_in, |H|, K, K) for
        :func:`gconv.group_conv2d`, of the coefficients' dtype. Differentiable.

    Raises:
        TypeError: not a tensor, a group, an int and rings, or integer coefficients.
        ValueError: coefficients of another shape, or a ring that reaches no pixel.
    """
    operation = "steerable_filters"
    _check_group(operation, group)
    _check_tensor(operation, "coefficients", coefficients)
    _check_int(operation, "kernel_size", kernel_size, 1)
    rings = check_basis(operation, kernel_size, basis)
    size = basis_size(rings)
    if coefficients.shape[2:] not in ((size,), (group.order, size)):
        raise ValueError(
            f"{operation}: coefficients must be (C_out, C_in, {size}) or (C_out, C_in, {group.order}, {size}) for "
            f"group {group.name} and K = {kernel_size}, got {tuple(coefficients.shape)}"
        )
    _check_floating(operation, "coefficients", coefficients)
    return combine(coefficients, sampled_basis(group, kernel_size, rings), relative_elements(group))


def check_basis(operation: str, kernel_size: int, basis: Sequence[Ring] | None) -> Basis:
    """The rings of a basis of K x K filters; errors are the operation's."""
    if basis is None:
        return steerable_basis(kernel_size)
    if not isinstance(basis, Sequence) or not basis or not all(isinstance(ring, Ring) for ring in basis):
        raise TypeError(f"{operation}: basis must be None or a sequence of gconv.Ring, got {basis!r}")
    for ring in basis:
        _check_int(operation, "max_frequency", ring.max_frequency, 0)
        if not (0 <= ring.radius < math.inf and 0 < ring.sigma < math.inf):
            raise ValueError(f"{operation}: basis must have radii of at least 0 and positive widths, got {ring}")
        if not _profile(ring, min(1, ring.max_frequency), kernel_size).any():
            raise ValueError(f"{operation}: basis must have rings that reach pixels of K = {kernel_size}, got {ring}")
    return tuple(basis)


def basis_size(basis: Basis) -> int:
    """B, the number of real functions."""
    return sum(1 + 2 * ring.max_frequency for ring in basis)


def combine(coefficients: Tensor, functions: Tensor, elements: Tensor) -> Tensor:
    """:func:`steerable_filters` by what :func:`sampled_basis` and :func:`relative_elements` give, without autocast."""
    (c_out, c_in, *_), (m, _, size, _) = coefficients.shape, functions.shape
    device = coefficients.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        wide = widen(coefficients)
        planes = functions.to(wide).flatten(2)
        if wide.dim() == 3:
            weight = (wide.flatten(0, 1) @ planes).view(m * c_out, c_in, size, size)
        else:
            turned = wide[:, :, elements].permute(2, 0, 4, 1, 3, 5)  # (c, C_out, c', C_in, h', B)
            weight = (turned.flatten(1, 4) @ planes).view(m * c_out, m * c_in, -1, size, size)
    return weight.to(coefficients.dtype)


def sampled_basis(group: PlanarGroup, kernel_size: int, basis: Basis) -> Tensor:
    """psi_b(c^-1 d), the basis turned by every coset representative: (m, B, K, K) in float64."""
    return torch.from_numpy(_sampled_basis(group, kernel_size, basis).copy())


def relative_elements(group: PlanarGroup) -> Tensor:
    """c^-1 h' c' over (c, h', c'): (m, |H|, m) integers."""
    return torch.from_numpy(_relative_elements(group).copy())


@lru_cache(maxsize=256)
def _sampled_basis(group: PlanarGroup, kernel_size: int, basis: Basis) -> Array:
    angle = 2 * math.pi / group.rotations * np.arange(group.coset_count)[:, None, None]
    _, phi = _polar(kernel_size)
    planes: list[Array] = []
    for ring in basis:
        for k in range(ring.max_frequency + 1):
            profile = _profile(ring, k, kernel_size)
            profile *= math.sqrt(1 if k == 0 else 2) / np.linalg.norm(profile)
            planes += [profile * wave(k * (phi - angle)) for wave in ((np.cos, np.sin) if k else (np.cos,))]
    return np.stack(planes, axis=1)


@lru_cache(maxsize=256)
def _relative_elements(group: PlanarGroup) -> Array:
    cosets = range(group.coset_count)
    planes = [[h + c for c in cosets] for h in group.lattice_elements]  # h' c'
    return np.array([[[group.product(group.inverse(c), t) for t in of_h] for of_h in planes] for c in cosets])


def _polar(kernel_size: int) -> tuple[Array, Array]:
    """Radius and angle of every pixel of the window."""
    centred = np.arange(kernel_size) - (kernel_size - 1) / 2
    row, column = np.meshgrid(centred, centred, indexing="ij")
    return np.hypot(row, column), np.arctan2(-row, column)


def _profile(ring: Ring, k: int, kernel_size: int) -> Array:
    """The Gaussian ring as frequency k meets it, without the pixel at the origin for k > 0."""
    radius, _ = _polar(kernel_size)
    profile = np.exp(-(((radius - ring.radius) / ring.sigma) ** 2) / 2)
    return profile if k == 0 else np.where(radius > 0, profile, 0)
