"""The definitions by loops over everything, in Python numbers. Shares nothing with gconv but the element numbering.

An element is (flip, rotation). It acts on points by trigonometry: with x to the right and y up a counter-clockwise turn
by t is (x cos t - y sin t, x sin t + y cos t), a pixel's offset (row, column) is (x, y) = (column, -row), and a flip
negates the row. Inverses and products are found by trying every element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np

Offset = tuple[float, float]
Array = np.ndarray

GENERIC = (2.0, 1.0)  # no element but the identity leaves it in place


def order(name: str) -> int:
    return int(name[1]) * (2 if name[0] == "D" else 1)


def act(name: str, element: int, offset: Offset) -> Offset:
    """The (row, column) offset moved by the element."""
    rotations = int(name[1])
    flip, rotation = divmod(element, rotations)
    angle = 2 * math.pi * rotation / rotations
    cos, sin = round(math.cos(angle)), round(math.sin(angle))
    x, y = offset[1], -offset[0]
    x, y = x * cos - y * sin, x * sin + y * cos
    return (y if flip else -y, x)


def inverse(name: str, element: int) -> int:
    (found,) = (e for e in range(order(name)) if act(name, e, act(name, element, GENERIC)) == GENERIC)
    return found


def multiply(name: str, a: int, b: int) -> int:
    moved = act(name, a, act(name, b, GENERIC))
    (found,) = (e for e in range(order(name)) if act(name, e, GENERIC) == moved)
    return found


def _pixel(plane: Array, row: int, column: int) -> float:
    height, width = plane.shape
    return plane[row, column] if 0 <= row < height and 0 <= column < width else 0


def _taps(size: int) -> list[tuple[int, int]]:
    return list(product(range(size), repeat=2))


def _moved_back(name: str, element: int, size: int) -> dict[tuple[int, int], tuple[int, int]]:
    """For every tap d of the window the tap element^-1 d."""
    centre, back = (size - 1) / 2, inverse(name, element)
    taps = {}
    for row, column in _taps(size):
        moved = act(name, back, (row - centre, column - centre))
        taps[row, column] = (int(moved[0] + centre), int(moved[1] + centre))
    return taps


def _output_size(length: int, size: int, stride: int, padding: int) -> int:
    return len(range(-padding, length + padding - size + 1, stride))


def convolution(x: Array, weight: Array, bias: Array | None, name: str, stride: int, padding: int) -> Array:
    """out(p, g) = b + sum_c sum_d sum_t f_c(stride p + d, t) W_c(g^-1 d, g^-1 t); a lifting filter has no t."""
    lifting = weight.ndim == 4
    if lifting:
        x, weight = x[:, :, None], weight[:, :, None]
    n_batch, c_in, _, h_in, w_in = x.shape
    c_out, size, n_group = weight.shape[0], weight.shape[-1], order(name)
    height, width = (_output_size(length, size, stride, padding) for length in (h_in, w_in))
    out = np.zeros((n_batch, c_out, n_group, height, width), dtype=x.dtype)
    for g in range(n_group):
        taps = _moved_back(name, g, size)
        planes = [0] if lifting else [multiply(name, inverse(name, g), t) for t in range(n_group)]
        for n, o, row, column in product(range(n_batch), range(c_out), range(height), range(width)):
            total = 0 if bias is None else bias[o]
            for c, (t, plane), (d_row, d_column) in product(range(c_in), enumerate(planes), _taps(size)):
                value = _pixel(x[n, c, t], row * stride - padding + d_row, column * stride - padding + d_column)
                total += value * weight[o, c, plane, *taps[d_row, d_column]]
            out[n, o, g, row, column] = total
    return out


def cosets(name: str, subgroup: Sequence[int]) -> list[list[int]]:
    """The left cosets g H, ordered by smallest element."""
    found: list[list[int]] = []
    for g in range(order(name)):
        coset = sorted({multiply(name, g, h) for h in subgroup})
        if coset not in found:
            found.append(coset)
    return found


def pool(x: Array, name: str, mode: str, subgroup: Sequence[int]) -> Array:
    """(N, C, |G|, H, W) -> (N, C, cosets, H, W)."""
    n_batch, channels, _, height, width = x.shape
    members = cosets(name, subgroup)
    out = np.zeros((n_batch, channels, len(members), height, width), dtype=x.dtype)
    for n, c, i, row, column in product(*map(range, out.shape)):
        values = [x[n, c, g, row, column] for g in members[i]]
        out[n, c, i, row, column] = max(values) if mode == "max" else sum(values) / len(values)
    return out
