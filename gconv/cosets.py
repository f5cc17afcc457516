"""Groups off the pixel grid as their lattice subgroup with more channels.

G is a group, H its lattice subgroup, m = |G| / |H|, and element h * m + c of G is h after c (gconv/groups.py). A layer
on G uses plane t of its input for output g through the filters B_{g,t}(d) = W(g^-1 d, g^-1 t), and for h in H

    B_{hg,ht}(h d) = B_{g,t}(d),

so it is a layer on H. The maps are the same numbers: channel c * C + i of the map on H is orientation h c of channel i,
and the layer's filter on H is B_{c, h' c'}(d) for output channel (c, o), input channel (c', i) and element h'. Only H
moves pixels; how far B is from a rotated copy of one filter for the other elements is up to B.
"""

from __future__ import annotations

from torch import Tensor

from gconv.groups import PlanarGroup


def fold(x: Tensor, group: PlanarGroup) -> Tensor:
    """(N, C, |G|, H, W) -> (N, m * C, |H|, H, W) in torch.channels_last_3d, a copy; lattice groups: x itself."""
    if group.is_lattice:
        return x
    pixels = x.permute(0, 2, 3, 4, 1).unflatten(1, (group.lattice.order, group.coset_count))
    return pixels.permute(0, 1, 3, 4, 2, 5).contiguous().flatten(4).permute(0, 4, 1, 2, 3)


def unfold(x: Tensor, group: PlanarGroup) -> Tensor:
    """The inverse of :func:`fold`."""
    if group.is_lattice:
        return x
    pixels = x.permute(0, 2, 3, 4, 1).unflatten(4, (group.coset_count, -1))
    return pixels.permute(0, 1, 4, 2, 3, 5).contiguous().flatten(1, 2).permute(0, 4, 1, 2, 3)


def unfold_bank(bank: Tensor, group: PlanarGroup, group_filter: bool) -> Tensor:
    """A dense bank for maps on H, (m C_out |H|, m C_in |H| or C_in, K, K), as the one for maps on G."""
    if group.is_lattice:
        return bank
    bank = _unfold_axis(bank, 0, group)
    return _unfold_axis(bank, 1, group) if group_filter else bank


def _unfold_axis(bank: Tensor, axis: int, group: PlanarGroup) -> Tensor:
    """Puts the order (c, channel, h) of an axis into (channel, h, c)."""
    split = bank.unflatten(axis, (group.coset_count, -1, group.lattice.order))
    return split.movedim(axis, axis + 2).flatten(axis, axis + 2)
