"""The linear maps of filters that the backends share, each written with the group action alone."""

from __future__ import annotations

import torch
from torch import Tensor

from gconv import cosets
from gconv.groups import PlanarGroup


def widen(tensor: Tensor) -> Tensor:
    """Half precision as float32, to sum in; anything else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def expand(weight: Tensor, group: PlanarGroup) -> Tensor:
    """The dense bank: output plane s is L_s W.

    Args:
        weight: lifting (C_out, C_in, K, K) or group (C_out, C_in, |G|, K, K); off the pixel grid, the filter on the
            lattice subgroup.

    Returns:
        (C_out * |G|, C_in, K, K) or (C_out * |G|, C_in * |G|, K, K), flat order c * |G| + s.
    """
    lattice, group_filter = group.lattice, weight.dim() == 5
    bank = torch.stack([lattice.act(weight, s) for s in lattice.elements], dim=1).flatten(0, 1)
    return cosets.unfold_bank(bank.flatten(1, 2) if group_filter else bank, group, group_filter)


def contract(bank: Tensor, group: PlanarGroup, group_filter: bool) -> Tensor:
    """The adjoint of :func:`expand`: moves the bank's plane s back by s^-1 and sums over s, in float32 or wider."""
    lattice = group.lattice
    planes = widen(cosets.fold_bank(bank, group, group_filter)).unflatten(0, (-1, lattice.order))
    if group_filter:
        planes = planes.unflatten(2, (-1, lattice.order))
    total = lattice.act(planes[:, 0], 0)
    for s in range(1, lattice.order):
        total = total + lattice.act(planes[:, s], lattice.inverse(s))
    return total.to(bank.dtype)


def adjoint(weight: Tensor, group: PlanarGroup) -> Tensor:
    """The filter of the transposed group convolution: W*(p, s) = W(-s^-1 p, s^-1)^T.

    Args:
        weight: (C_out, C_in, |G|, K, K).

    Returns:
        (C_in, C_out, |G|, K, K).
    """
    planes = [group.act_grid(weight[:, :, group.inverse(s)], s) for s in group.elements]
    return torch.stack(planes, dim=2).flip(-2, -1).transpose(0, 1)


def align(weight: Tensor, group: PlanarGroup) -> Tensor:
    """W_d(s) = W(s d, s) as a tensor (C_out, C_in, |G|, K, K) over (s, d): every plane turned back to upright taps."""
    planes = [group.act_grid(weight[:, :, s], group.inverse(s)) for s in group.elements]
    return torch.stack(planes, dim=2)
