"""A lattice group's Fourier transform as tables that a kernel unrolls: butterflies, products per irrep, filter rows.

For one tap, out(g) = sum_s u(g s) W(s). A butterfly (i, j) replaces two planes a, b by a + b and a - b; a few of them
are an integer matrix S with orthogonal rows, so that S^-1 = S^T D^-1 with D = S S^T. In the coefficients U = S u the
map u -> out is

    (S out)[a] = sum_b U[b] sum_s M_s[a, b] W(s),    M_s = S R_s S^-1,    (R_s u)(g) = u(g s),

and M_s is block diagonal: the blocks are the irreps. Hence out = S^T A with A[a] = sum_b U[b] What[a, b] and
What[a, b] = sum_s M_s[a, b] W(s) / D[a], a division by a power of two. Everything here follows from the group's product
and the butterflies; that the blocks are those of the irreps is tested, not assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
import numpy.typing as npt

from gconv.groups import PlanarGroup

Integers = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

# A butterfly (i, j) replaces planes a, b by a + b, a - b. The last one of D4's, (6, 2), is the wrong way around on
# purpose: it gives both columns of the two-dimensional irrep the same matrix, with no sign between them.
_BUTTERFLIES: dict[str, Pairs] = {
    "C1": (),
    "C2": ((0, 1),),
    "C4": ((0, 2), (1, 3), (0, 1)),
    "D1": ((0, 1),),
    "D2": ((0, 1), (2, 3), (0, 2), (1, 3)),
    "D4": ((0, 2), (1, 3), (0, 1), (4, 6), (5, 7), (4, 5), (0, 4), (1, 5), (3, 7), (6, 2)),
}


@dataclass(frozen=True)
class Spectrum:
    """The tables of one lattice group H; "row" is a row of What, a linear form of the filter's planes.

    Attributes:
        order: |H|, the number of planes, of coefficients U and of coefficients A.
        butterflies: pairs (i, j), in order: planes i, j become their sum and their difference. In reverse order they
            are the transpose, which takes the coefficients A to the planes of the output.
        blocks: per irrep and column the coefficients that its square matrix mixes.
        tiles: per tile its rows [What[a, b] for a in the block], for one b. Columns of one irrep share their tiles.
        operands: triples (tile, b, block), sorted: A[block] += U[b] times the rows of the tile.
        rows: per row the integers f with What = sum_s f[s] W(s) / denominator.
        denominators: powers of two, one per row.
        matrices: per element ((a, b), (c, d)) as (a, b, c, d), acting on (row, column).
        inverses: per element the number of its inverse.
    """

    order: int
    butterflies: Pairs
    blocks: tuple[Integers, ...]
    tiles: tuple[Integers, ...]
    operands: tuple[Integers, ...]
    rows: tuple[Integers, ...]
    denominators: Integers
    matrices: tuple[Integers, ...]
    inverses: Integers


@cache
def spectrum(group: PlanarGroup) -> Spectrum:
    """The tables of a lattice group."""
    order, butterflies = group.order, _BUTTERFLIES[group.name]
    transform = transform_matrix(butterflies, order)
    norms = np.diag(transform @ transform.T)
    moved = [transform @ _translation(group, s) @ transform.T // norms for s in group.elements]
    forms = np.stack(moved, axis=-1)  # [a, b, s]: What[a, b] = sum_s forms[a, b, s] W(s) / norms[a]
    blocks: list[Integers] = []
    tiles: list[Integers] = []
    operands: list[Integers] = []
    rows: list[Integers] = []
    denominators: list[int] = []
    first_tile: dict[bytes, int] = {}
    for coefficients in _blocks(forms):
        block, start = _shared(coefficients, forms, first_tile)
        if start is None:
            start = len(tiles)
            first_tile[_key(block, forms)] = start
            for b in block:
                tiles.append(tuple(range(len(rows), len(rows) + len(block))))
                rows += [tuple(map(int, forms[a, b])) for a in block]
                denominators += [int(norms[a]) for a in block]
        for k, b in enumerate(block):
            operands.append((start + k, b, len(blocks)))
        blocks.append(block)
    return Spectrum(
        order,
        butterflies,
        tuple(blocks),
        tuple(tiles),
        tuple(sorted(operands)),
        tuple(rows),
        tuple(denominators),
        tuple(tuple(int(entry) for line in group.matrix(g) for entry in line) for g in group.elements),
        tuple(map(group.inverse, group.elements)),
    )


def transform_matrix(butterflies: Pairs, order: int) -> npt.NDArray[np.int64]:
    """S: its row i is what the butterflies leave in plane i."""
    matrix = np.eye(order, dtype=np.int64)
    for i, j in butterflies:
        matrix[[i, j]] = matrix[i] + matrix[j], matrix[i] - matrix[j]
    return matrix


def _translation(group: PlanarGroup, s: int) -> npt.NDArray[np.int64]:
    """R_s, (R_s u)(g) = u(g s)."""
    matrix = np.zeros((group.order, group.order), dtype=np.int64)
    for g in group.elements:
        matrix[g, group.product(g, s)] = 1
    return matrix


def _blocks(forms: npt.NDArray[np.int64]) -> list[Integers]:
    """The coefficients that are mixed by some element."""
    mixed = np.abs(forms).sum(axis=-1) > 0
    return sorted({tuple(map(int, np.flatnonzero(line))) for line in mixed})


def _key(block: Integers, forms: npt.NDArray[np.int64]) -> bytes:
    return forms[np.ix_(block, block)].tobytes()


def _shared(block: Integers, forms: npt.NDArray[np.int64], first_tile: dict[bytes, int]) -> tuple[Integers, int | None]:
    """The block, reordered to have the matrix of an earlier one, and that one's first tile; or as it is, and None."""
    for order in permutations(block):
        if (key := _key(order, forms)) in first_tile:
            return order, first_tile[key]
    return block, None
