"""How much of a group convolution one program computes, by what limits it: registers and shared memory.

bench/aot.py compiles these and refuses spilled registers and serialised matrix instructions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from gconv.backends.triton import launch


@dataclass(frozen=True)
class Tile:
    """What one program computes, with how many warps and how many steps' copies in flight."""

    pixels: int
    block_in: int
    block_out: int
    warps: int = 8
    stages: int = 2
    least_out: int = 16

    def shape(self, height: int, width: int) -> dict[str, int]:
        """The pixels as images, rows and columns: square, as far as outputs of this size fill it."""
        columns = min(8, triton.next_power_of_2(width))
        rows = min(8, triton.next_power_of_2(height), self.pixels // columns)
        return {"IMAGES": self.pixels // (rows * columns), "HEIGHT": rows, "WIDTH": columns}

    def fitted(self, c_in: int, c_out: int) -> Tile:
        """With no larger blocks of channels than there are, and no smaller ones than tl.dot or least_out wants."""
        block_in = min(self.block_in, max(16, triton.next_power_of_2(c_in)))
        block_out = min(self.block_out, max(self.least_out, triton.next_power_of_2(c_out)))
        return replace(self, block_in=block_in, block_out=block_out)


# By instruction and number of planes. None was timed on a GPU yet.
FORWARD = {
    "wgmma": {
        1: Tile(128, 64, 128, 8, 3),
        2: Tile(128, 64, 128, 8, 3),
        4: Tile(64, 32, 128, 8, 3),
        8: Tile(64, 32, 64, 8, 3),
    },
    "mma": {1: Tile(64, 32, 128, 8, 3), 2: Tile(64, 32, 64, 8, 3), 4: Tile(32, 32, 64), 8: Tile(16, 32, 32, 4)},
    "float32": {1: Tile(64, 32, 64), 2: Tile(64, 32, 32), 4: Tile(32, 16, 32), 8: Tile(16, 16, 16)},
}
WEIGHT_GRAD = {
    "wgmma": {
        1: Tile(64, 64, 128, 4, 3, 64),
        2: Tile(64, 64, 128, 8, 3, 64),
        4: Tile(64, 64, 64, 8, 2, 64),
        8: Tile(32, 32, 64, 8, 2, 64),
    },
    "mma": {1: Tile(32, 64, 128, 8, 3), 2: Tile(32, 64, 64, 8, 3), 4: Tile(32, 32, 64), 8: Tile(16, 16, 32)},
    "float32": {1: Tile(32, 64, 64), 2: Tile(32, 32, 32), 4: Tile(16, 32, 32), 8: Tile(16, 16, 16)},
}


def _instructions(x: Tensor) -> str:
    """What multiplies matrices of x's dtype on its device."""
    if x.dtype == torch.float32:
        return "float32"
    # 10 has wgmma's successor; 12 has neither, and less shared memory than 8.0
    return "wgmma" if (9, 0) <= launch.capability(x) < (12, 0) else "mma"


def forward_tile(x: Tensor, order: int, c_in: int, c_out: int) -> Tile:
    """Of the forward pass on |H| = order planes."""
    return FORWARD[_instructions(x)][order].fitted(c_in, c_out)


def weight_grad_tile(x: Tensor, order: int, c_in: int, c_out: int) -> Tile:
    """Of the gradient in the filter."""
    return WEIGHT_GRAD[_instructions(x)][order].fitted(c_in, c_out)
