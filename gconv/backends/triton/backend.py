"""The portable GPU backend: the group-Fourier algorithm and pooling in Triton, on NVIDIA GPUs.

Importing this module does not import triton: the kernels, one module per op beside this one, load when they first run.
The maps that they get are in channels-last layout with the strides of gconv/layout.py, the filters contiguous, and
input gradients of stride 1. With TRITON_INTERPRET=1 in the environment before triton is imported, they run on CPU
tensors in triton's interpreter: for tests.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch import Tensor

from gconv.backends import nvidia
from gconv.backends.nvidia import DTYPES as DTYPES
from gconv.backends.triton import launch
from gconv.backends.zero_insertion import unit_stride
from gconv.groups import Cosets, PlanarGroup
from gconv.layout import canonical


def missing(x: Tensor) -> str | None:
    """Why this backend cannot run on tensors like x; None if it can."""
    if reason := launch.triton_missing():
        return reason
    if not (x.is_cuda or (x.is_cpu and launch.interpreted())):
        return nvidia.not_on_gpu(x)
    return nvidia.unfit(x) or nvidia.too_old(launch.capability(x))


def _kernels(stem: str) -> ModuleType:
    """The module of an op's kernels."""
    return import_module(f"gconv.backends.triton.{stem}")


def _convolution(map_rank: int) -> ModuleType:
    """The kernels of the convolution whose input, like its filter, has this rank."""
    return _kernels("group_conv2d" if map_rank == 5 else "lifting_conv2d")


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in[, |G|], H, W), weight: (C_out, C_in[, |G|], K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    bias = None if bias is None else bias.contiguous()
    run = _convolution(weight.dim()).conv2d
    return run(canonical(x), weight.contiguous(), bias, group, stride, padding)


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x: zero-insertion undoes the stride, the adjoint filter does the rest."""
    grad_out, padding = unit_stride(grad_out, weight.shape[-1], height, width, stride, padding)
    run = _convolution(weight.dim()).conv2d_input_grad
    return run(canonical(grad_out), weight.contiguous(), group, height, width, 1, padding)


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight: (C_out, C_in[, |G|], K, K)."""
    run = _convolution(x.dim()).conv2d_weight_grad
    return run(canonical(x), canonical(grad_out), group, size, stride, padding)


def group_pool(x: Tensor, cosets: Cosets, mode: str) -> tuple[Tensor, Tensor]:
    """x: (N, C, |G|, H, W) -> the pooled (N, C, cosets, H, W) and, for "max", which member won (uint8, same shape)."""
    return _kernels("group_pool").group_pool(canonical(x), cosets, mode)


def group_pool_backward(grad_out: Tensor, index: Tensor, cosets: Cosets, mode: str) -> Tensor:
    """The transpose of :func:`group_pool` at a fixed index: (N, C, |G|, H, W)."""
    index = canonical(index) if mode == "max" else index
    return _kernels("group_pool").group_pool_backward(canonical(grad_out), index, cosets, mode)


def group_pool_select(x: Tensor, index: Tensor, cosets: Cosets) -> Tensor:
    """Reads the members that an earlier max pool chose: (N, C, cosets, H, W)."""
    return _kernels("group_pool").group_pool_select(canonical(x), canonical(index), cosets)
