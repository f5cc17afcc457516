"""The kernel distance (KID) of two feature sets (Binkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000
CHUNK = 1024  # rows of a matrix of kernel values held at once


class KernelDistance(NamedTuple):
    """Mean and population standard deviation over the subsets; lower is better.

    The mean is unbiased: about 0, and as often below as above, for equal laws. The subsets overlap, so the standard
    deviation is no error of the mean.
    """

    mean: float
    std: float


def kernel_distance(
    real_features: Tensor,
    fake_features: Tensor,
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> KernelDistance:
    """Average `polynomial_mmd2` over random subsets, drawn without replacement, of both sets (section 4).

    Args:
        real_features: (N, D), N >= 2.
        fake_features: (M, D), M >= 2.
        subsets: number of subsets.
        subset_size: rows per subset, at least 2; sets of fewer rows are used whole, as many rows of either.
        seed: of the subsets; the result is deterministic.

    Returns:
        Mean and standard deviation, in float64 on the CPU. Unlike a Frechet distance the mean has no bias that depends
        on N and M, though its spread does.

    Raises:
        ValueError: another shape, fewer than 2 rows, a value that is not finite, or subsets or subset_size too small.
    """
    real, fake = _checked("kernel_distance", real_features, fake_features)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"kernel_distance: subsets must be >= 1 and subset_size >= 2, got {subsets} and {subset_size}")
    size = min(subset_size, len(real), len(fake))
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        rows = [torch.randperm(len(x), generator=generator)[:size] for x in (real, fake)]
        values.append(_mmd2(real[rows[0]], fake[rows[1]]))
    over_subsets = torch.stack(values)
    return KernelDistance(float(over_subsets.mean()), float(over_subsets.std(unbiased=False)))


def polynomial_mmd2(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of MMD^2 with k(a, b) = (a . b / D + 1)^3 (Gretton et al. 2012, lemma 6; arXiv 1801.01401).

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j).

    Args:
        x: (N, D), N >= 2.
        y: (M, D), M >= 2.

    Returns:
        The estimate, which may be negative. Memory is some (1024, max(N, M)) blocks of float64 values.

    Raises:
        ValueError: another shape, fewer than 2 rows, or a value that is not finite.
    """
    return float(_mmd2(*_checked("polynomial_mmd2", x, y)))


def _mmd2(x: Tensor, y: Tensor) -> Tensor:
    return _mean_over_pairs(x) + _mean_over_pairs(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _mean_over_pairs(x: Tensor) -> Tensor:
    return (_kernel_sum(x, x) - _kernel(x.square().sum(1), x.shape[1]).sum()) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([_kernel(rows @ y.T, x.shape[1]).sum() for rows in x.split(CHUNK)]).sum()


def _kernel(products: Tensor, dim: int) -> Tensor:
    base = products / dim + 1
    return base * base * base


def _checked(op: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for name, features in (("first", x), ("second", y)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] == 0:
            raise ValueError(f"{op}: the {name} set must be (N, D) with N >= 2, got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError(f"{op}: the {name} set must be finite, got NaN or infinity")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{op}: both sets must have one feature dimension D, got {x.shape[1]} and {y.shape[1]}")
    return x.detach().cpu().to(torch.float64), y.detach().cpu().to(torch.float64)
