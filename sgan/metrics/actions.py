"""How the elements of a planar group move images and points, one function per element.

Rotations that do not map the pixel grid onto itself interpolate (bicubic). Interpolation blurs, so whatever compares a
turned image with another one has to say what it does about that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gconv import PlanarGroup
from sgan.latents import point_matrices

Action = Callable[[Tensor], Tensor]


def element_name(group: PlanarGroup, element: int) -> str:
    """Return "turn 45" for the rotation by 45 degrees, "turn 45 flip" if the rows are flipped after it."""
    flip, rotation = divmod(element, group.rotations)
    return f"turn {360 * rotation / group.rotations:g}{' flip' if flip else ''}"


def image_actions(group: PlanarGroup) -> dict[str, Action]:
    """Return the action on (N, C, H, H) images of every element but the identity, by `element_name`.

    Elements of `group.lattice` move pixels exactly. The others turn by `rotate_images` and are meaningful in
    `disk_mask` only. Lattice elements also move (N, C, |G|, H, H) feature maps on the group.
    """
    return {element_name(group, element): partial(act_on_images, group, element) for element in group.elements[1:]}


def point_actions(group: PlanarGroup) -> dict[str, Action]:
    """Return the action on (N, 2) points of every element but the identity, by `element_name`."""
    return {element_name(group, element): partial(act_on_points, group, element) for element in group.elements[1:]}


def shift_actions(shifts: Iterable[tuple[int, int]]) -> dict[str, Action]:
    """Return the periodic translations of (N, C, H, W) images by whole (rows, columns): the actions of EQ-T."""
    return {f"shift {rows},{columns}": partial(_roll, rows, columns) for rows, columns in shifts}


def act_on_images(group: PlanarGroup, element: int, images: Tensor) -> Tensor:
    """Move (N, C, H, H) images by one element: (L_g f)(p) = f(g^-1 p).

    Raises:
        TypeError, ValueError: no such element, or images of another shape.
    """
    if element in group.lattice_elements:
        return group.act(images, element)
    lattice_element, rotation_rad = split_off_rotation(group, element)
    return group.act(rotate_images(images, rotation_rad), lattice_element)


def act_on_points(group: PlanarGroup, element: int, points: Tensor) -> Tensor:
    """Move (N, 2) points (x, y) by one element: counter-clockwise, y up, and a flip changes the sign of y.

    Pixel (row, column) of an image centred at 0 is the point (column, -row): images and points turn alike.

    Raises:
        TypeError, ValueError: no such element, or points of another shape.
    """
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"act_on_points: points must be (N, 2), got {tuple(points.shape)}")
    return points @ point_matrices(group, points.dtype, points.device)[element].T


def rotate_images(images: Tensor, angle_rad: float) -> Tensor:
    """Turn (N, C, H, H) images counter-clockwise about their centre: bicubic, the border repeated outside.

    Raises:
        ValueError: images of another shape.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"rotate_images: images must be (N, C, H, H), got {tuple(images.shape)}")
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    inverse = images.new_tensor([[cos, -sin, 0], [sin, cos, 0]])  # of (x right, y down): where a pixel comes from
    grid = F.affine_grid(inverse.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)


def disk_mask(side: int) -> Tensor:
    """Return (side, side) bool: the pixels whose centres every rotation keeps within the image."""
    offset = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    return offset[:, None].square() + offset.square() <= ((side - 1) / 2) ** 2


def split_off_rotation(group: PlanarGroup, element: int) -> tuple[int, float]:
    """Return the lattice element h and the smallest angle >= 0 with g = h R(angle): R first, which interpolates."""
    lattice, cosets = divmod(element, group.coset_count)
    return lattice * group.coset_count, 2 * math.pi * cosets / group.rotations


def _roll(rows: int, columns: int, images: Tensor) -> Tensor:
    return torch.roll(images, (rows, columns), (-2, -1))
