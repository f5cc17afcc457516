"""The CUDA C++ kernels (csrc/cuda), called on raw pointers: the group-Fourier algorithm on NVIDIA GPUs.

They are convolutions of stride 1 with filters of up to 5 x 5, and pooling; :func:`uncovered` says what they are not,
which runs on the dense backend. Maps are in channels-last layout with the strides of gconv/layout.py, and filters
contiguous. Everything is queued on torch's current stream, and nothing waits for it, so that CUDA graphs record it.

The tests' build of the kernels runs them on CPU tensors.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gconv import build, cosets, layout
from gconv.backends import dense, nvidia
from gconv.backends.nvidia import DTYPES as DTYPES
from gconv.groups import Cosets, PlanarGroup
from gconv.layout import canonical

if TYPE_CHECKING:
    from gconv.backends import Work

LARGEST = 5  # filter size
ALIGNMENT = 16  # bytes: what the kernels copy at once
_WORKSPACE_ALIGNMENT = 1024
# Compute capability, multiprocessors, and bytes of shared memory that a block may have.
Device = tuple[int, int, int]
EMULATED: Device = (90, 3, 232448)  # an H200, but for the number of its multiprocessors


def missing(x: Tensor) -> str | None:
    """Why this backend cannot run on tensors like x; None if it can."""
    if reason := build.cuda_missing():
        return reason
    native = _native()
    if native.emulated:
        return nvidia.unfit(x) if x.is_cpu else f"it is emulated on the CPU, and x is on {x.device.type}"
    if not x.is_cuda:
        return nvidia.not_on_gpu(x)
    return nvidia.unfit(x) or nvidia.too_old(nvidia.capability(x.device.index)) or _no_device()


def uncovered(work: Work, x: Tensor) -> str | None:
    """Why a pass, on tensors like x that are not :func:`missing`, has no kernel here; None if it has one."""
    if work.operation == "group_pool":
        return None
    if reason := _uncovered(work.size, work.stride):
        return reason
    m, margin = work.blocks, work.size - 1
    return _convolution(
        work.group, work.operation == "lifting_conv2d", DTYPES[work.dtype], m, max(1, work.batch),
        work.c_in if work.operation == "lifting_conv2d" else work.c_in // m, work.c_out // m,
        work.height + margin, work.width + margin, work.size, 0, _device(x), nvidia.allows_tf32(x),
    ).missing() or None  # fmt: skip


def _uncovered(size: int, stride: int) -> str | None:
    if stride > 1:
        return f"its kernels have stride 1, not {stride}: dense does that"
    if size > LARGEST:
        return f"its kernels have filters of up to {LARGEST} x {LARGEST}, not {size} x {size}: dense does that"
    return None


def _native() -> Any:
    return build.cuda()


@cache
def _no_device() -> str | None:
    """Why the kernels' own CUDA runtime, which may want a newer driver than torch's, finds no device, or None."""
    return _native().error() or None


def _device(x: Tensor) -> Device:
    """The device that the kernels on x are planned for."""
    return _cuda_device(x.device.index) if x.is_cuda else EMULATED


@cache
def _cuda_device(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    major, minor = nvidia.capability(index)
    shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]  # torch's stub lacks it
    return 10 * major + minor, properties.multi_processor_count, shared


@lru_cache(maxsize=4096)
def _convolution(
    group: str, lifting: bool, dtype: str, m: int, batch: int, c_in: int, c_out: int, height: int, width: int,
    size: int, padding: int, device: Device, tf32: bool,
) -> Any:  # fmt: skip
    """The native plan of a convolution and its gradients; height and width of its input."""
    native = _native()
    return native.Convolution(
        group, lifting, dtype, m, batch, c_in, c_out, height, width, size, padding, native.Device(*device), tf32
    )


def _plan(
    shape: tuple[int, ...], weight_shape: tuple[int, ...], like: Tensor, group: PlanarGroup, stride: int, padding: int
) -> Any | None:
    """Of the convolution of an input by a filter with these shapes; None if it has no kernel or nothing to do."""
    (batch, c_in, *_, height, width), size = shape, weight_shape[-1]
    if batch == 0 or _uncovered(size, stride):
        return None
    m = group.coset_count
    plan = _convolution(
        group.lattice.name, len(weight_shape) == 4, DTYPES[like.dtype], m, batch, c_in, weight_shape[0] // m,
        height, width, size, padding, _device(like), nvidia.allows_tf32(like),
    )  # fmt: skip
    return None if plan.missing() else plan


def _aligned(x: Tensor) -> Tensor:
    """x, or a copy if its memory begins where the kernels cannot copy from."""
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def _map(x: Tensor) -> Tensor:
    return _aligned(canonical(x))


def _stream(x: Tensor) -> int:
    return torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0


def _workspace(x: Tensor, bytes_needed: int) -> tuple[Tensor, int]:
    """Memory beside x, to be kept until it is used, and an address in it that the kernels' alignment divides."""
    memory = torch.empty(bytes_needed + _WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=x.device)
    return memory, -(-memory.data_ptr() // _WORKSPACE_ALIGNMENT) * _WORKSPACE_ALIGNMENT


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in[, |G|], H, W), weight: (C_out, C_in[, |G|], K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    plan = _plan(tuple(x.shape), tuple(weight.shape), x, group, stride, padding)
    if plan is None:
        return dense.conv2d(x, weight, bias, group, stride, padding)
    return _forward(plan, x, weight, bias, group, padding, group.order)


def unfused(x: Tensor, weight: Tensor, group: PlanarGroup, stride: int, padding: int, pool: str | None) -> str | None:
    """Why :func:`conv2d_epilogue` does not take a convolution on tensors that are not :func:`missing`, or None."""
    if pool is not None and not group.is_lattice:
        return f"cuda's kernel pools over what one thread holds, the lattice subgroup, and not over {group.name}"
    if _plan(tuple(x.shape), tuple(weight.shape), x, group, stride, padding) is None:
        return "cuda has no kernel for the convolution"
    return None


def conv2d_epilogue(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    padding: int,
    negative_slope: float | None,
    pool: str | None,
) -> Tensor:
    """:func:`conv2d` of stride 1, LeakyReLU and group_pool: (N, C_out, |G|, H', W'), or (N, C_out, 1, H', W') pooled.

    All in float32, rounded once. Only for what is not :func:`unfused`.
    """
    plan = _plan(tuple(x.shape), tuple(weight.shape), x, group, 1, padding)
    assert plan is not None
    planes = group.order if pool is None else 1
    slope = 1.0 if negative_slope is None else negative_slope
    return _forward(plan, x, weight, bias, group, padding, planes, slope, pool or "")


def _forward(
    plan: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    padding: int,
    planes: int,
    *epilogue: float | str,
) -> Tensor:
    """Runs a plan's forward pass; the output has so many planes."""
    margin = 2 * padding - weight.shape[-1] + 1
    shape = (x.shape[0], weight.shape[0] // group.coset_count, planes, x.shape[-2] + margin, x.shape[-1] + margin)
    x, weight, out = _map(x), _aligned(weight.contiguous()), layout.empty(x, shape)
    bias = None if bias is None else bias.contiguous()
    with nvidia.on_device_of(x):
        _memory, workspace = _workspace(x, plan.workspace("forward"))
        bias_address = 0 if bias is None else bias.data_ptr()
        plan.forward(x.data_ptr(), weight.data_ptr(), bias_address, out.data_ptr(), workspace, _stream(x), *epilogue)
    return out


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x."""
    shape = cosets.input_shape(weight, group, grad_out.shape[0], height, width)
    plan = _plan(shape, tuple(weight.shape), weight, group, stride, padding)
    if plan is None:
        return dense.conv2d_input_grad(grad_out, weight, group, height, width, stride, padding)
    grad_out, weight, grad_x = _map(grad_out), _aligned(weight.contiguous()), layout.empty(grad_out, shape)
    with nvidia.on_device_of(grad_out):
        _memory, workspace = _workspace(grad_out, plan.workspace("input_grad"))
        plan.input_grad(grad_out.data_ptr(), weight.data_ptr(), grad_x.data_ptr(), workspace, _stream(grad_out))
    return grad_x


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight: (C_out, C_in[, |G|], K, K)."""
    shape = cosets.filter_shape(grad_out.shape[1], x.shape, size, group)
    plan = _plan(tuple(x.shape), shape, x, group, stride, padding)
    if plan is None:
        return dense.conv2d_weight_grad(x, grad_out, group, size, stride, padding)
    grad_weight = x.new_empty(shape)
    x, grad_out = _map(x), _map(grad_out)
    with nvidia.on_device_of(x):
        _memory, workspace = _workspace(x, plan.workspace("weight_grad"))
        plan.weight_grad(x.data_ptr(), grad_out.data_ptr(), grad_weight.data_ptr(), workspace, _stream(x))
    return grad_weight


def _planes(x: Tensor) -> tuple[int, int]:
    """Images, and numbers in a plane, of a map (N, C, planes, H, W)."""
    batch, channels, _, height, width = x.shape
    return batch, channels * height * width


def group_pool(x: Tensor, cosets: Cosets, mode: str) -> tuple[Tensor, Tensor]:
    """x: (N, C, |G|, H, W) -> the pooled (N, C, cosets, H, W) and, for "max", which member won (uint8, same shape)."""
    x = _map(x)
    shape = (*x.shape[:2], len(cosets), *x.shape[3:])
    out = layout.empty(x, shape)
    index = layout.empty(x, shape, torch.uint8) if mode == "max" else x.new_empty(0, dtype=torch.uint8)
    if x.numel():
        with nvidia.on_device_of(x):
            _native().group_pool(
                DTYPES[x.dtype], x.data_ptr(), out.data_ptr(), index.data_ptr(), *_planes(x), cosets, mode, _stream(x)
            )
    return out, index


def group_pool_backward(grad_out: Tensor, index: Tensor, cosets: Cosets, mode: str) -> Tensor:
    """The transpose of :func:`group_pool` at a fixed index: (N, C, |G|, H, W)."""
    grad_out, index = _map(grad_out), _map(index) if mode == "max" else index
    order = sum(map(len, cosets))
    grad_x = layout.empty(grad_out, (*grad_out.shape[:2], order, *grad_out.shape[3:]))
    if grad_x.numel():
        with nvidia.on_device_of(grad_out):
            _native().group_pool_backward(
                DTYPES[grad_out.dtype], grad_out.data_ptr(), index.data_ptr(), grad_x.data_ptr(), *_planes(grad_x),
                cosets, mode, _stream(grad_out),
            )  # fmt: skip
    return grad_x


def group_pool_select(x: Tensor, index: Tensor, cosets: Cosets) -> Tensor:
    """Reads the members that an earlier max pool chose: (N, C, cosets, H, W)."""
    x, index = _map(x), _map(index)
    out = layout.empty(x, tuple(index.shape))
    if out.numel():
        with nvidia.on_device_of(x):
            _native().group_pool_select(
                DTYPES[x.dtype], x.data_ptr(), index.data_ptr(), out.data_ptr(), *_planes(x), cosets, _stream(x)
            )
    return out
