"""Groups off the pixel grid as their lattice subgroup with more channels.

G is a group, H its lattice subgroup, m = |G| / |H|, and element h * m + c of G is h after c (gconv/groups.py). A layer
on G uses plane t of its input for output g through the filters B_{g,t}(d) = W(g^-1 d, g^-1 t), and for h in H

    B_{hg,ht}(h d) = B_{g,t}(d),

so it is a layer on H. The maps are the same numbers: channel c * C + i of the map on H is orientation h c of channel i,
and the layer's filter on H is B_{c, h' c'}(d) for output channel (c, o), input channel (c', i) and element h'. Only H
moves pixels; how far B is from a rotated copy of one filter for the other elements is up to B.

The ops take maps on G and filters on H. The dense backend permutes its bank, the cpu backend reads the m planes of an
orientation of H as blocks of channels, and the reference copies the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gconv.groups import PlanarGroup


def filter_shape(out_channels: int, input_shape: Sequence[int], size: int, group: PlanarGroup) -> tuple[int, ...]:
    """Of the filter on H that maps inputs of a shape (N, C_in[, |G|], H, W) to C_out channels on G."""
    m, c_in = group.coset_count, input_shape[1]
    if len(input_shape) == 4:
        return m * out_channels, c_in, size, size
    return m * out_channels, m * c_in, group.lattice.order, size, size


def input_shape(weight: Tensor, group: PlanarGroup, batch: int, height: int, width: int) -> tuple[int, ...]:
    """Of what a filter on H is applied to: (N, C_in, H, W), or (N, C_in, |G|, H, W) if it has a group axis."""
    if weight.dim() == 4:
        return batch, weight.shape[1], height, width
    return batch, weight.shape[1] // group.coset_count, group.order, height, width


def split(x: Tensor, group: PlanarGroup) -> Tensor:
    """(N, C, |G|, H, W) -> (N, C, |H|, m, H, W), a view; images and maps on lattice groups: x itself."""
    if group.is_lattice or x.dim() == 4:
        return x
    return x.unflatten(2, (group.lattice.order, group.coset_count))


def fold(x: Tensor, group: PlanarGroup) -> Tensor:
    """(N, C, |G|, H, W) -> (N, m * C, |H|, H, W), a copy; images and maps on lattice groups: x itself."""
    if group.is_lattice or x.dim() == 4:
        return x
    return split(x, group).movedim(3, 1).flatten(1, 2)


def unfold(x: Tensor, group: PlanarGroup) -> Tensor:
    """The inverse of :func:`fold`."""
    if group.is_lattice or x.dim() == 4:
        return x
    return x.unflatten(1, (group.coset_count, -1)).movedim(1, 3).flatten(2, 3)


def unfold_bank(bank: Tensor, group: PlanarGroup, group_filter: bool) -> Tensor:
    """A dense bank for maps on H, (m C_out |H|, m C_in |H| or C_in, K, K), as the one for maps on G."""
    if group.is_lattice:
        return bank
    bank = _unfold_axis(bank, 0, group)
    return _unfold_axis(bank, 1, group) if group_filter else bank


def fold_bank(bank: Tensor, group: PlanarGroup, group_filter: bool) -> Tensor:
    """The inverse of :func:`unfold_bank`."""
    if group.is_lattice:
        return bank
    bank = _fold_axis(bank, 0, group)
    return _fold_axis(bank, 1, group) if group_filter else bank


def _unfold_axis(bank: Tensor, axis: int, group: PlanarGroup) -> Tensor:
    """Puts the order (c, channel, h) of an axis into (channel, h, c)."""
    split = bank.unflatten(axis, (group.coset_count, -1, group.lattice.order))
    return split.movedim(axis, axis + 2).flatten(axis, axis + 2)


def _fold_axis(bank: Tensor, axis: int, group: PlanarGroup) -> Tensor:
    """Puts the order (channel, h, c) of an axis into (c, channel, h)."""
    split = bank.unflatten(axis, (-1, group.lattice.order, group.coset_count))
    return split.movedim(axis + 2, axis).flatten(axis, axis + 2)
