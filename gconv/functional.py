"""The public ops: arguments are checked here, in the order type, shape, dtype, device; then the torch op runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gconv import backends
from gconv.backends import Work, filters
from gconv.backends.filter_cache import FilterCache
from gconv.groups import PlanarGroup, group_from_name
from gconv.ops import _epilogue
from gconv.ops import group_conv2d as group_conv2d_op
from gconv.ops import lifting_conv2d as lifting_conv2d_op
from gconv.ops._convolution import forward_work, run_forward
from gconv.ops._epilogue import Epilogue
from gconv.ops._shortcut import below_autograd, plainly_eager, records, refuse_forward_mode
from gconv.ops._tracing import refuse_symbols
from gconv.ops.group_pool import pool

NEEDS_BANK = "only the expanded bank takes dilation or groups above 1"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST = 2**28 - 1  # stride and padding: positions in a padded image fit the 32 bits that native code has for them
_RECORDED = {"lifting_conv2d": lifting_conv2d_op.Recorded, "group_conv2d": group_conv2d_op.Recorded}


def lifting_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: PlanarGroup,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Correlates an image with every transformed copy of each filter.

    out(x, s) = sum_d f(x + d) W(s^-1 d) + b, d over the centred K x K window (Cohen & Welling 2016, equation 10).

    Args:
        x: (N, C_in, H, W) image, any strides.
        weight: (C_out, C_in, K, K); off the pixel grid (m * C_out, C_in, K, K), m = ``group.coset_count``: the filter
            turned by 0..m-1 steps of 2*pi/n, as :func:`gconv.steerable_filters` makes it.
        bias: (C_out), shared by all orientations.
        group: the group that transforms the filters. Equivariance is exact for its lattice subgroup.
        stride: positive step between outputs. Exactly equivariant iff (L + 2 * padding - dilation * (K - 1) - 1) %
            stride == 0 on every axis length L that the group flips or rotates.
        padding: zeros added on every side.
        dilation: positive step between the taps of a filter, as torch's. Above 1 only on "dense".
        groups: as torch's: blocks of channels that do not mix; weight is then (C_out, C_in / groups, K, K). Above 1
            only on "dense".
        backend: "reference", "dense", "cpu", "triton" or "cuda"; None lets gconv choose (see :func:`explain`).

    Returns:
        (N, C_out, |G|, H', W') of x's dtype, in torch.channels_last_3d layout, with
        H' = (H + 2 * padding - dilation * (K - 1) - 1) // stride + 1. Gradients of every order exist.
        float16 and bfloat16: "reference" accumulates in float32 and rounds once, "dense" rounds as torch's conv2d.

    Raises:
        TypeError: not tensors, integer or mixed dtypes, an option not an int.
        ValueError: wrong rank, channels, filter or device, no output pixel, unknown backend.
        RuntimeError: the named backend cannot run these tensors.
    """
    if _needs_bank("lifting_conv2d", dilation, groups):
        return _convolve_bank("lifting_conv2d", x, weight, bias, group, stride, padding, dilation, groups, backend)
    return _convolve("lifting_conv2d", x, weight, bias, group, stride, padding, backend)


def group_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    group: PlanarGroup,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    negative_slope: float | None = None,
    pool: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """Correlates a feature map on the group with every transformed copy of each filter.

    out(x, g) = sum_d sum_t f(x + d, t) W(g^-1 d, g^-1 t) + b (Cohen & Welling 2016, equation 11).

    Args:
        x: (N, C_in, |G|, H, W) feature map on the group; fastest in torch.channels_last_3d, any strides are legal.
        weight: (C_out, C_in, |G|, K, K), the filter of output element e; off the pixel grid the layer's filter on the
            lattice subgroup H, (m * C_out, m * C_in, |H|, K, K) with m = ``group.coset_count``, as
            :func:`gconv.steerable_filters` makes it: at (c * C_out + o, c' * C_in + i, h', d) it is
            W_oi(c^-1 d, c^-1 h' c').
        bias: (C_out), shared by all orientations.
        group: the group that transforms the filters. Equivariance is exact for its lattice subgroup.
        stride: positive step between outputs; exactness as in :func:`lifting_conv2d`.
        padding: zeros added on every side.
        dilation, groups: as in :func:`lifting_conv2d`; weight has C_in / groups input channels.
        negative_slope: what negative outputs are multiplied with, LeakyReLU's slope; 0 is ReLU. None for none.
        pool: "max" or "mean" of that over the whole group, as :func:`group_pool`; None for none.
        backend: "reference", "dense", "cpu", "triton" or "cuda"; None lets gconv choose (see :func:`explain`).

    Returns:
        (N, C_out, |G|, H', W') of x's dtype, in torch.channels_last_3d layout; pooled (N, C_out, H', W') in
        torch.channels_last layout. Gradients of every order exist.

        negative_slope and pool are ops of their own, which round their results, except where the kernel applies them:
        on "cuda", in eager mode, if no gradient is recorded and, to pool, the group is on the pixel grid. That takes
        no launch of its own, works in float32 and rounds once. In half precision a maximum of slope 0 or 1 is the same
        number either way; a mean, and any other slope, may differ by the roundings that are left out. :func:`explain`
        tells.

        The cpu, triton and cuda backends sum and subtract orientations, so an infinity may come out as NaN where a bank
        gives infinity, or a number; cuda in float32 splits numbers in two, with the same outcome. triton and cuda do so
        in x's dtype: in float16 numbers above 65504 / |G| may overflow, those of
        the output's gradient too.

    Raises:
        TypeError: not tensors, integer or mixed dtypes, an option not an int, negative_slope no number.
        ValueError: wrong rank, channels, filter or device, no output pixel, unknown backend or pool, negative_slope not
            finite.
        RuntimeError: the named backend cannot run these tensors.
    """
    epilogue = _epilogue.checked("group_conv2d", negative_slope, pool)
    needs_bank = _needs_bank("group_conv2d", dilation, groups)
    if not epilogue.empty and not needs_bank:
        fused = _fused(x, weight, bias, group, stride, padding, epilogue, backend)
        if fused is not None:
            return fused
    if needs_bank:
        out = _convolve_bank("group_conv2d", x, weight, bias, group, stride, padding, dilation, groups, backend)
    else:
        out = _convolve("group_conv2d", x, weight, bias, group, stride, padding, backend)
    out = _epilogue.leaky_relu(out, epilogue.negative_slope)
    return out if pool is None else group_pool(out, group=group, mode=pool, backend=backend)


def group_pool(
    x: Tensor,
    *,
    group: PlanarGroup,
    mode: str = "max",
    subgroup: Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Pools a feature map over the group, or over each left coset gH of a subgroup H.

    Args:
        x: (N, C, |G|, H, W) feature map on the group.
        group: the group of the map.
        mode: "max" or "mean". Ties of "max" take the first member in value and gradient; NaN propagates.
        subgroup: element indices closed under the product; None pools over the whole group.
        backend: "reference", "dense", "cpu", "triton" or "cuda"; None lets gconv choose (see :func:`explain`).

    Returns:
        (N, C, H, W) in torch.channels_last layout, or with ``subgroup`` (N, C, |G/H|, H, W) over the left cosets
        ordered by smallest element. Gradients of every order exist.

    Raises:
        TypeError: not a tensor or not floating point.
        ValueError: wrong rank, group axis, mode, subgroup or backend.
        RuntimeError: the named backend cannot run this tensor.
    """
    operation = "group_pool"
    _check_pool(operation, x, group)
    refuse_forward_mode(operation, x)
    members = _pool_members(operation, group, mode, subgroup)
    name = _backend_name(operation, backend)
    out, _ = pool(x, group.name, members, mode, name)
    return out.squeeze(2) if subgroup is None else out


def expand_filter(weight: Tensor, group: PlanarGroup) -> Tensor:
    """The dense filter bank whose planar convolution equals the layer's: output plane s is L_s W.

    Args:
        weight: the filter as :func:`lifting_conv2d` or :func:`group_conv2d` takes it, of rank 4 or 5.
        group: the layer's group.

    Returns:
        (C_out * |G|, C_in, K, K) or (C_out * |G|, C_in * |G|, K, K) for torch's conv2d; channel order c * |G| + s,
        that of ``x.flatten(1, 2)``. Differentiable.

    Raises:
        TypeError: weight is not a floating-point tensor.
        ValueError: wrong rank, group axis, or a filter that is not square.
    """
    operation = "expand_filter"
    _check_group(operation, group)
    _check_tensor(operation, "weight", weight)
    _check_filter(operation, weight, group, lifting=weight.dim() == 4)
    _check_floating(operation, "weight", weight)
    return filters.expand(weight, group)


def _convolve(
    operation: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    backend: str | None,
    cache: FilterCache | None = None,
) -> Tensor:
    """The op, checked. What it makes of the filter is kept in ``cache``, if given, where nothing records the call."""
    if torch._C._is_any_autocast_enabled():
        x, weight, bias = _autocast(x, weight, bias)
    options_have_types = type(stride) is type(padding) is int and (backend is None or type(backend) is str)
    operands_have_types = isinstance(group, PlanarGroup) and x is not None and weight is not None
    if options_have_types and operands_have_types and plainly_eager(x, weight, bias):
        of_bias = None if bias is None else (bias.shape, bias.dtype)
        work = _checked_work(
            operation, x.shape, x.dtype, weight.shape, weight.dtype, of_bias, group.name, stride, padding, backend
        )
        name = backend or backends.AUTO
        if records(x, weight, bias):
            return _RECORDED[operation].apply(x, weight, bias, group.name, stride, padding, name)
        with below_autograd():
            return run_forward(work, x, weight, bias, group, padding, name, cache)
    _check_convolution(operation, x, weight, bias, group, stride, padding)
    name = _backend_name(operation, backend)
    refuse_forward_mode(operation, x, weight, bias)
    op = torch.ops.gconv.lifting_conv2d if operation == "lifting_conv2d" else torch.ops.gconv.group_conv2d
    return op(x, weight, bias, group.name, stride, padding, name)


def _fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    epilogue: Epilogue,
    backend: str | None,
) -> Tensor | None:
    """A group convolution and its epilogue, checked, in one kernel; None where it takes several ops."""
    operation = "group_conv2d"
    x, weight, bias = _autocast(x, weight, bias)
    _check_convolution(operation, x, weight, bias, group, stride, padding)
    name = _backend_name(operation, backend)
    if _epilogue.unfused(x, weight, bias, group, stride, padding, epilogue, name):
        return None
    out = backends.cuda.conv2d_epilogue(x, weight, bias, group, padding, *epilogue)
    return out if epilogue.pool is None else out.squeeze(2)


def _needs_bank(operation: str, dilation: int, groups: int) -> bool:
    """Whether only the expanded bank computes a convolution with these, which are checked here."""
    _check_int(operation, "dilation", dilation, 1)
    _check_int(operation, "groups", groups, 1)
    return dilation > 1 or groups > 1


def _convolve_bank(
    operation: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    backend: str | None,
) -> Tensor:
    """A convolution that :func:`_needs_bank`. All but dilation and groups is checked."""
    x, weight, bias = _autocast(x, weight, bias)
    _check_convolution(operation, x, weight, bias, group, stride, padding, dilation, groups)
    if _backend_name(operation, backend) not in (backends.AUTO, "dense"):
        raise RuntimeError(f"{operation}: backend {backend!r} cannot run: {NEEDS_BANK}")
    return backends.dense.bank_conv2d(x, weight, bias, group, stride, padding, dilation, groups)


@lru_cache(maxsize=4096)
def _checked_work(
    operation: str,
    x_shape: torch.Size,
    x_dtype: torch.dtype,
    weight_shape: torch.Size,
    weight_dtype: torch.dtype,
    of_bias: tuple[torch.Size, torch.dtype] | None,
    group: str,
    stride: int,
    padding: int,
    backend: str | None,
) -> Work:
    """The checks of a call, once for all x, weight and bias on the CPU with these shapes and dtypes; what it does."""

    def like(shape: torch.Size, dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x, weight = like(x_shape, x_dtype), like(weight_shape, weight_dtype)
    bias = None if of_bias is None else like(*of_bias)
    planar_group = group_from_name(group)
    _check_convolution(operation, x, weight, bias, planar_group, stride, padding)
    _backend_name(operation, backend)
    return forward_work(operation, x, weight, planar_group, stride, padding)


def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """torch's autocast rule for convolutions: floating point other than float64 takes the autocast dtype."""
    device = x.device.type if isinstance(x, Tensor) else ""
    if not device or not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(device)

    def cast(tensor: Tensor) -> Tensor:
        narrow = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if narrow else tensor

    return cast(x), cast(weight), None if bias is None else cast(bias)


def _check_convolution(
    operation: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    dilation: int = 1,
    groups: int = 1,
) -> None:
    """Raises what the op raises, except for what :func:`_needs_bank` does."""
    lifting = operation == "lifting_conv2d"
    _check_group(operation, group)
    operands = _check_operands(operation, x, weight, bias)
    _check_int(operation, "stride", stride, 1)
    _check_int(operation, "padding", padding, 0)
    _check_filter(operation, weight, group, lifting)
    m, size = group.coset_count, dilation * (weight.shape[-1] - 1) + 1
    c_out, c_in = weight.shape[0] // m, groups * weight.shape[1] // (1 if lifting else m)
    if c_out % groups:
        raise ValueError(f"{operation}: weight must have a multiple of groups = {groups} filters, got {c_out}")
    _check_channels(operation, x, weight, bias, group, c_in, c_out)
    least = max(1, size - 2 * padding)
    if x.shape[-2] < least or x.shape[-1] < least:
        raise ValueError(
            f"{operation}: x must have H and W of at least {least} for a {size} x {size} filter and "
            f"padding = {padding}, got {tuple(x.shape)}"
        )
    _check_alike(operation, operands)


def _check_operands(operation: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The operands that there are, all tensors."""
    operands = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    for argument, tensor in operands.items():
        _check_tensor(operation, argument, tensor)
    return operands


def _check_channels(
    operation: str, x: Tensor, weight: Tensor, bias: Tensor | None, group: PlanarGroup, c_in: int, c_out: int
) -> None:
    """That x and bias have the rank and the channels that the filter is for."""
    lifting = weight.dim() == 4
    if x.dim() != weight.dim() or x.shape[1] != c_in or (not lifting and x.shape[2] != group.order):
        wanted = f"(N, {c_in}, H, W)" if lifting else f"(N, {c_in}, {group.order}, H, W)"
        raise ValueError(
            f"{operation}: x must be {wanted} for group {group.name} and weight {tuple(weight.shape)}, "
            f"got {tuple(x.shape)}"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != c_out):
        raise ValueError(f"{operation}: bias must be ({c_out},), got {tuple(bias.shape)}")


def _check_alike(operation: str, operands: dict[str, Tensor]) -> None:
    """That all operands have a dtype that the ops know, the same, and the same device."""
    x = operands["x"]
    for argument, tensor in operands.items():
        _check_floating(operation, argument, tensor)
        if tensor.dtype != x.dtype:
            raise TypeError(f"{operation}: {argument} must have x's dtype {x.dtype}, got {tensor.dtype}")
    for argument, tensor in operands.items():
        if tensor.device != x.device:
            raise ValueError(f"{operation}: {argument} must be on x's device {x.device}, got {tensor.device}")


def _check_pool(operation: str, x: Tensor, group: PlanarGroup) -> None:
    _check_group(operation, group)
    _check_tensor(operation, "x", x)
    if x.dim() != 5 or x.shape[2] != group.order:
        raise ValueError(
            f"{operation}: x must be (N, C, {group.order}, H, W) for group {group.name}, got {tuple(x.shape)}"
        )
    _check_floating(operation, "x", x)


def _pool_members(operation: str, group: PlanarGroup, mode: str, subgroup: Sequence[int] | None) -> list[int]:
    """The elements of the subgroup to pool over, in increasing order."""
    _check_group(operation, group)
    if mode not in ("max", "mean"):
        raise ValueError(f"{operation}: mode must be 'max' or 'mean', got {mode!r}")
    if subgroup is None:
        return list(group.elements)
    if not isinstance(subgroup, Sequence) or not all(type(element) is int for element in subgroup):
        raise TypeError(f"{operation}: subgroup must be None or a sequence of ints, got {subgroup!r}")
    try:
        group.cosets(subgroup)
    except ValueError as error:
        raise ValueError(
            f"{operation}: subgroup must hold elements of {group.name}, the identity 0 among them, and be closed under "
            f"the product, got {list(subgroup)}"
        ) from error
    return sorted(set(subgroup))


def _check_filter(
    operation: str, weight: Tensor, group: PlanarGroup, lifting: bool, channels: tuple[str, str] = ("C_out", "C_in")
) -> None:
    order, m = group.lattice.order, group.coset_count
    axes_fit = weight.dim() == 4 if lifting else weight.dim() == 5 and weight.shape[2] == order
    copied = weight.shape[:1] if lifting else weight.shape[:2]
    fits = axes_fit and weight.shape[-1] == weight.shape[-2] and all(length % m == 0 for length in copied)
    if not fits or min(weight.shape) < 1:
        copies = "" if group.is_lattice else f"{m} "
        first, second = channels
        wanted = (
            f"({copies}{first}, {second}, K, K)" if lifting else f"({copies}{first}, {copies}{second}, {order}, K, K)"
        )
        wanted += "" if lifting and group.is_lattice else f" for group {group.name}"
        without = " without empty axes" if fits else ""
        source = "" if group.is_lattice else ", as gconv.steerable_filters makes it"
        raise ValueError(f"{operation}: weight must be {wanted}{without}{source}, got {tuple(weight.shape)}")


def _check_group(operation: str, group: PlanarGroup) -> None:
    if not isinstance(group, PlanarGroup):
        raise TypeError(f"{operation}: group must be a CyclicGroup or DihedralGroup, got {type(group).__name__}")


def _check_tensor(operation: str, argument: str, tensor: Any) -> None:
    refuse_symbols(operation, tensor)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{operation}: {argument} must be a Tensor, got {type(tensor).__name__}")


def _check_floating(operation: str, argument: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"{operation}: {argument} must be floating point, got {tensor.dtype}")
    if tensor.dtype not in _DTYPES:
        known = "float16, bfloat16, float32 or float64"
        raise TypeError(f"{operation}: {argument} must be {known}, got {tensor.dtype}")


def _check_int(operation: str, argument: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{operation}: {argument} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{operation}: {argument} must be at least {least}, got {value}")
    if value > _LARGEST:
        raise ValueError(f"{operation}: {argument} must be at most {_LARGEST}, got {value}")


def _backend_name(operation: str, backend: str | None) -> str:
    if backend is None:
        return backends.AUTO
    if not isinstance(backend, str) or backend not in backends.BACKENDS:
        known = ", ".join(repr(name) for name in backends.BACKENDS)
        raise ValueError(f"{operation}: backend must be None or one of {known}, got {backend!r}")
    return backend
