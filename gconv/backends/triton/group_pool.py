"""group_pool in Triton: maximum and mean over cosets, the scatter of their gradient, and the read at a fixed index.

A channels-last map is (N, |G|, H * W * C): the pixels and channels of an orientation are one contiguous axis of P
numbers here. A program owns a tile of images and of that axis, mostly of one image, and walks the planes, so that every
number moves once: the maximum reads |G| and writes one number and one byte per coset. That is all there is to do well;
the arithmetic, one comparison or addition per number read, is free. No atomics: deterministic. Positions have 64 bits.

Comparisons and sums are float32; the rules for ties and NaN are those of gconv/backends/reference.py.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gconv import layout
from gconv.backends.triton.launch import launch
from gconv.groups import Cosets

WARPS = 4
TILE_BYTES = 32 * WARPS * 16  # of a tile in one plane: the widest access of every thread


@triton.jit
def _tile(batch, plane, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The program's images (ROWS, 1), its places in a plane (1, COLUMNS), and which of them exist."""
    blocks = tl.cdiv(plane, COLUMNS)
    n = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    p = (tl.program_id(0) % blocks).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return n, p, (n < batch) & (p < plane)


@triton.jit
def _place(n, COSETS: tl.constexpr, COSET: tl.constexpr, MEMBER: tl.constexpr, plane):
    """Where image n's plane of a member of a coset begins."""
    return (n * (len(COSETS) * len(COSETS[0])) + COSETS[COSET][MEMBER]) * plane


@triton.jit
def _maximum(x, n, p, plane, mask, COSETS: tl.constexpr, COSET: tl.constexpr):
    """The largest of the members' numbers, float32, and which it was: the first of several, the first NaN if any."""
    best = tl.load(x + _place(n, COSETS, COSET, 0, plane) + p, mask).to(tl.float32)
    winner = tl.zeros_like(best).to(tl.uint8)
    for member in tl.static_range(1, len(COSETS[COSET])):
        value = tl.load(x + _place(n, COSETS, COSET, member, plane) + p, mask).to(tl.float32)
        better = (value > best) | ((value != value) & (best == best))
        best, winner = tl.where(better, value, best), tl.where(better, member, winner)
    return best, winner.to(tl.uint8)


@triton.jit
def max_kernel(x, out, index, batch, plane, COSETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    n, p, mask = _tile(batch, plane, ROWS, COLUMNS)
    for coset in tl.static_range(len(COSETS)):
        best, winner = _maximum(x, n, p, plane, mask, COSETS, coset)
        place = (n * len(COSETS) + coset) * plane + p
        tl.store(out + place, best.to(out.dtype.element_ty), mask)
        tl.store(index + place, winner, mask)


@triton.jit
def _sum(x, n, p, plane, mask, COSETS: tl.constexpr, COSET: tl.constexpr):
    total = tl.load(x + _place(n, COSETS, COSET, 0, plane) + p, mask).to(tl.float32)
    for member in tl.static_range(1, len(COSETS[COSET])):
        total += tl.load(x + _place(n, COSETS, COSET, member, plane) + p, mask).to(tl.float32)
    return total


@triton.jit
def mean_kernel(x, out, batch, plane, COSETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    n, p, mask = _tile(batch, plane, ROWS, COLUMNS)
    for coset in tl.static_range(len(COSETS)):
        total = _sum(x, n, p, plane, mask, COSETS, coset)
        mean = tl.div_rn(total, tl.full(total.shape, len(COSETS[0]), tl.float32))
        tl.store(out + (n * len(COSETS) + coset) * plane + p, mean.to(out.dtype.element_ty), mask)


@triton.jit
def max_backward_kernel(
    grad_out, index, grad_x, batch, plane, COSETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    n, p, mask = _tile(batch, plane, ROWS, COLUMNS)
    for coset in tl.static_range(len(COSETS)):
        place = (n * len(COSETS) + coset) * plane + p
        grad, winner = tl.load(grad_out + place, mask), tl.load(index + place, mask)
        for member in tl.static_range(len(COSETS[coset])):
            share = tl.where(winner == member, grad, tl.zeros_like(grad))
            tl.store(grad_x + _place(n, COSETS, coset, member, plane) + p, share, mask)


@triton.jit
def mean_backward_kernel(
    grad_out, grad_x, batch, plane, COSETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    n, p, mask = _tile(batch, plane, ROWS, COLUMNS)
    for coset in tl.static_range(len(COSETS)):
        grad = tl.load(grad_out + (n * len(COSETS) + coset) * plane + p, mask).to(tl.float32)
        share = tl.div_rn(grad, tl.full(grad.shape, len(COSETS[0]), tl.float32)).to(grad_x.dtype.element_ty)
        for member in tl.static_range(len(COSETS[coset])):
            tl.store(grad_x + _place(n, COSETS, coset, member, plane) + p, share, mask)


@triton.jit
def _select(x, n, p, plane, mask, winner, COSETS: tl.constexpr, COSET: tl.constexpr):
    chosen = tl.load(x + _place(n, COSETS, COSET, 0, plane) + p, mask)
    for member in tl.static_range(1, len(COSETS[COSET])):
        value = tl.load(x + _place(n, COSETS, COSET, member, plane) + p, mask)
        chosen = tl.where(winner == member, value, chosen)
    return chosen


@triton.jit
def select_kernel(x, index, out, batch, plane, COSETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Reads every plane: winners of neighbours differ, so that nearly every 32-byte sector holds one."""
    n, p, mask = _tile(batch, plane, ROWS, COLUMNS)
    for coset in tl.static_range(len(COSETS)):
        place = (n * len(COSETS) + coset) * plane + p
        winner = tl.load(index + place, mask)
        chosen = _select(x, n, p, plane, mask, winner, COSETS, coset)
        tl.store(out + place, chosen, mask)


def _launch(kernel: Any, like: Tensor, cosets: Cosets, *operands: Tensor) -> None:
    """Runs a kernel on maps with the batch, channels and pixels of ``like``."""
    batch, channels, _, height, width = like.shape
    plane = channels * height * width
    tile = TILE_BYTES // like.element_size()
    columns = min(triton.next_power_of_2(max(1, plane)), tile)
    rows = tile // columns
    grid = (triton.cdiv(batch, rows) * triton.cdiv(plane, columns),)
    launch(kernel, grid, *operands, batch, plane, COSETS=cosets, ROWS=rows, COLUMNS=columns, num_warps=WARPS)


def group_pool(x: Tensor, cosets: Cosets, mode: str) -> tuple[Tensor, Tensor]:
    """x: (N, C, |G|, H, W) -> the pooled (N, C, cosets, H, W) and, for "max", which member won (uint8, same shape)."""
    shape = (*x.shape[:2], len(cosets), *x.shape[3:])
    out = layout.empty(x, shape)
    if mode == "mean":
        _launch(mean_kernel, x, cosets, x, out)
        return out, x.new_empty(0, dtype=torch.uint8)
    index = layout.empty(x, shape, torch.uint8)
    _launch(max_kernel, x, cosets, x, out, index)
    return out, index


def group_pool_backward(grad_out: Tensor, index: Tensor, cosets: Cosets, mode: str) -> Tensor:
    """The transpose of :func:`group_pool` at a fixed index: (N, C, |G|, H, W)."""
    order = len(cosets) * len(cosets[0])
    grad_x = layout.empty(grad_out, (*grad_out.shape[:2], order, *grad_out.shape[3:]))
    if mode == "mean":
        _launch(mean_backward_kernel, grad_out, cosets, grad_out, grad_x)
    else:
        _launch(max_backward_kernel, grad_out, cosets, grad_out, index, grad_x)
    return grad_x


def group_pool_select(x: Tensor, index: Tensor, cosets: Cosets) -> Tensor:
    """Reads the members that an earlier max pool chose: (N, C, cosets, H, W)."""
    out = layout.empty(x, tuple(index.shape))
    _launch(select_kernel, x, cosets, x, index, out)
    return out
