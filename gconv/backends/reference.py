"""The definition, in pure torch and without speed tricks. Every other backend is held to it.

Lifting:  out(x, s) = sum_d f(x + d) W(s^-1 d)
Group:    out(x, g) = sum_d sum_t f(x + d, t) W(g^-1 d, g^-1 t)

with d over the centred K x K window (Cohen & Welling 2016, equations 10 and 11, as correlations). Both read alike: the
rank of the filter says whether there is a group axis to sum over. Half precision is computed in float32, rounded once.
Groups off the pixel grid are folded into their lattice subgroup (gconv/cosets.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from gconv import cosets
from gconv.backends.filters import widen
from gconv.groups import Cosets, PlanarGroup


def _windows(x: Tensor, size: int, stride: int, height: int, width: int) -> Iterator[tuple[int, int, Tensor]]:
    """For every tap of the window, the (..., H', W') view of the padded x that it reads."""
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            yield row, column, x[..., rows, columns]


def _letters(weight: Tensor) -> str:
    return "ct" if weight.dim() == 5 else "c"


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in[, |G|], H, W), weight: (C_out, C_in[, |G|], K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    dtype, ct, lattice = x.dtype, _letters(weight), group.lattice
    x, weight = cosets.fold(widen(x), group), widen(weight)
    size = weight.shape[-1]
    padded = F.pad(x, [padding] * 4)
    height, width = ((length + 2 * padding - size) // stride + 1 for length in x.shape[-2:])
    out = x.new_zeros(x.shape[0], weight.shape[0], lattice.order, height, width)
    for g in lattice.elements:
        moved = lattice.act(weight, g)
        for row, column, window in _windows(padded, size, stride, height, width):
            out[:, :, g] += torch.einsum(f"n{ct}xy,o{ct}->noxy", window, moved[..., row, column])
    out = cosets.unfold(out, group)
    if bias is not None:
        out += widen(bias)[:, None, None, None]
    return out.to(dtype)


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x: every product is added back where x was read."""
    dtype, ct, lattice = grad_out.dtype, _letters(weight), group.lattice
    grad_out, weight = cosets.fold(widen(grad_out), group), widen(weight)
    shape = (grad_out.shape[0], *weight.shape[1:-2], height + 2 * padding, width + 2 * padding)
    padded = grad_out.new_zeros(shape)
    for g in lattice.elements:
        moved = lattice.act(weight, g)
        for row, column, window in _windows(padded, weight.shape[-1], stride, *grad_out.shape[-2:]):
            window += torch.einsum(f"noxy,o{ct}->n{ct}xy", grad_out[:, :, g], moved[..., row, column])
    return cosets.unfold(padded[..., padding : padding + height, padding : padding + width], group).to(dtype)


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight: (C_out, C_in[, |G|], K, K)."""
    dtype, ct, lattice = x.dtype, _letters(x), group.lattice
    x, grad_out = cosets.fold(widen(x), group), cosets.fold(widen(grad_out), group)
    padded = F.pad(x, [padding] * 4)
    total = x.new_zeros(grad_out.shape[1], *x.shape[1:-2], size, size)
    for g in lattice.elements:
        moved = torch.zeros_like(total)
        for row, column, window in _windows(padded, size, stride, *grad_out.shape[-2:]):
            moved[..., row, column] = torch.einsum(f"noxy,n{ct}xy->o{ct}", grad_out[:, :, g], window)
        total += lattice.act(moved, lattice.inverse(g))
    return total.to(dtype)


def _planes(x: Tensor, cosets: Cosets) -> Tensor:
    """(N, C, |G|, H, W) -> (N, C, cosets, members, H, W)."""
    planes = x.unbind(2)  # not indexed by a list, which would be copied to the device
    return torch.stack([planes[g] for members in cosets for g in members], dim=2).unflatten(2, (len(cosets), -1))


def group_pool(x: Tensor, cosets: Cosets, mode: str) -> tuple[Tensor, Tensor]:
    """x: (N, C, |G|, H, W) -> the pooled (N, C, cosets, H, W) and, for "max", which member won (uint8, same shape)."""
    planes = _planes(x, cosets)
    if mode == "mean":
        return widen(planes).mean(dim=3).to(x.dtype), x.new_empty(0, dtype=torch.uint8)
    best = planes[:, :, :, 0].clone()
    index = torch.zeros_like(best, dtype=torch.uint8)
    for member in range(1, planes.shape[3]):
        candidate = planes[:, :, :, member]
        better = (candidate > best) | (candidate.isnan() & ~best.isnan())
        best, index = torch.where(better, candidate, best), index.masked_fill(better, member)
    return best, index


def group_pool_backward(grad_out: Tensor, index: Tensor, cosets: Cosets, mode: str) -> Tensor:
    """The transpose of :func:`group_pool` at a fixed index: (N, C, |G|, H, W)."""
    n, c, _, height, width = grad_out.shape
    size = len(cosets[0])
    grad_x = grad_out.new_zeros(n, c, len(cosets) * size, height, width)
    for position, members in enumerate(cosets):
        for member, element in enumerate(members):
            share = grad_out[:, :, position]
            if mode == "mean":
                grad_x[:, :, element] = share / size
            else:
                grad_x[:, :, element] = share.masked_fill(index[:, :, position] != member, 0)
    return grad_x


def group_pool_select(x: Tensor, index: Tensor, cosets: Cosets) -> Tensor:
    """Reads the members that an earlier max pool chose: (N, C, cosets, H, W)."""
    return _planes(x, cosets).gather(3, index.long().unsqueeze(3)).squeeze(3)
