"""Is a law invariant under a group? Two-sample tests between samples and transformed samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gconv import PlanarGroup
from sgan.metrics.actions import (
    act_on_images,
    disk_mask,
    element_name,
    point_actions,
    rotate_images,
    split_off_rotation,
)


class TwoSampleResult(NamedTuple):
    """Outcome of a two-sample test.

    Attributes:
        distance: unbiased estimate of the squared energy distance; about 0 (it may be negative) for equal laws.
        p_value: in (0, 1]; share of random relabellings of the samples with at least this distance. Small: laws differ.
    """

    distance: float
    p_value: float


def two_sample_test(x: Tensor, y: Tensor, *, permutations: int = 500, seed: int = 0) -> TwoSampleResult:
    """Permutation test of the energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo 2013).

    The p-value (1 + #{permuted >= observed}) / (1 + permutations) is valid at every sample size, if the samples are
    independent: never test samples against transforms of the same samples (`symmetry_tests` takes care of that).

    Args:
        x: (N, ...) samples, N >= 2; flattened to vectors.
        y: (M, ...) samples of the same shape, M >= 2.
        permutations: number of random relabellings; the smallest possible p-value is 1 / (1 + permutations).
        seed: of the relabellings; the result is deterministic.

    Returns:
        Distance and p-value. Needs (N + M)^2 + (N + M) * permutations float64 values; everything is in float64.

    Raises:
        ValueError: shapes do not match, too few samples, a value that is not finite, or permutations < 1.
    """
    if x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"two_sample_test: x and y must be (N >= 2, ...) of one sample shape, got {shapes}")
    if permutations < 1:
        raise ValueError(f"two_sample_test: permutations must be at least 1, got {permutations}")
    pooled = torch.cat([x.detach().cpu().flatten(1), y.detach().cpu().flatten(1)]).to(torch.float64)
    if not pooled.isfinite().all():
        raise ValueError("two_sample_test: x and y must be finite, got NaN or infinity")
    distances = torch.cdist(pooled, pooled)
    distances.fill_diagonal_(0)
    values = _energy_distances(distances, _memberships(len(x), len(y), permutations, seed))
    # Rounding must not tell equal statistics apart (a relabelling that changes nothing, repeated samples).
    tolerance = 1e-9 * float(distances.mean())
    at_least = int((values[1:] >= values[0] - tolerance).sum())
    return TwoSampleResult(float(values[0]), (1 + at_least) / (1 + permutations))


def symmetry_tests(
    samples: Tensor,
    transforms: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    permutations: int = 500,
    seed: int = 0,
) -> dict[str, TwoSampleResult]:
    """Test a law against each of its transforms: are T(X) and X equal in law?

    The first half of the samples is tested against the transformed second half, so the two sides are independent.

    Args:
        samples: (N, ...) independent samples of the law, N >= 4; of an odd number the last is not used.
        transforms: name -> function of a batch of samples, for example every group element's action on images.
        permutations, seed: as in `two_sample_test`.

    Returns:
        name -> result, in the order of `transforms`. With m transforms compare the smallest p-value with level / m.

    Raises:
        ValueError: fewer than 4 samples, or as `two_sample_test`.
    """
    if len(samples) < 4:
        raise ValueError(f"symmetry_tests: samples must be (N >= 4, ...), got {tuple(samples.shape)}")
    half = len(samples) // 2
    first, second = samples[:half], samples[half : 2 * half]
    return {
        name: two_sample_test(first, transform(second), permutations=permutations, seed=seed)
        for name, transform in transforms.items()
    }


def law_symmetry(
    samples: Tensor, group: PlanarGroup, *, permutations: int = 500, seed: int = 0
) -> dict[str, TwoSampleResult]:
    """Test a law of images or of points in the plane against its image under every element of a group.

    The first half X of the samples is tested against the moved second half, g X'. Points move exactly, and so do images
    under elements that map the pixel grid onto itself. Another element is g = h R(t), h such an element and R a turn
    by t, and a turn interpolates, which changes the law of the pixels and not only where they are. So both sides
    are turned by half the angle: R(-t/2) h^-1 X against R(t/2) X', which are equal in law if X and g X' are. Both are
    interpolated (bicubic) alike, one the mirror image of the other, and compared within the inscribed disk.

    Args:
        samples: (N, 2) points (x, y) or (N, C, H, H) images, independent, N >= 4; of an odd
            number the last is not used.
        group: the elements but the identity are tested.
        permutations, seed: as in `two_sample_test`.

    Returns:
        `element_name` -> result. With m elements compare the smallest p-value with level / m.

    Raises:
        ValueError: samples of another shape, or as `two_sample_test`.
    """
    if samples.ndim == 2 and samples.shape[1] == 2:
        return symmetry_tests(samples, point_actions(group), permutations=permutations, seed=seed)
    if samples.ndim != 4 or samples.shape[2] != samples.shape[3] or len(samples) < 4:
        shape = tuple(samples.shape)
        raise ValueError(f"law_symmetry: samples must be (N >= 4, 2) points or (N >= 4, C, H, H) images, got {shape}")
    results = {}
    for element in group.elements[1:]:
        x, y = _images_to_compare(samples, group, element)
        results[element_name(group, element)] = two_sample_test(x, y, permutations=permutations, seed=seed)
    return results


def _images_to_compare(samples: Tensor, group: PlanarGroup, element: int) -> tuple[Tensor, Tensor]:
    half = len(samples) // 2
    first, second = samples[:half], samples[half : 2 * half]
    if element in group.lattice_elements:
        return first, group.act(second, element)
    lattice_element, rotation_rad = split_off_rotation(group, element)
    back = act_on_images(group, group.inverse(lattice_element), first)
    inside = disk_mask(samples.shape[-1]).to(samples.device)
    return rotate_images(back, -rotation_rad / 2) * inside, rotate_images(second, rotation_rad / 2) * inside


def _memberships(n: int, m: int, permutations: int, seed: int) -> Tensor:
    """Return (n + m, 1 + permutations) float64: 1 where a sample counts as x. Column 0 is the true labelling."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(permutations, n + m, generator=generator, dtype=torch.float64).argsort(1)
    permuted = (order < n).to(torch.float64)
    truth = torch.cat([torch.ones(1, n, dtype=torch.float64), torch.zeros(1, m, dtype=torch.float64)], 1)
    return torch.cat([truth, permuted]).T


def _energy_distances(distances: Tensor, is_x: Tensor) -> Tensor:
    n = is_x[:, 0].sum()
    m = len(is_x) - n
    to_x = distances @ is_x
    within_x = (is_x * to_x).sum(0)
    between = ((1 - is_x) * to_x).sum(0)
    within_y = distances.sum() - within_x - 2 * between
    return 2 * between / (n * m) - within_x / (n * (n - 1)) - within_y / (m * (m - 1))
