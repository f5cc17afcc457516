"""The shapes that the choice of a backend is fitted to and tested on, drawn from one law with different seeds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import gconv

CONVOLUTIONS = ("lifting_conv2d", "group_conv2d")
LARGEST = 2**28  # bytes of the largest operand


@dataclass(frozen=True)
class Shape:
    """(N, C_in[, |G|], H, H) and filters of size K at padding K // 2; group_pool uses C_in, H and N alone."""

    op: str
    group: str
    c_in: int
    c_out: int
    height: int
    batch: int
    size: int
    stride: int

    @property
    def padding(self) -> int:
        return self.size // 2

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.padding - self.size) // self.stride + 1

    @property
    def order(self) -> int:
        return gconv.group_from_name(self.group).order

    @property
    def axis(self) -> tuple[int, ...]:
        return () if self.op == "lifting_conv2d" else (self.order,)

    @property
    def dense_flops(self) -> float:
        """Of a forward pass of the expanded bank."""
        taps = self.c_in * self.size**2 * math.prod(self.axis)
        return 2.0 * self.batch * self.out_height**2 * self.c_out * self.order * taps

    def operands(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """x, weight and the gradient of the output, in the layout that gconv's layers pass on."""
        last = torch.channels_last_3d if self.axis else torch.channels_last
        draw = partial(torch.randn, dtype=dtype, device=device)
        x = draw(self.batch, self.c_in, *self.axis, self.height, self.height)
        weight = draw(self.c_out, self.c_in, *self.axis, self.size, self.size)
        grad_out = draw(self.batch, self.c_out, self.order, self.out_height, self.out_height)
        return x.contiguous(memory_format=last), weight, grad_out.contiguous(memory_format=torch.channels_last_3d)


def draw(rng: random.Random, ops: tuple[str, ...], groups: tuple[str, ...]) -> Iterator[Shape]:
    """Shapes without end: C 1..256, H 4..64, N 1..64, log-uniform; K 1, 3, 4, 5, 7; strides 1, 2."""
    while True:
        shape = Shape(
            rng.choice(ops),
            rng.choice(groups),
            c_in=_log_uniform(rng, 256),
            c_out=_log_uniform(rng, 256),
            height=_log_uniform(rng, 64, 4),
            batch=_log_uniform(rng, 64),
            size=rng.choice((1, 3, 4, 5, 7)),
            stride=rng.choice((1, 2)),
        )
        channels = max(shape.c_in, shape.c_out) * shape.order
        bank = shape.c_in * shape.c_out * shape.order**2 * shape.size**2
        if 4 * max(channels * shape.batch * shape.height**2, bank) <= LARGEST:
            yield shape


def _log_uniform(rng: random.Random, most: int, least: int = 1) -> int:
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))
