"""The transposed group convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from gconv.functional import (
    _autocast,
    _backend_name,
    _check_alike,
    _check_channels,
    _check_filter,
    _check_group,
    _check_int,
    _check_operands,
)
from gconv.groups import PlanarGroup
from gconv.ops._shortcut import refuse_forward_mode
from gconv.ops._tracing import refuse_fixed_sizes

_OPERATION = "group_conv_transpose2d"


def group_conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: PlanarGroup,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    backend: str | None = None,
) -> Tensor:
    """The transpose of :func:`gconv.group_conv2d` in its input, as torch's conv_transpose2d is that of conv2d.

    out(q, t) = sum over x(p, g) with q = stride * p - padding + d of W(g^-1 d, g^-1 t) x(p, g), + b, d over the taps of
    the window and g^-1 d about its middle: each input pixel adds the filter, transformed by the pixel's element.
    On flattened maps this is torch's conv_transpose2d with ``gconv.expand_filter(weight, group)``.

    Args:
        x: (N, C_in, |G|, H, W) feature map on the group.
        weight: (C_in, C_out, |G|, K, K): torch's order of channels for transposed convolutions, and group_conv2d's
            filter for the opposite direction. Off the pixel grid (m * C_in, m * C_out, |H|, K, K), as
            :func:`gconv.steerable_filters` makes it of coefficients (C_in, C_out, |G|, B).
        bias: (C_out), shared by all orientations.
        group: the group that transforms the filters. Equivariance is exact for its lattice subgroup.
        stride: positive step between the windows that the pixels of x add to.
        padding: rows and columns cut from every side of the output.
        output_padding: rows and columns added at the bottom and the right only, less than stride. Exactly equivariant
            iff it is 0, or the group moves no axis.
        backend: "reference", "dense", "cpu", "triton" or "cuda"; None lets gconv choose, as for the input gradient of
            group_conv2d.

    Returns:
        (N, C_out, |G|, H', W') of x's dtype, in torch.channels_last_3d layout, with
        H' = (H - 1) * stride - 2 * padding + K + output_padding. Gradients of every order exist.

    Raises:
        TypeError: not tensors, integer or mixed dtypes, an option not an int.
        ValueError: wrong rank, channels, filter or device, no output pixel, output_padding not below stride, unknown
            backend.
        RuntimeError: the named backend cannot run these tensors, or torch.jit.trace is running.
    """
    x, weight, bias = _autocast(x, weight, bias)
    check_transposed(x, weight, bias, group, stride, padding, output_padding)
    name = _backend_name(_OPERATION, backend)
    refuse_forward_mode(_OPERATION, x, weight, bias)
    refuse_fixed_sizes(_OPERATION, "the height and width")
    height, width = (_length(length, weight.shape[-1], stride, padding, output_padding) for length in x.shape[-2:])
    out = torch.ops.gconv.group_conv2d_input_grad(x, weight, height, width, group.name, stride, padding, name)
    return out if bias is None else out + bias[:, None, None, None]


def _length(length: int, size: int, stride: int, padding: int, output_padding: int) -> int:
    return (length - 1) * stride - 2 * padding + size + output_padding


def check_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    output_padding: int,
) -> None:
    """Raises what :func:`group_conv_transpose2d` raises for its arguments."""
    _check_group(_OPERATION, group)
    operands = _check_operands(_OPERATION, x, weight, bias)
    _check_int(_OPERATION, "stride", stride, 1)
    _check_int(_OPERATION, "padding", padding, 0)
    check_output_padding(_OPERATION, output_padding, stride)
    _check_filter(_OPERATION, weight, group, lifting=False, channels=("C_in", "C_out"))
    c_in, c_out = (length // group.coset_count for length in weight.shape[:2])
    _check_channels(_OPERATION, x, weight, bias, group, c_in, c_out)
    size = weight.shape[-1]
    if any(length < 1 or _length(length, size, stride, padding, output_padding) < 1 for length in x.shape[-2:]):
        raise ValueError(
            f"{_OPERATION}: x must have H and W that leave an output pixel for K = {size}, stride = {stride}, "
            f"padding = {padding} and output_padding = {output_padding}, got {tuple(x.shape)}"
        )
    _check_alike(_OPERATION, operands)


def check_output_padding(operation: str, output_padding: int, stride: int) -> None:
    """Raises unless it is an int in 0 .. stride - 1: with more, no convolution of that stride is the transpose."""
    _check_int(operation, "output_padding", output_padding, 0)
    if output_padding >= stride:
        raise ValueError(f"{operation}: output_padding must be below stride = {stride}, got {output_padding}")
