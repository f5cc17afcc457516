"""The steerable filters of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gconv.backends.filter_cache import FilterCache
from gconv.backends.filters import widen
from gconv.groups import PlanarGroup
from gconv.nn.constants import ConstantTables
from gconv.ops._shortcut import plainly_eager, records
from gconv.steerable import Ring, basis_size, check_basis, combine, relative_elements, sampled_basis


class SteerableFilters(ConstantTables):
    """:func:`gconv.steerable_filters` with the sampled basis at hand: no parameters, and no buffers to save.

    Args:
        group, kernel_size, basis: as :func:`gconv.steerable_filters` takes them; errors are ``name``'s.

    Attributes:
        size: B, coefficients per pair of channels and element.
    """

    functions: Tensor
    elements: Tensor

    def __init__(self, name: str, group: PlanarGroup, kernel_size: int, basis: Sequence[Ring] | None) -> None:
        super().__init__()
        self.group = group
        self.kernel_size = kernel_size
        self.basis = check_basis(name, kernel_size, basis)
        self.size = basis_size(self.basis)
        self.make_tables(torch.empty(()))  # torch's default dtype and device

    def forward(self, coefficients: Tensor, cache: FilterCache | None = None) -> Tensor:
        """(C_out, C_in[, |G|], B) -> the filter; one that nothing records is kept in ``cache``, if given.

        What is kept is the cache's own: it is for the op alone, and must not reach who could write to it.
        """
        self.follow(coefficients)
        if cache is None or records(coefficients) or not plainly_eager(coefficients):
            return combine(coefficients, self.functions, self.elements)
        kept: Tensor = cache.packed(self, coefficients, self.group)
        return kept

    def pack(self, weight: Tensor, group: PlanarGroup) -> Tensor:
        """What the cache keeps."""
        return combine(weight, self.functions, self.elements)

    def packing_state(self) -> object:
        """The filter depends on the coefficients alone."""
        return None

    def extra_repr(self) -> str:
        return f"{self.size} functions on {len(self.basis)} rings"

    def tables(self, like: Tensor) -> Mapping[str, Tensor]:
        """The elements that pair the cosets, and the sampled functions, as wide as the filter is computed."""
        return {
            "elements": relative_elements(self.group).to(like.device),
            "functions": sampled_basis(self.group, self.kernel_size, self.basis).to(widen(like)),
        }
