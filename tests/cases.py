"""What the tests of the ops share: shapes, operands, the backends that are present, and the rounding bound."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

import gconv
from gconv import backends, cosets

Pair = tuple[tuple[str, Any], tuple[str, Any]]

GROUPS = ("C1", "C2", "C4", "D1", "D2", "D4")
OPERATIONS = ("lifting_conv2d", "group_conv2d")
# tests/test_gpu.py: on the CPU one runs in an interpreter, the other is emulated, far too slow for the other tests.
GPU_BACKENDS = ("triton", "cuda")
BACKENDS = tuple(
    name
    for name in backends.BACKENDS
    if name not in GPU_BACKENDS and backends.unavailable(name, torch.zeros(1)) is None
)

# Every value is here for a reason: 1 and 2 are the borders of windows, 7 and 13 are primes, 8 and 16 fill vectors and
# tiles exactly, 33 and 17 are one past them; 3 and 5 leave remainders of every vector.
FACTORS: dict[str, tuple[object, ...]] = {
    "operation": OPERATIONS,
    "group": GROUPS,
    "size": (1, 2, 3, 4, 5, 7),
    "stride": (1, 2, 3),
    "padding": (0, 1, 2, 3),
    "height": (1, 2, 7, 8, 13, 16, 33),
    "width": (1, 2, 7, 8, 13, 16, 33),
    "c_in": (1, 3, 5, 8, 16, 17),
    "c_out": (1, 3, 5, 8, 16, 17),
    "batch": (1, 2, 3),
    "bias": (False, True),
}


@dataclass(frozen=True)
class Case:
    """One convolution's arguments."""

    operation: str
    group: str
    size: int = 3
    stride: int = 1
    padding: int = 1
    height: int = 5
    width: int = 4
    c_in: int = 2
    c_out: int = 3
    batch: int = 2
    bias: bool = True

    @property
    def lifting(self) -> bool:
        return self.operation == "lifting_conv2d"

    @property
    def planar_group(self) -> gconv.PlanarGroup:
        return gconv.group_from_name(self.group)

    @property
    def group_axis(self) -> tuple[int, ...]:
        return () if self.lifting else (self.planar_group.order,)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, self.c_in, *self.group_axis, self.height, self.width)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return cosets.filter_shape(self.c_out, self.x_shape, self.size, self.planar_group)

    @property
    def output_shape(self) -> tuple[int, ...]:
        pixels = ((length + 2 * self.padding - self.size) // self.stride + 1 for length in (self.height, self.width))
        return (self.batch, self.c_out, self.planar_group.order, *pixels)

    def operands(self, draw: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        return draw(self.x_shape), draw(self.weight_shape), draw((self.c_out,)) if self.bias else None

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None, backend: str | None = None) -> Tensor:
        return getattr(gconv, self.operation)(
            x, weight, bias, group=self.planar_group, stride=self.stride, padding=self.padding, backend=backend
        )

    def input_grad(self, grad_out: Tensor, weight: Tensor, backend: str) -> Tensor:
        op = getattr(torch.ops.gconv, f"{self.operation}_input_grad")
        return op(grad_out, weight, self.height, self.width, self.group, self.stride, self.padding, backend)

    def weight_grad(self, x: Tensor, grad_out: Tensor, backend: str) -> Tensor:
        op = getattr(torch.ops.gconv, f"{self.operation}_weight_grad")
        return op(x, grad_out, self.size, self.group, self.stride, self.padding, backend)


def integers(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Integers in -3..3: with them every sum in this suite stays below 2^24, exact in float32."""
    return torch.randint(-3, 4, shape).to(dtype)


def legal(case: Case) -> bool:
    """A non-square image and a window that fits."""
    return case.height != case.width and min(case.height, case.width) + 2 * case.padding >= case.size


def pairs(case: Case) -> set[Pair]:
    """The pairs of values of two factors that the case covers."""
    return {((a, getattr(case, a)), (b, getattr(case, b))) for a, b in combinations(FACTORS, 2)}


def all_pairs() -> set[Pair]:
    """Every pair of values of two factors; only equal height and width are left out."""
    return {
        ((a, u), (b, v))
        for a, b in combinations(FACTORS, 2)
        for u, v in product(FACTORS[a], FACTORS[b])
        if (a, b) != ("height", "width") or u != v
    }


def pairwise_cases(count: int, seed: int = 0) -> list[Case]:
    """Legal cases that cover every pair, greedily: of 20 random cases with a missing pair the one that covers most."""
    rng = random.Random(seed)
    missing, cases = sorted(all_pairs(), key=str), []
    rng.shuffle(missing)
    while missing or len(cases) < count:
        fixed = dict(missing[0]) if missing else {}
        candidates = [next(_random_cases(rng, fixed)) for _ in range(20 if missing else 1)]
        cases.append(max(candidates, key=lambda case: len(pairs(case).intersection(missing))))
        covered = pairs(cases[-1])
        missing = [pair for pair in missing if pair not in covered]
    return cases


def _random_cases(rng: random.Random, fixed: dict[str, Any]) -> Iterator[Case]:
    while True:
        case = Case(**{name: rng.choice(values) for name, values in FACTORS.items()} | fixed)
        if legal(case):
            yield case


def three_maps(
    case: Case, x: Tensor, weight: Tensor, grad_out: Tensor, backend: str, bias: Tensor | None = None
) -> dict[str, Tensor]:
    """The convolution, with or without bias, and its two gradients."""
    return {
        "forward": case.run(x, weight, bias, backend),
        "input_grad": case.input_grad(grad_out, weight, backend),
        "weight_grad": case.weight_grad(x, grad_out, backend),
    }


def rounding_bound(terms: int, magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a sum of ``terms`` products, computed in ``dtype``, may be from the exact one.

    magnitude is S, the same sum of absolute values. The i-th of k additions rounds by at most u |p_i| with u = eps / 2
    and p_i the partial sum, |p_i| <= S i / k on average. The errors are independent with mean zero (Higham & Mary 2019,
    SIAM J. Sci. Comput. 41), so by Hoeffding their sum stays below 6 u sqrt(sum p_i^2) = 6 u S sqrt(k / 3), that is
    less than 2 eps sqrt(k) S, but for a chance of 2 exp(-18). The transforms of both operands and back are at most
    three levels of additions each, and the product and the bias round once more: eleven roundings of at most u S, less
    than 6 eps S.
    """
    return (2 * terms**0.5 + 6) * torch.finfo(dtype).eps * magnitude


def bounds(case: Case, magnitudes: dict[str, Tensor], backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The rounding bound of each map of :func:`three_maps`, which ``magnitudes`` are for the absolute values.

    A direct sum has one product per pair of group elements. The transform leaves one per row of the largest irrep,
    which has two, and spreads their rounding over the group axis of the result. Taps on the padding add exact zeros.

    Half precision is summed in float32, but an operand may be rounded after each of its transform's three levels and
    before it is multiplied: eight roundings of at most S eps / 2 in both. The way back takes them times the sum over
    irreps of d^3 / |G|, at most 3 / 2, and the result is rounded once: 13 roundings, less than 7 eps S.
    """
    order = case.planar_group.order
    transformed = backend in ("cpu", "triton", "cuda") and not case.lifting
    per_tap = 2 * case.planar_group.coset_count if transformed else order
    pixels = case.batch * min(case.output_shape[-2], case.height) * min(case.output_shape[-1], case.width)
    terms = {
        "forward": case.size**2 * case.c_in * (1 if case.lifting else per_tap),
        "input_grad": case.size**2 * case.c_out * per_tap,
        "weight_grad": pixels * per_tap,
    }
    half = dtype in (torch.float16, torch.bfloat16)
    found = {}
    for name, value in magnitudes.items():
        spread = value.sum(2, keepdim=True).expand_as(value) if transformed else value
        found[name] = rounding_bound(terms[name], spread, torch.float32 if half else dtype)
        if half:
            found[name] += 7 * torch.finfo(dtype).eps * spread
    return found
