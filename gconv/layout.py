"""The layout of feature maps: channels last, with the strides of torch.empty also on axes of length one."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def memory_format(rank: int) -> torch.memory_format:
    return torch.channels_last_3d if rank == 5 else torch.channels_last


def empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of the given shape, channels last; like gives dtype and device."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format(len(shape)))


def canonical(x: Tensor) -> Tensor:
    """x in channels-last layout with the strides of :func:`empty`, copied only if its memory differs."""
    wanted = strides(x.shape)
    if x.stride() == wanted:
        return x
    if x.is_contiguous(memory_format=memory_format(x.dim())):  # differs on axes of length one only
        return x.as_strided(x.shape, wanted)
    return empty(x, tuple(x.shape)).copy_(x)


@lru_cache(maxsize=4096)
def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of :func:`empty`."""
    channels, *spatial = shape[1:]
    steps = [channels]
    for length in reversed(spatial):
        steps.append(steps[-1] * length)
    *inner, batch = steps
    return (batch, 1, *reversed(inner))
