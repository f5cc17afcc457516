"""What bounds the CUDA convolution kernels by their tiling: `python bench/limits.py`, for NOTES.md.

Bytes and products are those in the heads of csrc/cuda/group_conv2d.h and weight_grad.h, for bfloat16 on Hopper: blocks
of 128 pixels, slices of 32 input channels, 256 / |G| output channels, clusters of two blocks that share the second
operand.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import NamedTuple

import bench_group_conv2d
import click
import show
from convolution import multiplications
from floors import MATRIX_FLOPS, NOTES, floor
from measure import Case
from report import markdown_table, replace_section
from targets import TARGETS

import gconv

# Per multiprocessor and clock: matrix FLOPs of the datasheet's peak; bytes of shared memory (32 banks of 4, CUDA C++
# Programming Guide); and bytes that copies get from the L2 cache, which no datasheet says: assumed.
MULTIPROCESSORS = 132
CLOCK = 1.83e9
MATRIX, SHARED, L2 = MATRIX_FLOPS / MULTIPROCESSORS / CLOCK, 128, 23
PIXELS, SLICE, ROW, CLUSTER, BLOCK_TAPS = 128, 32, 64, 2, 4  # ROW: bytes of 32 channels or pixels
TILE, SHARED_BYTES = 16384, 231424  # of the second operand; that a block has for halos and those


class Limits(NamedTuple):
    """Least seconds of one pass by each unit."""

    matrix: float
    shared: float
    l2: float

    @property
    def bound(self) -> float:
        return max(self)


class Tile(NamedTuple):
    """How an output's pixels fall on blocks."""

    number: int
    halo: int


def tile_of(case: Case) -> Tile:
    """The one that csrc/cuda/convolution.cu takes: the fewest tiles, then the smallest halo.

    Where shared memory holds only one of its halos, beside two tiles of the second operand, a tile counts for 5/4.
    """
    border, order = case.size - 1, gconv.group_from_name(case.group).order
    shapes = [(1, 8, 16), (1, 16, 8), (1, 4, 32), (2, 8, 8)]  # images, rows, columns

    def cost(tile: Tile) -> tuple[int, int]:
        two_fit = 2 * (order * tile.halo * ROW + TILE) <= SHARED_BYTES
        return tile.number * (4 if two_fit else 5), tile.halo

    return min(
        (
            Tile(
                math.ceil(case.batch / images) * math.ceil(case.height / rows) * math.ceil(case.height / columns),
                images * (rows + border) * (columns + border),
            )
            for images, rows, columns in shapes
        ),
        key=cost,
    )


def limits(case: Case, step: str) -> Limits:
    """Of the forward pass, which the input's gradient is like, or of the "weight_grad"."""
    order, taps, tile = gconv.group_from_name(case.group).order, case.size**2, tile_of(case)
    columns = 256 // order
    products = multiplications(case, "cuda")[0] // (case.batch * case.height**2 * case.c_in * case.c_out * taps)
    halo, planes = order * tile.halo * ROW, order * PIXELS * ROW
    clocks_of_matrix = 2 * taps * products * PIXELS * columns * SLICE / MATRIX
    second = taps * products * 2 * columns * ROW  # read by wgmma: each of two warpgroups has 64 rows
    if step == "forward":
        filters = taps * order * columns * ROW
        l2, written, read = halo + filters / CLUSTER, halo + filters, second + taps * planes
    else:
        blocks = math.ceil(taps / BLOCK_TAPS)  # each copies the halo and grad_out's coefficients anew
        images = order * columns * 2 * PIXELS
        l2, written = blocks * (halo + images / CLUSTER), blocks * (halo + images)
        read = second + taps * planes
    slices = math.ceil(case.c_in / SLICE) * math.ceil(case.c_out / columns) * tile.number
    seconds = slices / MULTIPROCESSORS / CLOCK
    return Limits(clocks_of_matrix * seconds, (written + read) / SHARED * seconds, l2 / L2 * seconds)


def table() -> str:
    """One line per target layer and kernel, and the ratio to a dense convolution at the matrix units' peak."""
    lines = []
    for case in bench_group_conv2d.CASES:
        targets = [t for t in TARGETS if t.backend == "cuda" and t.quantity == "ratio" and t.covers(case)]
        if case.suite != "gpu" or case.work != "forward" or not targets:
            continue
        least = floor(case)
        for step in ("forward", "weight_grad"):
            found = limits(case, step)
            line = {"group": case.group, "channels, image": show.shape(asdict(case)), "kernel": step}
            line |= {f"{name} ms": f"{seconds * 1e3:.3f}" for name, seconds in found._asdict().items()}
            line |= {"bytes ms": f"{least.bytes * 1e3:.3f}", "dense ms": f"{least.dense * 1e3:.3f}"}
            ratio = least.dense / max(found.bound, least.bytes)
            lines.append(line | {"ratio at most": f"{ratio:.2f}", "target": f">= {targets[0].bound:g}"})
    return markdown_table(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Print the limits, and write them into bench/NOTES.md."""
    NOTES.write_text(replace_section(NOTES.read_text(), "limits", table(), "bench/limits.py"))
    click.echo(table())


if __name__ == "__main__":
    main()
