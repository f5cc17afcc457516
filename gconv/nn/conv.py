"""Lifting and group convolution layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gconv.backends.filter_cache import FilterCache
from gconv.functional import _autocast, _backend_name, _check_convolution, _check_group, _convolve, _convolve_bank
from gconv.groups import PlanarGroup
from gconv.nn.identity import EXTRA_STATE, read_identity, warn_of_none, write_identity
from gconv.nn.padding import check_padding_mode, pad
from gconv.nn.steerable import SteerableFilters
from gconv.ops._tracing import refuse_symbols
from gconv.steerable import Ring


class _Convolution(nn.Module):
    """What the layers share: parameters, padding, the warning when a stride breaks exactness, and the filter cache.

    In eval mode, where no gradient is recorded, what is made of the weight is kept until its values change: the filters
    of coefficients, and those that backends transform. Transposed layers and those with dilation or groups above 1 keep
    only the former and transform them in every call.
    """

    lifting: ClassVar[bool]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        group: PlanarGroup,
        stride: int = 1,
        padding: int | Literal["same"] = 0,
        padding_mode: str = "zeros",
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        backend: str | None = None,
        basis: Sequence[Ring] | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _check_group(name, group)
        _backend_name(name, backend)
        for argument, value in {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "dilation": dilation,
            "groups": groups,
        }.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name}: {argument} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name}: {argument} must be positive, got {value}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups must divide in_channels and out_channels, got {groups} for {in_channels} and "
                f"{out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.group = group
        self.stride = stride
        self.dilation = dilation
        self.groups = groups
        self.padding = _padding(name, kernel_size, stride, dilation, padding)
        self.padding_mode = check_padding_mode(name, padding_mode)
        self.backend = backend
        pixels = group.is_lattice and basis is None
        self.steerable = None if pixels else SteerableFilters(name, group, kernel_size, basis)
        channels = (in_channels, out_channels) if self.transposed else (out_channels, in_channels // groups)
        axis = () if self.lifting else (group.order,)
        window = (kernel_size, kernel_size) if self.steerable is None else (self.steerable.size,)
        self.weight = nn.Parameter(torch.empty(*channels, *axis, *window))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self._filters = FilterCache()
        self._warned = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-gain / sqrt(fan_in), fan_in = the numbers in one output channel's weight; bias with gain 1.

        Pixels have gain 1, torch.nn.Conv2d's initialisation. Coefficients have gain sqrt(3), which keeps the variance:
        white input of variance 1 gives output of variance E[W(d)^2] summed over taps d, planes and input channels. With
        independent coefficients of variance v that is v * sum_b sum_d psi_b(d)^2, summed likewise, = v * fan_in, since
        the squares of the B functions sum to B at every angle (:func:`gconv.steerable_filters`). It is 1 for
        v = 1 / fan_in, and a uniform variable in +-a has variance a^2 / 3. Padding lessens it near the border.
        """
        self._initialise(fan_in=self.weight[0].numel())

    def _initialise(self, fan_in: float) -> None:
        bound = 1 / math.sqrt(fan_in)
        gain = 1 if self.steerable is None else math.sqrt(3)
        nn.init.uniform_(self.weight, -gain * bound, gain * bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def spatial_filter(self) -> Tensor:
        """What :func:`gconv.lifting_conv2d` or ``group_conv2d`` takes: ``weight``, or the filters of coefficients.

        Filters are made anew, for the caller to change; ``weight`` is the parameter itself.
        """
        return self.weight if self.steerable is None else self.steerable(self.weight)

    def _op_filter(self) -> Tensor:
        """:meth:`spatial_filter` for an op, which only reads it: perhaps the cache's own."""
        if self.steerable is None:
            return self.weight
        return self.steerable(self.weight, None if self.training else self._filters)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in[, |G|], H, W) -> (N, C_out, |G|, H', W'), as :func:`gconv.lifting_conv2d` and ``group_conv2d``."""
        operation = "lifting_conv2d" if self.lifting else "group_conv2d"
        refuse_symbols(operation, x)
        operands: tuple[Tensor, Tensor, Tensor | None] = x, self._op_filter(), self.bias
        padding = self.padding
        if self.padding_mode != "zeros":
            operands, padding = self._padded(operation, *operands), 0
        if self.dilation != 1 or self.groups != 1:
            options = self.stride, padding, self.dilation, self.groups
            out = _convolve_bank(operation, *operands, self.group, *options, self.backend)
        else:
            cache = None if self.training else self._filters
            out = _convolve(operation, *operands, self.group, self.stride, padding, self.backend, cache)
        if self.stride > 1 and not self._warned and not torch.compiler.is_compiling():
            self._warn_if_inexact(x)
        return out

    def _padded(
        self, operation: str, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The operands with the border around x, checked before as the op checks them with zeros for a border."""
        x, weight, bias = _autocast(x, weight, bias)
        options = self.stride, self.padding, self.dilation, self.groups
        _check_convolution(operation, x, weight, bias, self.group, *options)
        return pad(type(self).__name__, x, self.padding, self.padding_mode), weight, bias

    def train(self, mode: bool = True) -> Self:
        """Also frees what is made of the weight, which is kept in eval mode where no gradient is recorded."""
        if mode:
            self._filters.clear()
        return super().train(mode)

    @property
    def _identity(self) -> str:
        """What decides how the weight acts and its shape does not tell: the group, and the rings of coefficients."""
        rings = "" if self.steerable is None else f", rings {[tuple(ring) for ring in self.steerable.basis]}"
        return f"{self.group.name}{rings}"

    def get_extra_state(self) -> Tensor:
        """The group's name and the rings, in the state_dict under ``_extra_state``: text as (length,) int64."""
        return write_identity(self._identity)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing to set: :meth:`_load_from_state_dict` has compared it."""

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Loads, but not what was saved for another group or other rings; what was saved without is warned of once."""
        key = prefix + EXTRA_STATE
        if key not in state_dict:
            if any(name.startswith(prefix) for name in state_dict):
                warn_of_none(error_msgs)
        elif (saved := read_identity(state_dict[key])) not in (None, self._identity):
            name, place = type_before_parametrizations(self).__name__, prefix.removesuffix(".") or "the root"
            error_msgs.append(
                f"{name} at {place}: the state_dict must be of a layer on {self._identity}, "
                f"got one of a layer on {saved}"
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:
            missing_keys.remove(key)
        loaded = next((state_dict[name] for name in state_dict if name.startswith(prefix) and name != key), None)
        if self.steerable is not None and loaded is not None and local_metadata.get("assign_to_params_buffers", False):
            self.steerable.follow(loaded)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """As torch's; ``to(memory_format=...)`` leaves filters of another rank than the format's in their layout.

        A layer's output has its own layout whatever that of the filter, so there is none to choose.
        """

        def of_any_rank(tensor: Tensor) -> Tensor:
            try:
                return fn(tensor)
            except RuntimeError as error:
                if "required rank" not in str(error):
                    raise
                return tensor.to(fn(tensor.new_empty(0)))  # torch converts the layout of ranks 4 and 5 only

        return super()._apply(of_any_rank, recurse)

    def _warn_if_inexact(self, x: Tensor) -> None:
        found, exact = [], []
        for axis, letter in enumerate("HW"):
            length, margin = x.shape[axis - 2], 2 * self.padding - self.dilation * (self.kernel_size - 1) - 1
            below = length - (length + margin) % self.stride
            if below < length and self.group.moves_axis(axis):
                sizes = [size for size in (below, below + self.stride) if size >= max(1, -margin)]
                found.append(f"{letter} = {length}")
                exact.append(f"{letter} = {' or '.join(map(str, sizes))}")
        if found:
            self._warned = True
            warnings.warn(
                f"{type_before_parametrizations(self).__name__}: {' and '.join(found)} with K = {self.kernel_size}, "
                f"stride = {self.stride}"
                f"{f', dilation = {self.dilation}' if self.dilation > 1 else ''} and padding = {self.padding} is not "
                f"exactly equivariant under {self.group.lattice.name}: the windows do not end where they began; "
                f"{' and '.join(exact)} would be exact",
                stacklevel=5,  # past torch's three frames of Module.__call__ and forward
            )

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, {self.kernel_size}, group={self.group!r}"]
        parts += [f"{name}={value}" for name, value in (("stride", self.stride), ("padding", self.padding))]
        parts += [] if self.padding_mode == "zeros" else [f"padding_mode={self.padding_mode!r}"]
        parts += [
            f"{name}={value}" for name, value in (("dilation", self.dilation), ("groups", self.groups)) if value > 1
        ]
        return ", ".join(parts + ([] if self.bias is not None else ["bias=False"]))


class LiftingConv2d(_Convolution):
    """Lifting convolution: an image to a feature map on the group (:func:`gconv.lifting_conv2d`).

    x: (N, C_in, H, W) -> (N, C_out, |G|, H', W'). Equivariant: moving the image by g moves the map by g;
    exactly for the elements of ``group.lattice``, and up to the sampling of filter and image for others.

    Args:
        in_channels: C_in.
        out_channels: C_out, channels per orientation.
        kernel_size: K of the K x K filter.
        group: a CyclicGroup or DihedralGroup.
        stride: positive step; warns once if it breaks exact equivariance for the size that comes.
        padding: pixels added on every side, or "same" for odd K and stride 1.
        padding_mode: what they hold: "zeros", "circular" (the opposite side) or "reflect" (the mirror image without
            its edge), as torch.nn.Conv2d's; equivariance stays exact.
        dilation, groups: as torch.nn.Conv2d's; above 1 on the "dense" backend only.
        bias: whether to add a bias per channel, shared by all orientations.
        backend: see :func:`gconv.lifting_conv2d`.
        basis: rings of steerable filters (:func:`gconv.steerable_filters`). None: on the pixel grid each pixel of the
            filter is a parameter, off the grid the basis is :func:`gconv.steerable_basis`.

    Attributes:
        weight: (C_out, C_in / groups, K, K); with steerable filters the coefficients, B in place of K, K.

    Raises:
        TypeError, ValueError: an argument out of range, named in the message.
    """

    lifting = True


class GroupConv2d(_Convolution):
    """Group convolution: feature map to feature map on the group (:func:`gconv.group_conv2d`).

    x: (N, C_in, |G|, H, W) -> (N, C_out, |G|, H', W'). Equivariant: moving x by g moves the output by g.
    Arguments and errors are those of :class:`LiftingConv2d`.

    Attributes:
        weight: (C_out, C_in / groups, |G|, K, K); with steerable filters the coefficients, B in place of K, K.
    """

    lifting = False


def _padding(name: str, kernel_size: int, stride: int, dilation: int, padding: int | str) -> int:
    if padding == "same":
        if kernel_size % 2 == 0 or stride != 1:
            raise ValueError(
                f"{name}: padding='same' needs an odd kernel_size and stride 1, got {kernel_size} and {stride}"
            )
        return dilation * (kernel_size // 2)
    if not isinstance(padding, int) or isinstance(padding, bool):
        raise TypeError(f"{name}: padding must be an int or 'same', got {padding!r}")
    if padding < 0:
        raise ValueError(f"{name}: padding must be at least 0, got {padding}")
    return padding
