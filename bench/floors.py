"""The least time of the GPU's target layers by bytes and by multiplications: `python bench/floors.py`, for NOTES.md."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import NamedTuple

import bench_group_conv2d
import bench_group_pool
import click
import show
from convolution import multiplications, weight_shape
from measure import ROOT, Case
from report import markdown_table, replace_section
from targets import TARGETS

import gconv

# NVIDIA's datasheet of the H200 SXM: HBM3e, and bfloat16 in the matrix units without sparsity. What a run measures is
# less, and takes their place there.
BANDWIDTH, MATRIX_FLOPS = 4.8e12, 989e12
KERNEL_SHARE = 0.75  # of the matrix units' peak that DESIGN's kernel is expected to reach
NOTES = ROOT / "bench/NOTES.md"


class Floor(NamedTuple):
    """Least seconds of a layer.

    Attributes:
        bytes: each map and filter read or written once, at the bandwidth.
        dense: the bank's products at the matrix units' peak.
        irreps: the group-Fourier products at the same peak.
    """

    bytes: float
    dense: float
    irreps: float

    @property
    def predicted_ratio(self) -> float:
        """dense at its floor over the kernel at KERNEL_SHARE of the peak, or at the bandwidth if that takes longer."""
        return max(self.dense, self.bytes) / max(self.irreps / KERNEL_SHARE, self.bytes)


def floor(case: Case) -> Floor:
    """Of one pass of group_conv2d: the gradients multiply and move as much as the forward pass does."""
    passes = 3 if case.work == "forward+backward" else 1
    pixels, order = case.batch * case.height**2, gconv.group_from_name(case.group).order
    maps, weights = pixels * order * (case.c_in + case.c_out), math.prod(weight_shape(case))
    in_irreps, dense = multiplications(case, "cuda")
    return Floor(
        passes * (maps + weights) * case.torch_dtype.itemsize / BANDWIDTH,
        passes * 2 * dense / MATRIX_FLOPS,
        passes * 2 * in_irreps / MATRIX_FLOPS,
    )


def predictions() -> str:
    """One line per bfloat16 case that has a target."""
    lines = []
    for case in (*bench_group_conv2d.CASES, *bench_group_pool.CASES):
        if case.suite not in ("gpu", "gpu pool") or case.dtype != "bfloat16":
            continue
        quantity = "of copy bandwidth" if case.op == "group_pool" else "ratio"
        covering = [target for target in TARGETS if target.covers(case) and target.quantity == quantity]
        bounds = {f"target {target.backend}": target.bound for target in covering}
        if not bounds:
            continue
        line = {"op": case.op, "group": case.group, "channels, image": show.shape(asdict(case)), "pass": case.work}
        if case.op == "group_pool":
            line |= {"bytes ms": f"{bench_group_pool.traffic(case) / BANDWIDTH * 1e3:.3f}"}
            line |= {name: f">= {bound:.0%} of the copy bandwidth" for name, bound in bounds.items()}
        else:
            least = floor(case)
            line |= {f"{name} ms": f"{seconds * 1e3:.3f}" for name, seconds in least._asdict().items()}
            line |= {"predicted ratio": f"{least.predicted_ratio:.2f}"}
            line |= {name: f">= {bound:g}" for name, bound in bounds.items()}
        lines.append(line)
    return markdown_table(lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Print the predictions, and write them into bench/NOTES.md."""
    NOTES.write_text(replace_section(NOTES.read_text(), "predictions", predictions(), "bench/floors.py"))
    click.echo(predictions())


if __name__ == "__main__":
    main()
