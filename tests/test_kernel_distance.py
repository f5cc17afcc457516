"""The kernel distance against torchmetrics, a sum over pairs and its own expectation."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from sgan.metrics import kernel_distance, polynomial_mmd2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("subsets", "size"), [(1, 40), (6, 15)])
@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_agrees_with_torchmetrics(subsets: int, size: int) -> None:
    real, fake = normal(40, 9), 0.8 * normal(50, 9, seed=1) + 0.2
    theirs = KernelInceptionDistance(feature=nn.Identity(), subsets=subsets, subset_size=size)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    torch.manual_seed(7)
    mean, std = theirs.compute()  # draws one permutation of the real and one of the fake rows per subset, as we do
    got = kernel_distance(real, fake, subsets=subsets, subset_size=size, seed=7)
    assert got == pytest.approx((float(mean), float(std)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 9), (12, 4)])
def test_mmd_is_a_sum_over_pairs(n: int, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sgan.metrics.kernel_distance"], "CHUNK", 3)  # the package exports a namesake
    x, y = normal(n, 5), normal(m, 5, seed=1) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return (sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / 5 + 1) ** 3

    within_x = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    between = np.mean([k(a, b) for a in x for b in y])
    assert polynomial_mmd2(x, y) == pytest.approx(within_x + within_y - 2 * between, rel=1e-9)


def test_mmd_is_unbiased() -> None:
    """For X, Y uniform on {-1, 1}: E k is (8 + 0) / 2 = 4 for independent equal laws, so the mean of MMD^2 is 0."""
    signs = torch.randint(2, (2000, 12, 1), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    values = torch.tensor([polynomial_mmd2(s[:5], s[5:]) for s in signs])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(2000)
    assert values.min() < 0


def test_the_distance_grows_with_the_difference() -> None:
    real = normal(300, 8)
    values = [kernel_distance(real, normal(300, 8, seed=1) + shift, subsets=5).mean for shift in (0.0, 0.2, 0.5)]
    assert abs(values[0]) < values[1] < values[2]


def test_subsets_are_seeded_and_no_larger_than_the_sets() -> None:
    real, fake = normal(30, 4), normal(20, 4, seed=1)
    assert kernel_distance(real, fake, subsets=3) == kernel_distance(real, fake, subsets=3, subset_size=20)
    assert kernel_distance(real, fake, subset_size=10) == kernel_distance(real, fake, subset_size=10)
    assert kernel_distance(real, fake, subset_size=10) != kernel_distance(real, fake, subset_size=10, seed=1)
    equal = normal(20, 4)
    assert kernel_distance(equal, equal, subsets=4).std == pytest.approx(0, abs=1e-12)  # always all 20 rows


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"the first set must be \(N, D\) with N >= 2, got \(1, 3\)"),
        (torch.zeros(4, 3), torch.full((4, 3), math.inf), "the second set must be finite"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "both sets must have one feature dimension D, got 3 and 2"),
    ],
)
def test_bad_features(real: Tensor, fake: Tensor, message: str) -> None:
    for function in (kernel_distance, polynomial_mmd2):
        with pytest.raises(ValueError, match=f"{function.__name__}: {message}"):
            function(real, fake)


def test_bad_subsets() -> None:
    with pytest.raises(ValueError, match="subsets must be >= 1 and subset_size >= 2, got 0 and 1"):
        kernel_distance(normal(4, 2), normal(4, 2), subsets=0, subset_size=1)
