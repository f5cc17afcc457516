"""The native CPU engine: the group-Fourier algorithm in C++ (csrc/cpu), called on raw pointers.

The gradient in the input is a convolution with the adjoint filter, so the native code has one convolution and one
filter gradient; see the derivation in csrc/cpu/engine.h. Half precision is computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gconv import build, cosets, layout
from gconv.backends.zero_insertion import unit_stride
from gconv.groups import Cosets, PlanarGroup

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}

_native: Any = build.native()


def missing(x: Tensor) -> str | None:
    """Why this backend cannot run on tensors like x; None if it can."""
    if reason := build.native_missing():
        return reason
    if not x.is_cpu:
        return f"it runs on CPU tensors, and x is on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"it knows {', '.join(DTYPES.values())}, and x is {x.dtype}"
    return None


def fma_peak(threads: int) -> float:
    """FLOP/s of float32 multiply-adds in registers, with the instruction set in use: the ceiling of every kernel."""
    return _native.fma_peak(threads)


@contextmanager
def profile() -> Iterator[dict[str, float]]:
    """Times the stages of every native convolution in the block; not for use from several threads at once.

    Yields:
        A dict that is filled on exit: stage ("pack filter", "gather" with the butterflies, "multiply", "epilogue",
        "gradient", "unpack filter") to seconds, summed over threads.
    """
    stages: dict[str, float] = {}
    _native.profile(True)
    try:
        yield stages
    finally:
        _native.profile(False)
        stages.update(_native.profile_seconds())


@cache
def _native_group(group: PlanarGroup) -> Any:
    """The tables of the lattice subgroup that the native code derives its transforms from."""
    group = group.lattice
    elements = group.elements
    product = np.array([[group.product(a, b) for b in elements] for a in elements], dtype=np.int32)
    action = np.array([group.matrix(g) for g in elements], dtype=np.int32)
    irreps = [(np.array(irrep.matrices, dtype=np.int8), irrep.columns) for irrep in group.irreps]
    return _native.Group(product, action, irreps)


@cache
def _native_cosets(cosets: Cosets) -> Any:
    return np.array(cosets, dtype=np.int32)


def _channels_last(x: Tensor) -> Tensor:
    """x itself if its channels are adjacent in memory, else a channels-last copy."""
    if x.stride(1) == 1 or x.shape[1] == 1:
        return x
    return x.contiguous(memory_format=layout.memory_format(x.dim()))


View = tuple[int, tuple[int, ...], tuple[int, ...]]


def _view(x: Tensor, dtype: torch.dtype) -> View:
    """What the native code needs of a tensor; the stride of a single channel is arbitrary in torch and 1 there.

    x must be a variable of the caller, or a view of one: the address of a temporary is free before the native code
    reads it. The dtype is checked here because the native code cannot, and the torch ops can be called past
    gconv.functional's checks.
    """
    if x.dtype != dtype or not x.is_cpu:
        raise TypeError(f"cpu backend: every operand must be {dtype} on cpu, got {x.dtype} on {x.device}")
    strides = x.stride()
    if x.dim() >= 4 and x.shape[1] == 1:
        strides = (strides[0], 1, *strides[2:])
    return x.data_ptr(), x.shape, strides


def _views(first: Tensor, *others: Tensor | None) -> tuple[View | None, ...]:
    """The views of tensors that must all have the first one's dtype; None stays None."""
    return tuple(None if x is None else _view(x, first.dtype) for x in (first, *others))


def _operands(x: Tensor, weight: Tensor, group: PlanarGroup, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """x with adjacent channels, and the tensor for the output."""
    (batch, *_, height, width), (c_out, *_, size) = x.shape, weight.shape
    margin = 2 * padding - size
    height, width = (height + margin) // stride + 1, (width + margin) // stride + 1
    shape = (batch, c_out // group.coset_count, group.order, height, width)
    return _channels_last(x), x.new_empty_strided(shape, layout.strides(shape))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in[, |G|], H, W), weight: (C_out, C_in[, |G|], K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    x, out = _operands(x, weight, group, stride, padding)
    weight = weight.contiguous()
    run = _native.group_conv2d if weight.dim() == 5 else _native.lifting_conv2d
    bias = None if bias is None else bias.contiguous()
    run(
        _native_group(group), DTYPES[x.dtype], *_views(cosets.split(x, group), weight, bias, cosets.split(out, group)),
        stride, padding, torch.get_num_threads(),
    )  # fmt: skip
    return out


def pack(weight: Tensor, group: PlanarGroup) -> Any:
    """The filter in the Fourier domain, for :func:`conv2d_packed`; weight is (C_out, C_in[, |G|], K, K), contiguous."""
    run = _native.pack_group_conv2d if weight.dim() == 5 else _native.pack_lifting_conv2d
    blocks = group.coset_count if weight.dim() == 5 else 1
    view = _view(weight, weight.dtype)
    return run(_native_group(group), DTYPES[weight.dtype], view, blocks, torch.get_num_threads())


def packing_state() -> object:
    """What a packed filter depends on besides the weight and the group: the kernels' order of its numbers."""
    return _native.instruction_set()


def conv2d_packed(
    x: Tensor, weight: Tensor, packed: Any, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int
) -> Tensor:
    """As :func:`conv2d`, with what :func:`pack` made of the weight."""
    x, out = _operands(x, weight, group, stride, padding)
    bias = None if bias is None else bias.contiguous()
    _native.conv2d_packed(
        packed, DTYPES[x.dtype], *_views(cosets.split(x, group), bias, cosets.split(out, group)),
        stride, padding, torch.get_num_threads(),
    )  # fmt: skip
    return out


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x: zero-insertion undoes the stride, the adjoint filter does the rest."""
    size = weight.shape[-1]
    grad_out, padding = unit_stride(grad_out, size, height, width, stride, padding)
    grad_out, weight = _channels_last(grad_out), weight.contiguous()
    grad_x = layout.empty(grad_out, cosets.input_shape(weight, group, grad_out.shape[0], height, width))
    run = _native.lifting_conv2d_adjoint if weight.dim() == 4 else _native.group_conv2d_adjoint
    run(
        _native_group(group), DTYPES[grad_out.dtype],
        *_views(cosets.split(grad_out, group), weight, cosets.split(grad_x, group)),
        size - 1 - padding, torch.get_num_threads(),
    )  # fmt: skip
    return grad_x


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight: (C_out, C_in[, |G|], K, K)."""
    x, grad_out = _channels_last(x), _channels_last(grad_out)
    grad_weight = x.new_empty(cosets.filter_shape(grad_out.shape[1], x.shape, size, group))
    run = _native.group_conv2d_weight_grad if x.dim() == 5 else _native.lifting_conv2d_weight_grad
    run(
        _native_group(group), DTYPES[x.dtype],
        *_views(cosets.split(x, group), cosets.split(grad_out, group), grad_weight),
        stride, padding, torch.get_num_threads(),
    )  # fmt: skip
    return grad_weight


def group_pool(x: Tensor, cosets: Cosets, mode: str) -> tuple[Tensor, Tensor]:
    """x: (N, C, |G|, H, W) -> the pooled (N, C, cosets, H, W) and, for "max", which member won (uint8, same shape)."""
    x = _channels_last(x)
    shape = (*x.shape[:2], len(cosets), *x.shape[3:])
    out = layout.empty(x, shape)
    index = layout.empty(x, shape, torch.uint8) if mode == "max" else x.new_empty(0, dtype=torch.uint8)
    _native.group_pool(
        DTYPES[x.dtype], *_views(x, out), _view(index, torch.uint8) if mode == "max" else None,
        _native_cosets(cosets), mode, torch.get_num_threads(),
    )  # fmt: skip
    return out, index


def group_pool_backward(grad_out: Tensor, index: Tensor, cosets: Cosets, mode: str) -> Tensor:
    """The transpose of :func:`group_pool` at a fixed index: (N, C, |G|, H, W)."""
    grad_out, index = _channels_last(grad_out), _channels_last(index) if mode == "max" else index
    order = len(cosets) * len(cosets[0])
    grad_x = layout.empty(grad_out, (*grad_out.shape[:2], order, *grad_out.shape[3:]))
    _native.group_pool_backward(
        DTYPES[grad_out.dtype], _view(grad_out, grad_out.dtype), _view(index, torch.uint8) if mode == "max" else None,
        _view(grad_x, grad_out.dtype), _native_cosets(cosets), mode, torch.get_num_threads(),
    )  # fmt: skip
    return grad_x


def group_pool_select(x: Tensor, index: Tensor, cosets: Cosets) -> Tensor:
    """Reads the members that an earlier max pool chose: (N, C, cosets, H, W)."""
    x, index = _channels_last(x), _channels_last(index)
    out = layout.empty(x, tuple(index.shape))
    _native.group_pool_select(
        DTYPES[x.dtype], _view(x, x.dtype), _view(index, torch.uint8), _view(out, x.dtype),
        _native_cosets(cosets), torch.get_num_threads(),
    )  # fmt: skip
    return out
