"""What group_conv2d does to its result if asked to: LeakyReLU, then the pool over the whole group.

Those are two more ops, or nothing but other instructions at the end of cuda's kernel, where no gradient is wanted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from gconv import backends
from gconv.backends import cuda
from gconv.groups import PlanarGroup
from gconv.ops._convolution import forward_work
from gconv.ops._shortcut import eager, records


class Epilogue(NamedTuple):
    """``negative_slope`` is LeakyReLU's, ``pool`` a mode of group_pool; None for none."""

    negative_slope: float | None
    pool: str | None

    @property
    def empty(self) -> bool:
        return self.negative_slope is None and self.pool is None


def checked(operation: str, negative_slope: float | None, pool: str | None) -> Epilogue:
    """Of an op's arguments.

    Raises:
        TypeError: negative_slope is no number.
        ValueError: it is not finite, or pool is unknown.
    """
    if negative_slope is not None:
        if not isinstance(negative_slope, (int, float)) or isinstance(negative_slope, bool):
            raise TypeError(f"{operation}: negative_slope must be None or a float, got {type(negative_slope).__name__}")
        if not abs(negative_slope) < math.inf:  # not math.isfinite, which cannot be compiled
            raise ValueError(f"{operation}: negative_slope must be finite, got {negative_slope}")
    if pool not in (None, "max", "mean"):
        raise ValueError(f"{operation}: pool must be None, 'max' or 'mean', got {pool!r}")
    return Epilogue(negative_slope, pool)


def unfused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    stride: int,
    padding: int,
    epilogue: Epilogue,
    backend: str,
) -> str | None:
    """Why the epilogue of a group convolution, all checked, is ops of its own; None if it is in cuda's kernel.

    Raises:
        RuntimeError: the named backend cannot run these tensors.
    """
    if not eager(x, weight, bias):
        return "the call is compiled, traced, transformed or in a mode of torch's"
    if records(x, weight, bias):
        return "autograd records every op"
    if backends.resolve(backend, forward_work("group_conv2d", x, weight, group, stride, padding), x) is not cuda:
        return "only cuda has it in its kernel"
    return cuda.unfused(x, weight, group, stride, padding, epilogue.pool)


def leaky_relu(x: Tensor, negative_slope: float | None) -> Tensor:
    """torch's; ReLU, which makes 0 of -infinity, where the slope is 0."""
    if negative_slope is None:
        return x
    return F.relu(x) if negative_slope == 0 else F.leaky_relu(x, negative_slope)
