"""The backends and the rule that picks one. A named backend runs or raises; None lets gconv choose.

Every backend is a module with the same six functions: conv2d, conv2d_input_grad, conv2d_weight_grad, group_pool,
group_pool_backward and group_pool_select. Those that run on some tensors only say so by a function missing. cuda has no
kernels for some convolutions, as its function uncovered says: gconv does not choose it for those, and where it is named
it hands them to dense. Those that gconv chooses from for CPU tensors, dense and cpu, also transform a filter once for
many calls: pack, packing_state and conv2d_packed (gconv/backends/filter_cache.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import combinations_with_replacement
from operator import mul
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gconv.backends import cpu, cuda, dense, measured, reference
from gconv.backends.triton import backend as triton_backend
from gconv.groups import group_from_name

AUTO = "auto"
BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "dense": dense,
    "cpu": cpu,
    "triton": triton_backend,
    "cuda": cuda,
}
PACKING = (dense, cpu)  # the modules that transform a filter once for many calls
_LIMITED = ("cpu", "triton", "cuda")
ON_GPU = ("triton", "cuda")  # what gconv chooses from, beside dense, for CUDA tensors
TABLE = Path(__file__).with_name("choice.json")
# The largest work that bench/tune.py measures, in FLOPs of dense: some 10 ms on two cores, less where torch is slow.
MEASURED_FLOPS = {torch.float32: 1e9, torch.float64: 5e8, torch.bfloat16: 1e9, torch.float16: 5e7}


class Work(NamedTuple):
    """What the choice depends on: one pass of an op, its filter (C_out, C_in, [|G|,] K, K), and its output's pixels.

    ``step`` is "forward", "input_grad" or "weight_grad"; of group_pool "forward", "backward" or "select". Sizes are
    those of the forward pass in all of them. group_pool has c_out = size = stride = 1. The channels of maps off the
    pixel grid, on the lattice subgroup here, come in ``blocks`` of adjacent ones, one per coset.
    """

    operation: str
    step: str
    group: str
    dtype: torch.dtype
    c_in: int
    c_out: int
    size: int
    stride: int
    batch: int
    height: int
    width: int
    blocks: int = 1


def unavailable(name: str, x: Tensor) -> str | None:
    """Why the backend cannot run on tensors like x; None if it can."""
    return BACKENDS[name].missing(x) if name in _LIMITED else None


def unsuited(name: str, work: Work, x: Tensor) -> str | None:
    """Why the backend is not chosen for this work on tensors like x, whatever it would take; None if it may be."""
    return unavailable(name, x) or (cuda.uncovered(work, x) if name == "cuda" else None)


def choose(work: Work, x: Tensor) -> tuple[str, str]:
    """The backend that ``backend=None`` means for this work on tensors like x, and why."""
    if x.is_cuda:
        candidates = tuple(name for name in ON_GPU if unsuited(name, work, x) is None)
        return measured.choose(work, _device_name(x.device.index), candidates)
    if reason := unavailable("cpu", x):
        return "dense", f"cpu cannot run: {reason}"
    if one_by_one(work):
        return "dense", "cpu would take one channel at a time, which fills no vector: the planes of a coset have one"
    ratio = predicted_ratio(work)
    if ratio < 1:
        return "dense", f"cpu may take {1 / ratio:.2g} times as long, by the table that bench/tune.py measured"
    return "cpu", f"dense would take {ratio:.2g} times as long, by the table that bench/tune.py measured"


def resolve(name: str, work: Work, x: Tensor) -> ModuleType:
    """The module to run: the named backend, or the chosen one for "auto".

    Raises:
        RuntimeError: the named backend cannot run these tensors.
    """
    if name == AUTO and x.is_cuda:
        return BACKENDS[choose(work, x)[0]]
    if name == AUTO:
        fast = unavailable("cpu", x) is None and not one_by_one(work) and predicted_ratio(work) >= 1
        return cpu if fast else dense
    if reason := unavailable(name, x):
        raise RuntimeError(f"{work.operation}: backend {name!r} cannot run: {reason}")
    return BACKENDS[name]


@lru_cache(maxsize=4096)
def predicted_ratio(work: Work) -> float:
    """dense's time over cpu's, cautiously: two to the power of a quadratic polynomial in the features, less a margin.

    bench/tune.py fits it, and takes the margin so that dense is rarely faster where this is above 1. The constant and
    the linear part are the group's and the dtype's, the curvature is shared by all. Lengths outside the measured range
    count as its ends: a polynomial says nothing there.
    """
    steps, bounds = _table()["steps"], _table()["bounds"]
    step = steps[f"{work.operation} {work.step}"]
    lengths = [min(max(x, least), most) for x, (least, most) in zip(features(work), bounds, strict=True)]
    point = [1.0, *lengths, *products(lengths)]
    linear = [a + b for a, b in zip(step["group"][work.group], step["dtype"][cpu.DTYPES[work.dtype]], strict=True)]
    return 2.0 ** (sum(map(mul, [*linear, *step["curvature"]], point)) - step["margin"])


def features(work: Work) -> list[float]:
    """Logarithms of the lengths that the two backends' times depend on, and of where they bend.

    Those are channels that fill no vector, and outputs that leave the second-level cache. Work larger than was measured
    counts as the same with fewer images: a polynomial says nothing in a corner where it saw no shapes.
    """
    order = group_from_name(work.group).order
    planes = order if work.operation == "lifting_conv2d" else order**2
    flops_per_pixel = 2 * work.size**2 * work.c_in * work.c_out * planes
    pixels = min(work.batch * work.height * work.width, MEASURED_FLOPS[work.dtype] / max(1, flops_per_pixel))
    lengths = (pixels, work.height, work.c_in, work.c_out, work.size, work.stride)
    bends = (*(min(channels, 8) for channels in adjacent(work)), pixels * work.c_out / 2**16)
    return [math.log2(max(1, length)) for length in (*lengths, *bends)]


def adjacent(work: Work) -> tuple[int, int]:
    """Input and output channels that are adjacent in memory."""
    blocks_in = 1 if work.operation == "lifting_conv2d" else work.blocks
    return work.c_in // blocks_in, work.c_out // work.blocks


def one_by_one(work: Work) -> bool:
    """Whether the cpu backend would handle channels singly off the pixel grid; no such shape is in the table."""
    return work.blocks > 1 and min(adjacent(work)) == 1


def products(point: list[float]) -> Iterator[float]:
    """The monomials of degree two."""
    return (a * b for a, b in combinations_with_replacement(point, 2))


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


@cache
def _device_name(index: int) -> str:
    """Of a CUDA device; fake tensors are on one that may not exist."""
    return torch.cuda.get_device_name(index) if torch.cuda.is_available() else "no device"
