"""Group convolution in the group-Fourier domain: the kernels, and what launches them. fourier.py has the algebra.

One program computes A for IMAGES x HEIGHT x WIDTH pixels, BLOCK_OUT channels of one coset and every coefficient. Per
tap and BLOCK_IN input channels it reads |H| planes, each at its rotated tap, and the filter's tiles:

    gathered planes --butterflies--> U, to shared memory --.
                                        filter tiles ------+--> A[block] += tile U[b]^T, float32, in registers

    bytes per step    2 BLOCK_IN (|H| PIXELS + rows BLOCK_OUT)         rows of What: C4 6, D4 8
    FLOPs per step    2 BLOCK_IN PIXELS BLOCK_OUT products             products:     C4 6, D4 12
    accumulators      |H| PIXELS BLOCK_OUT / threads registers each: 128 at 64 x 128 (C4), 64 x 64 (D4) and 256 threads

The product is transposed, channels by pixels: the butterflies' results are then its right operand, which wgmma wants in
shared memory. As its left operand they would stay in registers, and ptxas serialises such a loop (C7513, C7515).
The gradient in the filter is one product over pixels per tap and row of What, of the coefficients of grad_out and of x.
"""

# mypy: disable-error-code="assignment"
# (the kernels build tuples one tensor at a time, and triton reads no annotation of theirs)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from gconv import layout
from gconv.backends.triton import launch
from gconv.backends.triton.filter import Packing, cdiv, pack, unpack_gradient
from gconv.backends.triton.fourier import Spectrum, spectrum
from gconv.backends.triton.planes import doubled_tap, moved_tap, replaced, transform, transposed_transform
from gconv.backends.triton.tiles import forward_tile, weight_grad_tile
from gconv.groups import PlanarGroup


@triton.jit
def zero_accumulators(BLOCKS: tl.constexpr, BLOCK_OUT: tl.constexpr, PIXELS: tl.constexpr):
    """Per block of coefficients one accumulator, its coefficients one below the other."""
    accumulators = ()
    for k in tl.static_range(len(BLOCKS)):
        accumulators += (tl.zeros((len(BLOCKS[k]) * BLOCK_OUT, PIXELS), tl.float32),)
    return accumulators


@triton.jit
def load_plane(
    x, x_map, tile, plane, row, column, channel, height, width, channels, PIXELS: tl.constexpr, BLOCK: tl.constexpr
):
    """(PIXELS, BLOCK) of a plane, so many rows and columns away from the pixels of the tile; zero outside."""
    if x_map is None:
        place, tile_rows, tile_columns, exists = tile[3], tile[4], tile[5], tile[6]
        inside_rows = (tile_rows >= -row) & (tile_rows < height - row)
        inside_columns = (tile_columns >= -column) & (tile_columns < width - column)
        inside = exists & inside_rows & inside_columns
        in_plane = (plane.to(tl.int64) * height + row) * width + column
        channel_range = channel + tl.arange(0, BLOCK)
        mask = inside[:, None] & (channel_range < channels)[None, :]
        return tl.load(x + ((place + in_plane) * channels)[:, None] + channel_range[None, :], mask, other=0.0)
    else:
        return x_map.load([tile[0], plane, tile[1] + row, tile[2] + column, channel]).reshape(PIXELS, BLOCK)


@triton.jit
def gathered_plane(
    x, x_map, tile, tap_row, tap_column, coset, channel, height, width, channels, size, padding,
    COSETS: tl.constexpr, MATRICES: tl.constexpr, h: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """u_d(x, h) = f(x + h d, h) for one (doubled) tap d and some channels of one coset."""
    row, column = moved_tap(tap_row, tap_column, size, MATRICES, h)
    return load_plane(
        x, x_map, tile, h * COSETS + coset, row - padding, column - padding, channel,
        height, width, channels, PIXELS, BLOCK,
    )  # fmt: skip


@triton.jit
def pixels_of(
    pixel_tile, batch, out_height, out_width, height, width, stride, PLANES: tl.constexpr,
    IMAGES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A tile of output pixels in a map of height x width: its first image, row and column, and for every pixel the
    place in plane 0, the row, the column, and whether there is such an output.
    """
    tile_columns = tl.cdiv(out_width, WIDTH)
    tile_rows = tl.cdiv(out_height, HEIGHT)
    first_image = pixel_tile // tile_columns // tile_rows * IMAGES
    first_row = pixel_tile // tile_columns % tile_rows * HEIGHT
    first_column = pixel_tile % tile_columns * WIDTH
    pixel = tl.arange(0, IMAGES * HEIGHT * WIDTH)
    image = first_image + pixel // (HEIGHT * WIDTH)
    row = first_row + pixel // WIDTH % HEIGHT
    column = first_column + pixel % WIDTH
    exists = (image < batch) & (row < out_height) & (column < out_width)
    place = (image.to(tl.int64) * PLANES * height + row * stride) * width + column * stride
    return first_image, first_row, first_column, place, row * stride, column * stride, exists


@triton.jit
def load_tile(
    filter, row_map, pair_map, first_row, column, row_length,
    TILES: tl.constexpr, t: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """The rows of What in tile t for BLOCK_OUT x BLOCK_IN channels, one row below the other."""
    row = first_row + TILES[t][0] * BLOCK_OUT
    if row_map is None:
        rows = row + tl.arange(0, len(TILES[t]) * BLOCK_OUT)
        columns = column + tl.arange(0, BLOCK_IN)
        return tl.load(filter + rows[:, None].to(tl.int64) * row_length + columns[None, :])
    elif len(TILES[t]) == 1:
        return row_map.load([row, column])
    else:
        return pair_map.load([row, column])


@triton.jit
def multiply_tile(accumulators, tile, coefficients, OPERANDS: tl.constexpr, t: tl.constexpr, PRECISION: tl.constexpr):
    """A[block] += tile U[b]^T for the operands (t, b, block)."""
    for k in tl.static_range(len(OPERANDS)):
        if OPERANDS[k][0] == t:
            accumulators = multiply(accumulators, OPERANDS[k][2], tile, coefficients[OPERANDS[k][1]].T, PRECISION)
    return accumulators


@triton.jit
def multiply(accumulators, k: tl.constexpr, left, right, PRECISION: tl.constexpr):
    """The accumulators with left times right added to the k-th."""
    return replaced(accumulators, k, tl.dot(left, right, accumulators[k], input_precision=PRECISION))


@triton.jit
def separated(accumulators, BLOCKS: tl.constexpr, ORDER: tl.constexpr):
    """The accumulators as one (BLOCK_OUT, PIXELS) plane per coefficient."""
    planes = (accumulators[0],) * ORDER  # places, every one filled below
    for k in tl.static_range(len(BLOCKS)):
        planes = placed(planes, accumulators[k], BLOCKS, k)
    return planes


@triton.jit
def placed(planes, accumulator, BLOCKS: tl.constexpr, k: tl.constexpr):
    if len(BLOCKS[k]) == 1:
        return replaced(planes, BLOCKS[k][0], accumulator)
    else:
        HALF: tl.constexpr = accumulator.shape[0] // 2
        PIXELS: tl.constexpr = accumulator.shape[1]
        first, second = accumulator.reshape(2, HALF, PIXELS).permute(1, 2, 0).split()
        return replaced(replaced(planes, BLOCKS[k][0], first), BLOCKS[k][1], second)


@triton.jit
def group_conv2d_kernel(
    x, filter, bias, out, x_map, row_map, pair_map,
    batch, in_height, in_width, out_height, out_width, c_in, c_out, size, stride, padding,
    ORDER: tl.constexpr, COSETS: tl.constexpr, BUTTERFLIES: tl.constexpr, MATRICES: tl.constexpr,
    BLOCKS: tl.constexpr, TILES: tl.constexpr, OPERANDS: tl.constexpr, ROWS: tl.constexpr,
    IMAGES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The forward pass; x_map, row_map and pair_map are tensor descriptors, or None."""
    PIXELS: tl.constexpr = IMAGES * HEIGHT * WIDTH
    PLANES: tl.constexpr = ORDER * COSETS
    out_chunks = tl.cdiv(c_out, BLOCK_OUT)
    out_tiles = COSETS * out_chunks
    out_tile = tl.program_id(0) % out_tiles
    pixel_tile = tl.program_id(0) // out_tiles
    pixels = pixels_of(
        pixel_tile, batch, out_height, out_width, in_height, in_width, stride, PLANES, IMAGES, HEIGHT, WIDTH
    )
    in_chunks = tl.cdiv(c_in, BLOCK_IN)
    steps = size * size * COSETS * in_chunks
    accumulators = zero_accumulators(BLOCKS, BLOCK_OUT, PIXELS)
    for step in range(steps):
        tap_row, tap_column = doubled_tap(step // (COSETS * in_chunks), size)
        coset = step // in_chunks % COSETS
        channel = step % in_chunks * BLOCK_IN
        planes = ()
        for h in tl.static_range(ORDER):
            planes += (
                gathered_plane(
                    x, x_map, pixels, tap_row, tap_column, coset, channel, in_height, in_width, c_in, size, padding,
                    COSETS, MATRICES, h, PIXELS, BLOCK_IN,
                ),
            )  # fmt: skip
        coefficients = transform(planes, BUTTERFLIES)
        for t in tl.static_range(len(TILES)):
            tile = load_tile(
                filter, row_map, pair_map, out_tile * (ROWS * BLOCK_OUT), step * BLOCK_IN, steps * BLOCK_IN,
                TILES, t, BLOCK_IN, BLOCK_OUT,
            )  # fmt: skip
            accumulators = multiply_tile(accumulators, tile, coefficients, OPERANDS, t, PRECISION)

    planes = transposed_transform(separated(accumulators, BLOCKS, ORDER), BUTTERFLIES)
    channels = out_tile % out_chunks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    shift = tl.zeros((BLOCK_OUT,), tl.float32)
    if bias is not None:
        shift += tl.load(bias + channels, channels < c_out, other=0.0).to(tl.float32)
    outputs = pixels_of(
        pixel_tile, batch, out_height, out_width, out_height, out_width, 1, PLANES, IMAGES, HEIGHT, WIDTH
    )
    mask = outputs[6][:, None] & (channels < c_out)[None, :]
    for h in tl.static_range(ORDER):
        plane = (h * COSETS + out_tile // out_chunks).to(tl.int64) * out_height * out_width
        value = (planes[h].T + shift[None, :]).to(out.dtype.element_ty)
        tl.store(out + ((outputs[3] + plane) * c_out)[:, None] + channels[None, :], value, mask)


@triton.jit
def transform_map_kernel(
    x, out, plane_length, ORDER: tl.constexpr, COSETS: tl.constexpr, BUTTERFLIES: tl.constexpr, LENGTH: tl.constexpr
):
    """The coefficients of a map, plane by plane where its elements were."""
    blocks = tl.cdiv(plane_length, LENGTH)
    image = (tl.program_id(0) // blocks // COSETS).to(tl.int64)
    coset = tl.program_id(0) // blocks % COSETS
    place = tl.program_id(0) % blocks * LENGTH + tl.arange(0, LENGTH)
    planes = ()
    for h in tl.static_range(ORDER):
        start = ((image * ORDER + h) * COSETS + coset) * plane_length
        planes += (tl.load(x + start + place, place < plane_length, other=0.0).to(tl.float32),)
    coefficients = transform(planes, BUTTERFLIES)
    for h in tl.static_range(ORDER):
        start = ((image * ORDER + h) * COSETS + coset) * plane_length
        tl.store(out + start + place, coefficients[h].to(out.dtype.element_ty), place < plane_length)


@triton.jit
def weight_grad_kernel(
    x, grad, sums, x_map, grad_map,
    batch, in_height, in_width, out_height, out_width, c_in, c_out, size, stride, padding, tiles_per_split,
    ORDER: tl.constexpr, COSETS: tl.constexpr, BUTTERFLIES: tl.constexpr, MATRICES: tl.constexpr,
    BLOCKS: tl.constexpr, TILES: tl.constexpr, OPERANDS: tl.constexpr, ROWS: tl.constexpr,
    IMAGES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient in What over some of the pixels, of one tap; grad holds the coefficients of grad_out.

    sums: (splits, out_tiles * ROWS * BLOCK_OUT, steps * BLOCK_IN) float32, each split as the forward pass's filter.
    """
    PIXELS: tl.constexpr = IMAGES * HEIGHT * WIDTH
    PLANES: tl.constexpr = ORDER * COSETS
    out_chunks = tl.cdiv(c_out, BLOCK_OUT)
    in_chunks = tl.cdiv(c_in, BLOCK_IN)
    out_tiles = COSETS * out_chunks
    steps = size * size * COSETS * in_chunks
    out_tile = tl.program_id(0) % out_tiles
    step = tl.program_id(0) // out_tiles
    tap_row, tap_column = doubled_tap(step // (COSETS * in_chunks), size)
    coset = step // in_chunks % COSETS
    channel = step % in_chunks * BLOCK_IN
    out_channel = out_tile % out_chunks * BLOCK_OUT
    pixel_tiles = tl.cdiv(batch, IMAGES) * tl.cdiv(out_height, HEIGHT) * tl.cdiv(out_width, WIDTH)
    first_tile = tl.program_id(1) * tiles_per_split
    accumulators = ()
    for _ in tl.static_range(ROWS):
        accumulators += (tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32),)
    for pixel_tile in range(first_tile, tl.minimum(first_tile + tiles_per_split, pixel_tiles)):
        inputs = pixels_of(
            pixel_tile, batch, out_height, out_width, in_height, in_width, stride, PLANES, IMAGES, HEIGHT, WIDTH
        )
        outputs = pixels_of(
            pixel_tile, batch, out_height, out_width, out_height, out_width, 1, PLANES, IMAGES, HEIGHT, WIDTH
        )
        planes = ()
        grads = ()
        for h in tl.static_range(ORDER):
            planes += (
                gathered_plane(
                    x, x_map, inputs, tap_row, tap_column, coset, channel, in_height, in_width, c_in, size, padding,
                    COSETS, MATRICES, h, PIXELS, BLOCK_IN,
                ),
            )  # fmt: skip
            grads += (
                load_plane(
                    grad, grad_map, outputs, h * COSETS + out_tile // out_chunks, 0, 0, out_channel,
                    out_height, out_width, c_out, PIXELS, BLOCK_OUT,
                ).T,
            )  # fmt: skip
        coefficients = transform(planes, BUTTERFLIES)
        for k in tl.static_range(len(OPERANDS)):
            accumulators = multiply_rows(accumulators, grads, coefficients, BLOCKS, TILES, OPERANDS, k, PRECISION)

    columns = step * BLOCK_IN + tl.arange(0, BLOCK_IN)
    for r in tl.static_range(ROWS):
        rows = (tl.program_id(1) * out_tiles + out_tile).to(tl.int64) * (ROWS * BLOCK_OUT)
        rows += r * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
        tl.store(sums + rows[:, None] * (steps * BLOCK_IN) + columns[None, :], accumulators[r])


@triton.jit
def multiply_rows(
    accumulators, grads, coefficients, BLOCKS: tl.constexpr, TILES: tl.constexpr, OPERANDS: tl.constexpr,
    k: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What[a, b] += gA[a]^T U[b] for the rows of the tile of operand k and the coefficients a of its block."""
    for i in tl.static_range(len(TILES[OPERANDS[k][0]])):
        accumulators = multiply(
            accumulators,
            TILES[OPERANDS[k][0]][i],
            grads[BLOCKS[OPERANDS[k][2]][i]],
            coefficients[OPERANDS[k][1]],
            PRECISION,
        )
    return accumulators


_PROGRAMS = 1024  # of the gradient in the filter: as many splits as make this many, some eight per multiprocessor
_LENGTH = 1024  # of a program that transforms a map


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in, |G|, H, W), weight: (C_out, C_in, |G|, K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    height, width = ((length + 2 * padding - weight.shape[-1]) // stride + 1 for length in x.shape[-2:])
    return _convolve(x, weight, bias, group, height, width, stride, padding, adjoint=False)


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x at stride 1: the same kernel with the adjoint filter."""
    margin = weight.shape[-1] - 1 - padding
    return _convolve(grad_out, weight, None, group, height, width, stride, margin, adjoint=True)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, height: int, width: int, stride: int,
    padding: int, *, adjoint: bool,
) -> Tensor:  # fmt: skip
    tables, cosets = spectrum(group.lattice), group.coset_count
    batch, c_in = x.shape[:2]
    c_out = weight.shape[1 if adjoint else 0] // cosets
    tile = forward_tile(x, tables.order, c_in, c_out)
    packing = Packing(tables, cosets, c_out, c_in, weight.shape[-1], tile.block_out, tile.block_in)
    filter = pack(weight, packing, x.dtype, adjoint)
    out = layout.empty(x, (batch, c_out, group.order, height, width))
    shape = tile.shape(height, width)
    x_map = map_descriptor(x, shape, tile.block_in) if stride == 1 else None
    row_map, pair_map = filter_descriptors(filter, packing, x_map)
    grid = (packing.out_tiles * _pixel_tiles(out, shape),)
    launch.launch(
        group_conv2d_kernel, grid, x, filter, bias, out, x_map, row_map, pair_map,
        batch, *x.shape[-2:], height, width, c_in, c_out, packing.size, stride, padding,
        **_constants(packing), **shape, PRECISION=launch.precision(x), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight: (C_out, C_in, |G|, K, K); the same bits every time."""
    tables, cosets = spectrum(group.lattice), group.coset_count
    (batch, c_in), c_out = x.shape[:2], grad_out.shape[1]
    tile = weight_grad_tile(x, tables.order, c_in, c_out)
    packing = Packing(tables, cosets, c_out, c_in, size, tile.block_out, tile.block_in)
    grad = transform_map(grad_out, tables, cosets)
    shape = tile.shape(*grad_out.shape[-2:])
    pixel_tiles, programs = _pixel_tiles(grad_out, shape), packing.out_tiles * packing.steps
    tiles_per_split = cdiv(pixel_tiles, max(1, _PROGRAMS // programs))
    splits = cdiv(pixel_tiles, tiles_per_split) if pixel_tiles else 0
    sums = x.new_empty((splits, *packing.shape), dtype=torch.float32)
    x_map = map_descriptor(x, shape, tile.block_in) if stride == 1 else None
    grad_map = map_descriptor(grad, shape, tile.block_out)
    launch.launch(
        weight_grad_kernel, (programs, splits), x, grad, sums, x_map, grad_map,
        batch, *x.shape[-2:], *grad_out.shape[-2:], c_in, c_out, size, stride, padding, tiles_per_split,
        **_constants(packing), **shape, PRECISION=launch.precision(x), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return unpack_gradient(sums, packing, x.dtype)


def transform_map(x: Tensor, tables: Spectrum, cosets: int) -> Tensor:
    """The coefficients of a map over the lattice group, each in the place of a plane."""
    if not tables.butterflies:
        return x
    out = torch.empty_like(x)
    length = x.shape[1] * x.shape[-2] * x.shape[-1]
    grid = (x.shape[0] * cosets * cdiv(length, _LENGTH),)
    launch.launch(
        transform_map_kernel, grid, x, out, length, ORDER=tables.order, COSETS=cosets, BUTTERFLIES=tables.butterflies,
        LENGTH=_LENGTH, num_warps=4,
    )  # fmt: skip
    return out


def _pixel_tiles(out: Tensor, shape: dict[str, int]) -> int:
    height, width = out.shape[-2:]
    return cdiv(out.shape[0], shape["IMAGES"]) * cdiv(height, shape["HEIGHT"]) * cdiv(width, shape["WIDTH"])


def _constants(packing: Packing) -> dict[str, Any]:
    """What both kernels are specialised for."""
    tables = packing.spectrum
    return {
        "ORDER": tables.order,
        "COSETS": packing.cosets,
        "BUTTERFLIES": tables.butterflies,
        "MATRICES": tables.matrices,
        "BLOCKS": tables.blocks,
        "TILES": tables.tiles,
        "OPERANDS": tables.operands,
        "ROWS": len(tables.rows),
        "BLOCK_IN": packing.block_in,
        "BLOCK_OUT": packing.block_out,
    }


def map_descriptor(x: Tensor, shape: dict[str, int], block: int) -> TensorDescriptor | None:
    """For copies by the tensor memory accelerator, which needs Hopper and strides of whole 16 bytes; else None."""
    batch, channels, planes, height, width = x.shape
    if launch.capability(x) < (9, 0) or channels * x.element_size() % 16 or x.data_ptr() % 16 or not x.numel():
        return None
    row = width * channels
    return TensorDescriptor(
        x,
        [batch, planes, height, width, channels],
        [planes * height * row, height * row, row, channels, 1],
        [shape["IMAGES"], 1, shape["HEIGHT"], shape["WIDTH"], block],
    )


def filter_descriptors(
    filter: Tensor, packing: Packing, x_map: TensorDescriptor | None
) -> tuple[TensorDescriptor | None, TensorDescriptor | None]:
    """Of the packed filter, for tiles of one row and of two; None for tiles that there are not, or if x_map is.

    The kernel's arguments one by one: triton's launcher unpacks no descriptors from a tuple.
    """
    if x_map is None:
        return None, None
    shape, strides = list(filter.shape), list(filter.stride())
    lengths = set(map(len, packing.spectrum.tiles))
    row_map, pair_map = (
        TensorDescriptor(filter, shape, strides, [rows * packing.block_out, packing.block_in])
        if rows in lengths
        else None
        for rows in (1, 2)
    )
    return row_map, pair_map
