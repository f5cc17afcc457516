"""The filter of a group convolution in the Fourier domain: made of the layer's, and its gradient taken back.

Both kernels walk the packed filter, What[row][out channel][tap][in channel], whose channels are padded to whole blocks
coset by coset: COSETS out_chunks tiles of ROWS BLOCK_OUT lines, size^2 COSETS in_chunks BLOCK_IN columns.
The layer's filter is an (out, in, plane, tap) array of any out and in stride, so that the adjoint is the same kernel
with the strides exchanged, planes inverted and the window read backwards: W*_d(s) = W(-d, s^-1)^T.
"""

# mypy: disable-error-code="assignment"
# (the kernels build tuples one tensor at a time, and triton reads no annotation of theirs)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gconv.backends.triton import launch
from gconv.backends.triton.fourier import Spectrum
from gconv.backends.triton.planes import doubled_tap, moved_tap

_LINES, _COLUMNS = 16, 32  # of a program: every row of so many out and in channels, of one tap


@triton.jit
def weight_tap(tap, size, MATRICES: tl.constexpr, INVERSES: tl.constexpr, ADJOINT: tl.constexpr, s: tl.constexpr):
    """Where W_d(s), or that of the adjoint, is in a filter of |H| windows."""
    if ADJOINT:
        return INVERSES[s] * size * size + (size * size - 1 - tap)
    else:
        tap_row, tap_column = doubled_tap(tap, size)
        row, column = moved_tap(tap_row, tap_column, size, MATRICES, s)
        return (s * size + row) * size + column


@triton.jit
def channels_of(places, channels, chunks, COSETS: tl.constexpr, BLOCK: tl.constexpr):
    """Of places along a padded axis: the layer's channel, and whether there is one."""
    channel = places % (chunks * BLOCK)
    return places // (chunks * BLOCK) * channels + channel, (channel < channels) & (places < COSETS * chunks * BLOCK)


@triton.jit
def row_of_what(planes, FILTER: tl.constexpr, DENOMINATORS: tl.constexpr, r: tl.constexpr):
    """What_r = sum_s FILTER[r][s] W(s) / DENOMINATORS[r]."""
    total = tl.zeros_like(planes[0])
    for s in tl.static_range(len(FILTER[r])):
        if FILTER[r][s] != 0:
            total += planes[s] * FILTER[r][s]
    return total / DENOMINATORS[r]


@triton.jit
def plane_of_gradient(rows, FILTER: tl.constexpr, DENOMINATORS: tl.constexpr, s: tl.constexpr):
    """The transpose: gW(s) = sum_r FILTER[r][s] gWhat_r / DENOMINATORS[r]."""
    total = tl.zeros_like(rows[0])
    for r in tl.static_range(len(FILTER)):
        if FILTER[r][s] != 0:
            total += rows[r] * (FILTER[r][s] / DENOMINATORS[r])
    return total


@triton.jit
def block_of(
    c_out, c_in, out_stride, in_stride, COSETS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """This program's lines and columns of the packed filter, both as channels: where the layer's filter has their
    window, and whether it has.
    """
    lines = tl.program_id(0) * LINES + tl.arange(0, LINES)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    out_channel, has_out = channels_of(lines, c_out, tl.cdiv(c_out, BLOCK_OUT), COSETS, BLOCK_OUT)
    in_channel, has_in = channels_of(columns, c_in, tl.cdiv(c_in, BLOCK_IN), COSETS, BLOCK_IN)
    start = out_channel.to(tl.int64)[:, None] * out_stride + in_channel.to(tl.int64)[None, :] * in_stride
    return lines, columns, start, has_out[:, None] & has_in[None, :]


@triton.jit
def place_in_row(lines, columns, tap, row_length, size, ROWS: tl.constexpr, r: tl.constexpr, BLOCK_OUT: tl.constexpr):
    """Where the packed filter has row r of these channels, for a tap."""
    line = (lines // BLOCK_OUT * ROWS + r) * BLOCK_OUT + lines % BLOCK_OUT
    return line.to(tl.int64)[:, None] * (size * size * row_length) + (tap * row_length + columns)[None, :]


@triton.jit
def pack_kernel(
    weight, filter, c_out, c_in, out_stride, in_stride, size,
    ORDER: tl.constexpr, COSETS: tl.constexpr, MATRICES: tl.constexpr, INVERSES: tl.constexpr, FILTER: tl.constexpr,
    DENOMINATORS: tl.constexpr, ADJOINT: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The layer's filter to What."""
    lines, columns, start, exists = block_of(
        c_out, c_in, out_stride, in_stride, COSETS, BLOCK_OUT, BLOCK_IN, LINES, COLUMNS
    )
    line_count = COSETS * tl.cdiv(c_out, BLOCK_OUT) * BLOCK_OUT
    row_length = COSETS * tl.cdiv(c_in, BLOCK_IN) * BLOCK_IN
    inside = (lines < line_count)[:, None] & (columns < row_length)[None, :]
    tap = tl.program_id(2)
    planes = ()
    for s in tl.static_range(ORDER):
        place = start + weight_tap(tap, size, MATRICES, INVERSES, ADJOINT, s)
        planes += (tl.load(weight + place, exists, other=0.0).to(tl.float32),)
    for r in tl.static_range(len(FILTER)):
        place = place_in_row(lines, columns, tap, row_length, size, len(FILTER), r, BLOCK_OUT)
        tl.store(filter + place, row_of_what(planes, FILTER, DENOMINATORS, r).to(filter.dtype.element_ty), inside)


@triton.jit
def unpack_gradient_kernel(
    sums, grad_weight, splits, c_out, c_in, out_stride, in_stride, size,
    ORDER: tl.constexpr, COSETS: tl.constexpr, MATRICES: tl.constexpr, INVERSES: tl.constexpr, FILTER: tl.constexpr,
    DENOMINATORS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr,
    LINES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient in What, summed over the splits in their order, to the gradient in the layer's filter."""
    lines, columns, start, exists = block_of(
        c_out, c_in, out_stride, in_stride, COSETS, BLOCK_OUT, BLOCK_IN, LINES, COLUMNS
    )
    line_count = COSETS * tl.cdiv(c_out, BLOCK_OUT) * BLOCK_OUT
    row_length = COSETS * tl.cdiv(c_in, BLOCK_IN) * BLOCK_IN
    split_length = line_count.to(tl.int64) * len(FILTER) * size * size * row_length
    tap = tl.program_id(2)
    rows = ()
    for r in tl.static_range(len(FILTER)):
        place = place_in_row(lines, columns, tap, row_length, size, len(FILTER), r, BLOCK_OUT)
        total = tl.zeros((LINES, COLUMNS), tl.float32)
        for split in range(splits):
            total += tl.load(sums + split * split_length + place, exists, other=0.0)
        rows += (total,)
    for s in tl.static_range(ORDER):
        place = start + weight_tap(tap, size, MATRICES, INVERSES, False, s)
        value = plane_of_gradient(rows, FILTER, DENOMINATORS, s)
        tl.store(grad_weight + place, value.to(grad_weight.dtype.element_ty), exists)


def cdiv(length: int, block: int) -> int:
    """How many blocks hold it."""
    return -(-length // block)


@dataclass(frozen=True)
class Packing:
    """The shape of What in memory: the channels of one coset padded to whole blocks."""

    spectrum: Spectrum
    cosets: int
    c_out: int
    c_in: int
    size: int
    block_out: int
    block_in: int

    @property
    def out_tiles(self) -> int:
        """Blocks of output channels."""
        return self.cosets * cdiv(self.c_out, self.block_out)

    @property
    def in_tiles(self) -> int:
        """Blocks of input channels."""
        return self.cosets * cdiv(self.c_in, self.block_in)

    @property
    def steps(self) -> int:
        """Blocks of input channels of all taps: the length of the sum."""
        return self.size**2 * self.in_tiles

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_tiles * len(self.spectrum.rows) * self.block_out, self.steps * self.block_in

    @property
    def grid(self) -> tuple[int, int, int]:
        """Of the kernels here: lines, columns, taps."""
        lines, columns = self.out_tiles * self.block_out, self.in_tiles * self.block_in
        return cdiv(lines, _LINES), cdiv(columns, _COLUMNS), self.size**2

    def constants(self) -> dict[str, Any]:
        """What the kernels here are specialised for."""
        tables = self.spectrum
        return {
            "ORDER": tables.order,
            "COSETS": self.cosets,
            "MATRICES": tables.matrices,
            "INVERSES": tables.inverses,
            "FILTER": tables.rows,
            "DENOMINATORS": tables.denominators,
            "BLOCK_OUT": self.block_out,
            "BLOCK_IN": self.block_in,
            "LINES": _LINES,
            "COLUMNS": _COLUMNS,
        }


def pack(weight: Tensor, packing: Packing, dtype: torch.dtype, adjoint: bool) -> Tensor:
    """What of a filter (m C_out, m C_in, |H|, K, K), or of its adjoint, whose in and out channels are exchanged."""
    filter = weight.new_empty(packing.shape, dtype=dtype)
    strides = weight.stride()[:2]
    launch.launch(
        pack_kernel, packing.grid, weight, filter, packing.c_out, packing.c_in,
        *(reversed(strides) if adjoint else strides), packing.size,
        **packing.constants(), ADJOINT=adjoint, num_warps=4,
    )  # fmt: skip
    return filter


def unpack_gradient(sums: Tensor, packing: Packing, dtype: torch.dtype) -> Tensor:
    """The layer's gradient (m C_out, m C_in, |H|, K, K) of gradients in What, one per split: (splits, *shape)."""
    tables, m = packing.spectrum, packing.cosets
    shape = (m * packing.c_out, m * packing.c_in, tables.order, packing.size, packing.size)
    grad_weight = sums.new_empty(shape, dtype=dtype)
    launch.launch(
        unpack_gradient_kernel, packing.grid, sums, grad_weight, sums.shape[0], packing.c_out, packing.c_in,
        *grad_weight.stride()[:2], packing.size, **packing.constants(), num_warps=4,
    )  # fmt: skip
    return grad_weight
