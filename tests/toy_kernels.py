"""A small matrix product in Triton, to try the ahead-of-time compiler on."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(
    a, b, out, rows, columns, inner,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, SIGNS: tl.constexpr,
):  # fmt: skip
    """out (rows, columns) = a (rows, inner) b (inner, columns) times the product of the signs."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.arange(0, INNER)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, inner, INNER):
        left = tl.load(a + row[:, None] * inner + (first + step)[None, :])
        right = tl.load(b + (first + step)[:, None] * columns + column[None, :])
        total = tl.dot(left, right, total)
    for i in tl.static_range(len(SIGNS)):
        total *= SIGNS[i][0]
    tl.store(out + row[:, None] * columns + column[None, :], total.to(out.dtype.element_ty))


@triton.jit
def copy_first(maps, out, SIZE: tl.constexpr):
    """A corner of a tensor, by its descriptor in a tuple: this compiles, but triton cannot launch it."""
    place = tl.arange(0, SIZE)
    tl.store(out + place[:, None] * SIZE + place[None, :], maps[0].load([0, 0]))
