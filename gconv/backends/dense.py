"""The expanded filter bank and torch's own convolution: what every other library runs, and the fallback.

The bank costs |G|^2 C_out C_in K^2 multiplications per pixel where the group-Fourier algorithm needs 2 to 5.3 times
fewer. Runs on any device and floating dtype that torch convolves. Pooling has no dense form and is the reference's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gconv.backends import filters
from gconv.backends.reference import group_pool as group_pool
from gconv.backends.reference import group_pool_backward as group_pool_backward
from gconv.backends.reference import group_pool_select as group_pool_select
from gconv.groups import PlanarGroup


def _planar(x: Tensor) -> Tensor:
    """(N, C, |G|, H, W) -> (N, C * |G|, H, W); an image stays as it is."""
    return x.flatten(1, 2) if x.dim() == 5 else x


def _backward(grad_out: Tensor, x: Tensor, bank: Tensor, stride: int, padding: int, wanted: int) -> Tensor:
    """torch's gradient of conv2d in x (wanted = 0) or in the bank (wanted = 1); the other operand gives its shape."""
    mask = (wanted == 0, wanted == 1, False)
    grads = torch.ops.aten.convolution_backward(
        _planar(grad_out), x, bank, None, (stride, stride), (padding, padding), (1, 1), False, (0, 0), 1, mask
    )
    return grads[wanted]


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int) -> Tensor:
    """x: (N, C_in[, |G|], H, W), weight: (C_out, C_in[, |G|], K, K), bias: (C_out) -> (N, C_out, |G|, H', W')."""
    return conv2d_packed(x, weight, pack(weight, group), bias, group, stride, padding)


def pack(weight: Tensor, group: PlanarGroup) -> Tensor:
    """The bank."""
    return filters.expand(weight, group)


def packing_state() -> object:
    """The bank depends on the weight and the group alone."""
    return None


def conv2d_packed(
    x: Tensor, weight: Tensor, packed: Tensor, bias: Tensor | None, group: PlanarGroup, stride: int, padding: int
) -> Tensor:
    """As :func:`conv2d`, with the bank."""
    bias = None if bias is None else bias.repeat_interleave(group.order)
    out = F.conv2d(_planar(x), packed, bias, stride, padding)
    return out.unflatten(1, (-1, group.order))


def bank_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
) -> Tensor:
    """As :func:`conv2d`, with torch's dilation and groups, from torch's own differentiable ops."""
    bias = None if bias is None else bias.repeat_interleave(group.order)
    planar = _planar(x).contiguous()  # not channels last, for the reason in conv2d_weight_grad
    out = F.conv2d(planar, filters.expand(weight, group), bias, stride, padding, dilation, groups)
    out = out.unflatten(1, (-1, group.order))
    return out.movedim(1, -1).contiguous().movedim(-1, 1)  # channels last; vmap knows no memory_format


def conv2d_input_grad(
    grad_out: Tensor, weight: Tensor, group: PlanarGroup, height: int, width: int, stride: int, padding: int
) -> Tensor:
    """The transpose of :func:`conv2d` in x: (N, C_in[, |G|], H, W)."""
    bank = filters.expand(weight, group)
    x = bank.new_empty(()).expand(grad_out.shape[0], bank.shape[1], height, width)
    grad_x = _backward(grad_out, x, bank, stride, padding, wanted=0)
    return grad_x.unflatten(1, (-1, group.order)) if weight.dim() == 5 else grad_x


def conv2d_weight_grad(x: Tensor, grad_out: Tensor, group: PlanarGroup, size: int, stride: int, padding: int) -> Tensor:
    """The transpose of :func:`conv2d` in weight: (C_out, C_in[, |G|], K, K)."""
    planar = _planar(x)
    if size == 1 and stride > 1:
        planar = planar.contiguous()  # torch 2.13 writes past its buffers for channels-last images (oneDNN, CPU)
    bank = x.new_empty(()).expand(grad_out.shape[1] * group.order, planar.shape[1], size, size)
    grad_bank = _backward(grad_out, planar, bank, stride, padding, wanted=1)
    return filters.contract(grad_bank, group, group_filter=x.dim() == 5)
