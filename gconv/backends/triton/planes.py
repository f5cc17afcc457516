"""What the kernels share: tuples of planes, one tensor per group element or coefficient, unrolled at compile time."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def replaced(planes, i: tl.constexpr, plane):
    """The tuple with plane i exchanged."""
    return planes[:i] + (plane,) + planes[i + 1 :]  # noqa: RUF005 - triton knows no starred expressions


@triton.jit
def butterfly(planes, i: tl.constexpr, j: tl.constexpr):
    """Planes i and j become their sum and their difference."""
    a, b = planes[i], planes[j]
    return replaced(replaced(planes, i, a + b), j, a - b)


@triton.jit
def transform(planes, BUTTERFLIES: tl.constexpr):
    """The Fourier transform over the group: planes to coefficients."""
    for k in tl.static_range(len(BUTTERFLIES)):
        planes = butterfly(planes, BUTTERFLIES[k][0], BUTTERFLIES[k][1])
    return planes


@triton.jit
def transposed_transform(planes, BUTTERFLIES: tl.constexpr):
    """The transpose of :func:`transform`: every butterfly is symmetric, so it is the same ones in reverse order."""
    last: tl.constexpr = len(BUTTERFLIES) - 1
    for k in tl.static_range(len(BUTTERFLIES)):
        planes = butterfly(planes, BUTTERFLIES[last - k][0], BUTTERFLIES[last - k][1])
    return planes


@triton.jit
def doubled_tap(tap, size):
    """Row and column of a tap of the size x size window, twice their distance from its centre: an integer."""
    return 2 * (tap // size) - (size - 1), 2 * (tap % size) - (size - 1)


@triton.jit
def moved_tap(row, column, size, MATRICES: tl.constexpr, h: tl.constexpr):
    """Row and column in the window of a doubled tap that element h moves."""
    moved_row = MATRICES[h][0] * row + MATRICES[h][1] * column
    moved_column = MATRICES[h][2] * row + MATRICES[h][3] * column
    return (moved_row + (size - 1)) // 2, (moved_column + (size - 1)) // 2
