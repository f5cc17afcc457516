"""Lifting convolution in Triton: out(x, s) = sum_d f(x + s d) W(d), and its two gradients.

Every element s of the lattice subgroup permutes the K x K window, so all planes read the same patch of the image,
P(x, d) = f(x + d), through permuted rows of one filter matrix W (K^2 C_in x C_out). The kernels read a tile of patches
once for all planes and look up row s^-1 d where they load the filter: no bank is written. Taps and input channels
are one axis of the products, "rows", padded to a power of two >= 16: 3 x 3 taps of 3 channels are one step of 32.

    forward      out(x, s) = P(x) W_s             W_s(d) = W(s^-1 d)
    input_grad   dP(x) = sum_s g(x, s) W_s^T      df(p) = sum_d dP((p + padding - d) / stride, d)
    weight_grad  D_s = sum_x P(x)^T g(x, s)       dW(d) = sum_s D_s(s d)

Per pixel, at b bytes a number, forward reads C_in b bytes of the image, whose K^2 readers meet in the caches, and
writes |G| C_out b. The gradients read those |G| C_out b once per 32 (weight_grad) or 64 to 128 (input_grad) rows.
input_grad also writes dP, 4 K^2 C_in bytes, and reads it back while it is in the second-level cache. Each does
2 K^2 C_in |G| C_out FLOPs, 2 K^2 C_in / b per byte: 27 for 3 x 3 taps of 3 channels in half precision, where an H200's
tensor cores do 200 in the time of a byte. All three are bound by memory, and the tiles move whole lines of the maps:

    kernel        a program makes, in float32             and loops over                    programs
    forward       128 pixels x 64 channels                planes, rows up to 128 at a time  pixels, channels
    patch_grad    128 pixels x 128 rows of dP             planes, steps of 64 channels      pixels, rows
    fold_patches  256 pixels of one channel               taps                              pixels, channels
    weight_grad   32 rows x 256 (plane, channel) of D     a part's steps of 32 pixels       parts, columns, rows
    sum_parts     16 elements of dW                       planes, steps of 64 parts         elements

in half precision; float32 takes fewer rows and columns, and without tf32 is at the limit of the FMA units instead.

All are deterministic: nothing is added atomically, and how the pixels are split depends on the shapes alone. The maps
are channels last, (N, |G|, H, W, C_out) in memory; plane s m + c is coset c of element s of the lattice subgroup, whose
filter has channel c C_out + o for it (gconv/cosets.py). Offsets between pixels are 64 bit; an image has less than 2^31.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv

from gconv import cosets, layout
from gconv.backends.triton.launch import launch, precision
from gconv.groups import PlanarGroup

_PROGRAMS = 264  # of weight_grad: two per multiprocessor of an H200
_PATCHES_BYTES = 2**25  # of dP at a time, which an A100's second-level cache of 40 MB holds


class _Tile(NamedTuple):
    """Lengths of a tile of the products, powers of two >= 16; columns are output channels, or (plane, channel)."""

    pixels: int
    rows: int
    columns: int

    @property
    def options(self) -> dict[str, int]:
        return {"PIXELS": self.pixels, "ROWS": self.rows, "COLUMNS": self.columns, "num_warps": 8}


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in, H, W) of any strides, weight: (m C_out, C_in, K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    (batch, c_in, height, width), size, c_out = x.shape, weight.shape[-1], weight.shape[0] // group.coset_count
    out_height, out_width = ((length + 2 * padding - size) // stride + 1 for length in (height, width))
    out = layout.empty(x, (batch, c_out, group.order, out_height, out_width))
    tile = _forward_tile(x, size**2 * c_in, c_out)
    launch(
        _forward, (cdiv(batch * out_height * out_width, tile.pixels), cdiv(c_out, tile.columns)),
        x, _rows(weight), weight if bias is None else bias, out, batch, height, width, out_height, out_width,
        *_dividers(out_height, out_width), *x.stride(), stride, padding,
        HAS_BIAS=bias is not None, BACK=_actions(group, inverse=True), PRECISION=precision(x),
        **_sizes(size, c_in, c_out, group), **tile.options,
    )  # fmt: skip
    return out


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x, for any stride and padding; grad_out in channels-last layout."""
    (batch, c_out, *_, out_height, out_width), (_, c_in, _, size) = grad_out.shape, weight.shape
    grad_x = layout.empty(grad_out, (batch, c_in, height, width))
    taps, rows = _rows(weight), size**2 * c_in
    tile = _patch_tile(grad_out, rows, c_out)
    images = max(1, _PATCHES_BYTES // (4 * rows * out_height * out_width))
    for grad_part, part in zip(grad_out.split(images), grad_x.split(images), strict=True):
        count = len(part)
        pixels = count * out_height * out_width
        grad_patches = grad_out.new_empty((rows, pixels), dtype=torch.float32)
        launch(
            _patch_grad, (cdiv(pixels, tile.pixels), cdiv(rows, tile.rows)),
            grad_part, taps, grad_patches, count, out_height, out_width, *_dividers(out_height, out_width),
            BACK=_actions(group, inverse=True), PRECISION=precision(grad_out),
            **_sizes(size, c_in, c_out, group), **tile.options,
        )  # fmt: skip
        launch(
            _fold_patches, (cdiv(count * height * width, 256), c_in),
            grad_patches, part, count, height, width, out_height, out_width, *_dividers(height, width), stride, padding,
            SIZE=size, C_IN=c_in, PIXELS=256, num_warps=4,
        )  # fmt: skip
    return grad_x


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight; x of any strides, grad_out in channels-last layout."""
    (batch, c_in, height, width), (_, c_out, *_, out_height, out_width) = x.shape, grad_out.shape
    grad_weight = x.new_empty(cosets.filter_shape(c_out, x.shape, size, group))
    rows, columns = size**2 * c_in, group.order * c_out
    tile = _gradient_tile(x, rows, columns)
    blocks = cdiv(columns, tile.columns), cdiv(rows, tile.rows)
    steps = cdiv(batch * out_height * out_width, tile.pixels)
    steps_per_part = max(1, cdiv(steps, max(1, _PROGRAMS // (blocks[0] * blocks[1]))))
    parts = cdiv(steps, steps_per_part)
    partial = x.new_empty((parts, rows, columns), dtype=torch.float32)
    sizes = _sizes(size, c_in, c_out, group)
    launch(
        _weight_grad, (parts, *blocks),
        x, grad_out, partial, batch, height, width, out_height, out_width, *_dividers(out_height, out_width),
        *x.stride(), stride, padding, steps_per_part,
        PRECISION=precision(x), **sizes, **tile.options,
    )  # fmt: skip
    launch(
        _sum_parts, (cdiv(grad_weight.numel(), 16),),
        partial, grad_weight, parts,
        FORTH=_actions(group, inverse=False), **sizes, PARTS=64, ELEMENTS=16, num_warps=4,
    )  # fmt: skip
    return grad_weight


def _rows(weight: Tensor) -> Tensor:
    """The filter with its output channels adjacent: (K, K, C_in, m C_out), read K^2 C_in rows at a time."""
    return weight.permute(2, 3, 1, 0).contiguous()


def _sizes(size: int, c_in: int, c_out: int, group: PlanarGroup) -> dict[str, int]:
    return {"SIZE": size, "C_IN": c_in, "C_OUT": c_out, "ORDER": group.order, "COSETS": group.coset_count}


def _actions(group: PlanarGroup, inverse: bool) -> tuple[int, ...]:
    """The four entries of the lattice elements' matrices, or of their inverses, one number each.

    Bits 2 s and 2 s + 1 hold element s's entry plus one, so that a kernel can look up any element's (_entry).
    """
    lattice = group.lattice
    codes = [0] * 4
    for s in lattice.elements:
        upper, lower = lattice.matrix(lattice.inverse(s) if inverse else s)
        codes = [code | int(entry + 1) << 2 * s for code, entry in zip(codes, upper + lower, strict=True)]
    return tuple(codes)


def _dividers(height: int, width: int) -> tuple[int, int]:
    """For _divided: by the pixels of an image, by its width."""
    return _divider(height * width), _divider(width)


def _divider(d: int) -> int:
    """m + 2^32 (k + 1) with n // d = n m // 2^(31 + k) for 0 <= n < 2^31 (Granlund & Montgomery 1994, theorem 4.2).

    k = ceil(log2 d) and m = ceil(2^(31 + k) / d), which is in [2^31, 2^32). The 1 makes it 64 bit for every d.
    """
    k = (d - 1).bit_length()
    return -(-(2 ** (31 + k)) // d) + (k + 1 << 32)


def _ceil(length: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(length)))


def _forward_tile(x: Tensor, rows: int, c_out: int) -> _Tile:
    """All rows in one step, whose patches then stay, if registers hold them; else short steps."""
    half = x.element_size() == 2
    if rows <= (128 if half else 32):
        return _Tile(128, _ceil(rows, 128), _ceil(c_out, 64))
    return _Tile(128, 32, _ceil(c_out, 64 if half else 32))


def _patch_tile(x: Tensor, rows: int, c_out: int) -> _Tile:
    """Of patch_grad, which reads grad_out once per tile of rows."""
    return _Tile(128, _ceil(rows, 128 if x.element_size() == 2 else 64), _ceil(c_out, 64))


def _gradient_tile(x: Tensor, rows: int, columns: int) -> _Tile:
    """Of weight_grad; at most 128 registers, so that two programs run per multiprocessor."""
    return _Tile(32, _ceil(rows, 32), _ceil(columns, 256 if x.element_size() == 2 else 128))


@triton.jit
def _divided(n, divider):
    """n // d for 0 <= n < 2^31, in two instructions instead of some 25; see _divider."""
    high = tl.umulhi(2 * n.to(tl.uint32), divider.to(tl.uint32))
    return (high >> ((divider >> 32) - 1).to(tl.uint32)).to(tl.int32)


@triton.jit
def _first(tile, area, PIXELS: tl.constexpr):
    """Image (64 bit), and pixel in it, of a tile's first pixel; pixels are numbered through the batch."""
    first = tl.cast(tile, tl.int64) * PIXELS
    image = first // area
    return image, (first - image * area).to(tl.int32)


@triton.jit
def _pixels(image, pixel, area, width, by_area, by_width, PIXELS: tl.constexpr):
    """A tile's pixels, the first of which is given: number and image (64 bit), row and column."""
    lane = tl.arange(0, PIXELS)
    number = image * area + pixel + lane
    pixel += lane
    later = _divided(pixel, by_area)
    pixel -= later * area
    row = _divided(pixel, by_width)
    return number, image + later, row, pixel - row * width


@triton.jit
def _patches(
    source, image, row, column, rows, batch, height, width, step_n, step_c, step_y, step_x, stride, padding,
    SIZE: tl.constexpr, C_IN: tl.constexpr,
):  # fmt: skip
    """P transposed, (rows, pixels): a warp reads neighbouring pixels, and what depends on the row is uniform in it."""
    tap, channel = rows // C_IN, rows % C_IN
    up, across = tap // SIZE, tap % SIZE
    top, left = row * stride - padding, column * stride - padding
    y, x = top[None, :] + up[:, None], left[None, :] + across[:, None]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    inside &= (image < batch)[None, :] & (rows < SIZE * SIZE * C_IN)[:, None]
    corner = image * step_n + top.to(tl.int64) * step_y + left.to(tl.int64) * step_x
    offset = channel.to(tl.int64) * step_c + up.to(tl.int64) * step_y + across.to(tl.int64) * step_x
    return tl.load(source + corner[None, :] + offset[:, None], mask=inside, other=0.0)


@triton.jit
def _entry(codes, element):
    return ((codes >> (2 * element)) & 3) - 1


@triton.jit
def _moved(rows, element, ACTIONS: tl.constexpr, SIZE: tl.constexpr, C_IN: tl.constexpr):
    """The rows of the same channels at the moved taps; offsets from the centre are doubled, halves if K is even."""
    tap, channel = rows // C_IN, rows % C_IN
    y, x = 2 * (tap // SIZE) - (SIZE - 1), 2 * (tap % SIZE) - (SIZE - 1)
    moved_y = _entry(ACTIONS[0], element) * y + _entry(ACTIONS[1], element) * x
    moved_x = _entry(ACTIONS[2], element) * y + _entry(ACTIONS[3], element) * x
    return ((moved_y + (SIZE - 1)) // 2 * SIZE + (moved_x + (SIZE - 1)) // 2) * C_IN + channel


@triton.jit
def _taps(
    weight, rows, channels, plane,
    BACK: tl.constexpr, SIZE: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr, COSETS: tl.constexpr,
):  # fmt: skip
    """W_s of a plane, (rows, channels): row d is row s^-1 d of the filter."""
    row = _moved(rows, plane // COSETS, BACK, SIZE, C_IN)
    source = weight + plane % COSETS * C_OUT + (row * (COSETS * C_OUT))[:, None] + channels[None, :]
    return tl.load(source, mask=(rows < SIZE * SIZE * C_IN)[:, None] & (channels < C_OUT)[None, :], other=0.0)


@triton.jit
def _forward(
    x, weight, bias, out,
    batch, height, width, out_height, out_width, by_area, by_width, step_n, step_c, step_y, step_x, stride, padding,
    HAS_BIAS: tl.constexpr, BACK: tl.constexpr,
    SIZE: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr, ORDER: tl.constexpr, COSETS: tl.constexpr,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of pixels and channels of out, all planes: the patches stay, if one step holds them."""
    KEPT: tl.constexpr = ROWS >= SIZE * SIZE * C_IN
    area = out_height * out_width
    start, pixel = _first(tl.program_id(0), area, PIXELS)
    number, image, row, column = _pixels(start, pixel, area, out_width, by_area, by_width, PIXELS)
    channels = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if KEPT:
        rows = tl.arange(0, ROWS)
        patches = _patches(
            x, image, row, column, rows, batch, height, width, step_n, step_c, step_y, step_x, stride, padding,
            SIZE, C_IN,
        )  # fmt: skip
    target = out + ((number + image * (ORDER - 1) * area) * C_OUT)[:, None] + channels[None, :]
    for plane in range(ORDER):
        if KEPT:
            taps = _taps(weight, rows, channels, plane, BACK, SIZE, C_IN, C_OUT, COSETS)
            total = tl.dot(tl.trans(patches), taps, input_precision=PRECISION)
        else:
            total = tl.zeros([PIXELS, COLUMNS], tl.float32)
            for first in range(0, SIZE * SIZE * C_IN, ROWS):
                step = first + tl.arange(0, ROWS)
                part = _patches(
                    x, image, row, column, step, batch, height, width, step_n, step_c, step_y, step_x, stride, padding,
                    SIZE, C_IN,
                )  # fmt: skip
                taps = _taps(weight, step, channels, plane, BACK, SIZE, C_IN, C_OUT, COSETS)
                total = tl.dot(tl.trans(part), taps, total, input_precision=PRECISION)
        if HAS_BIAS:  # a plain sum becomes the product's first operand, and ptxas serialises wgmma (C7511)
            total -= -tl.load(bias + channels, mask=channels < C_OUT, other=0.0)[None, :]
        stored = (image < batch)[:, None] & (channels < C_OUT)[None, :]
        tl.store(target + tl.cast(plane * C_OUT, tl.int64) * area, total.to(out.dtype.element_ty), mask=stored)


@triton.jit
def _patch_grad(
    grad_out, weight, grad_patches, batch, out_height, out_width, by_area, by_width,
    BACK: tl.constexpr,
    SIZE: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr, ORDER: tl.constexpr, COSETS: tl.constexpr,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile of dP, (rows, pixels) in memory: the sum over planes and channels reads grad_out once."""
    BLOCKS: tl.constexpr = (C_OUT + COLUMNS - 1) // COLUMNS
    area = out_height * out_width
    start, pixel = _first(tl.program_id(0), area, PIXELS)
    number, image, _, _ = _pixels(start, pixel, area, out_width, by_area, by_width, PIXELS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    source = grad_out + (number + image * (ORDER - 1) * area) * C_OUT
    total = tl.zeros([PIXELS, ROWS], tl.float32)
    for step in range(ORDER * BLOCKS):
        plane = step // BLOCKS
        channels = step % BLOCKS * COLUMNS + tl.arange(0, COLUMNS)
        gradient = tl.load(
            (source + tl.cast(plane * C_OUT, tl.int64) * area)[:, None] + channels[None, :],
            mask=(image < batch)[:, None] & (channels < C_OUT)[None, :], other=0.0,
        )  # fmt: skip
        taps = _taps(weight, rows, channels, plane, BACK, SIZE, C_IN, C_OUT, COSETS)
        total = tl.dot(gradient, tl.trans(taps), total, input_precision=PRECISION)
    target = grad_patches + (rows.to(tl.int64) * batch * area)[None, :] + number[:, None]
    tl.store(target, total, mask=(image < batch)[:, None] & (rows < SIZE * SIZE * C_IN)[None, :])


@triton.jit
def _fold_patches(
    grad_patches, grad_x, batch, height, width, out_height, out_width, by_area, by_width, stride, padding,
    SIZE: tl.constexpr, C_IN: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """Pixels of a channel of grad_x: each sums what it was to the patches that read it, tap by tap."""
    area = height * width
    start, pixel = _first(tl.program_id(0), area, PIXELS)
    number, image, row, column = _pixels(start, pixel, area, width, by_area, by_width, PIXELS)
    channel = tl.program_id(1)
    pixels = tl.cast(out_height, tl.int64) * out_width * batch
    total = tl.zeros([PIXELS], tl.float32)
    for tap in range(SIZE * SIZE):
        y, x = row + padding - tap // SIZE, column + padding - tap % SIZE
        read = (image < batch) & (y >= 0) & (x >= 0) & (y % stride == 0) & (x % stride == 0)
        read &= (y // stride < out_height) & (x // stride < out_width)
        source = (tap * C_IN + channel) * pixels + (image * out_height + y // stride) * out_width + x // stride
        total += tl.load(grad_patches + source, mask=read, other=0.0)
    tl.store(grad_x + number * C_IN + channel, total.to(grad_x.dtype.element_ty), mask=image < batch)


@triton.jit
def _weight_grad(
    x, grad_out, partial,
    batch, height, width, out_height, out_width, by_area, by_width, step_n, step_c, step_y, step_x, stride, padding,
    steps,
    SIZE: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr, ORDER: tl.constexpr, COSETS: tl.constexpr,
    PRECISION: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A part's D, rows x (plane, channel): the sum over its tiles of pixels."""
    area = out_height * out_width
    part = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    source = grad_out + (columns // C_OUT).to(tl.int64) * area * C_OUT + columns % C_OUT
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    start, pixel = _first(part * steps, area, PIXELS)
    for _ in range(steps):
        number, image, row, column = _pixels(start, pixel, area, out_width, by_area, by_width, PIXELS)
        patches = _patches(
            x, image, row, column, rows, batch, height, width, step_n, step_c, step_y, step_x, stride, padding,
            SIZE, C_IN,
        )  # fmt: skip
        gradient = tl.load(
            source[None, :] + ((number + image * (ORDER - 1) * area) * C_OUT)[:, None],
            mask=(image < batch)[:, None] & (columns < ORDER * C_OUT)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(patches, gradient, total, input_precision=PRECISION)
        later = _divided(pixel + PIXELS, by_area)
        start, pixel = start + later, pixel + PIXELS - later * area
    target = partial + ((part * (SIZE * SIZE * C_IN) + rows) * (ORDER * C_OUT))[:, None] + columns[None, :]
    tl.store(target, total, mask=(rows < SIZE * SIZE * C_IN)[:, None] & (columns < ORDER * C_OUT)[None, :])


@triton.jit
def _sum_parts(
    partial, grad_weight, parts,
    FORTH: tl.constexpr,
    SIZE: tl.constexpr, C_IN: tl.constexpr, C_OUT: tl.constexpr, ORDER: tl.constexpr, COSETS: tl.constexpr,
    PARTS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Elements of the filter's gradient (m C_out, C_in, K, K): the sum over parts of D_s(s d), always in this order."""
    element = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)
    tap, channel = element % (SIZE * SIZE), element // (SIZE * SIZE)
    filter_channel, row = channel // C_IN, tap * C_IN + channel % C_IN
    valid = filter_channel < COSETS * C_OUT
    total = tl.zeros([ELEMENTS], tl.float32)
    for s in tl.static_range(ORDER // COSETS):
        source = _moved(row, s, FORTH, SIZE, C_IN) * (ORDER * C_OUT) + s * COSETS * C_OUT + filter_channel
        for first in range(0, parts, PARTS):
            part = (first + tl.arange(0, PARTS)).to(tl.int64)
            lane = partial + (part * (ORDER * C_OUT * SIZE * SIZE * C_IN))[:, None] + source[None, :]
            total += tl.sum(tl.load(lane, mask=(part < parts)[:, None] & valid[None, :], other=0.0), axis=0)
    tl.store(grad_weight + element, total.to(grad_weight.dtype.element_ty), mask=valid)
