"""The tables that the Triton kernels unroll: products per irrep that are the group convolution."""

from __future__ import annotations

import numpy as np
import pytest
from cases import GROUPS

import gconv
from gconv.backends.triton.fourier import spectrum, transform_matrix


@pytest.mark.parametrize("name", GROUPS)
def test_butterflies_are_orthogonal_and_turn_back(name: str) -> None:
    tables = spectrum(gconv.group_from_name(name))
    matrix = transform_matrix(tables.butterflies, tables.order)
    norms = matrix @ matrix.T
    assert np.array_equal(norms, np.diag(np.diag(norms)))
    assert np.array_equal(matrix.T, _in_reverse(tables.butterflies, tables.order))


def _in_reverse(butterflies: tuple[tuple[int, int], ...], order: int) -> np.ndarray:
    return transform_matrix(butterflies[::-1], order)


@pytest.mark.parametrize("name", GROUPS)
def test_blocks_are_the_irreps(name: str) -> None:
    """One block per column of an irrep, of its dimension; columns of one irrep read the same tiles."""
    group = gconv.group_from_name(name)
    tables = spectrum(group)
    dims = [irrep.dim for irrep in group.irreps for _ in range(irrep.columns)]
    assert sorted(map(len, tables.blocks)) == sorted(dims)
    assert len(tables.rows) == sum(irrep.dim**2 for irrep in group.irreps)
    assert sorted(row for tile in tables.tiles for row in tile) == list(range(len(tables.rows)))
    assert all(tile == tuple(range(tile[0], tile[0] + len(tile))) for tile in tables.tiles)
    assert sorted(b for _, b, _ in tables.operands) == list(range(group.order))
    assert sorted(a for block in tables.blocks for a in block) == list(range(group.order))
    assert all(norm & (norm - 1) == 0 for norm in tables.denominators)


@pytest.mark.parametrize("name", GROUPS)
def test_products_of_coefficients_are_the_group_convolution(name: str) -> None:
    """out(g) = sum_s u(g s) W(s), in integers."""
    group = gconv.group_from_name(name)
    tables, generator = spectrum(group), np.random.default_rng(0)
    u, weight = generator.integers(-9, 10, (2, group.order))
    matrix = transform_matrix(tables.butterflies, group.order)
    rows = np.array(tables.rows) @ weight / np.array(tables.denominators)
    a, coefficients = np.zeros(group.order), matrix @ u
    for tile, b, block in tables.operands:
        for out, row in zip(tables.blocks[block], tables.tiles[tile], strict=True):
            a[out] += rows[row] * coefficients[b]
    expected = [sum(u[group.product(g, s)] * weight[s] for s in group.elements) for g in group.elements]
    assert np.array_equal(matrix.T @ a, expected)
