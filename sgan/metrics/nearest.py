"""Memorisation: the training images nearest to each sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024  # samples whose distances are held at once


class Nearest(NamedTuple):
    """The k nearest training images of every sample, nearest first; of equal distances the smaller index first.

    indices: (N, k) int64 into the training images. distances: (N, k) Euclidean, the same dtype as the samples'.
    """

    indices: Tensor
    distances: Tensor


def nearest_images(
    samples: Tensor, training: Tensor, *, k: int = 1, orbit: Iterable[Callable[[Tensor], Tensor]] = ()
) -> Nearest:
    """Find the training images with the smallest Euclidean distance to each sample.

    A symmetric generator that memorises a training image also makes turned copies of it: `orbit` finds those.

    Args:
        samples: (N, ...) images, or features of them.
        training: (M, ...) of the same sample shape, M >= k.
        k: neighbours.
        orbit: transforms of a batch of samples that keep its shape; the distance is the smallest over the sample itself
            and these transforms of it (`image_actions(group).values()`).

    Returns:
        Indices and distances. Memory is some blocks of (1024, M) distances.

    Raises:
        ValueError: shapes do not match, M < k, k < 1, or a value that is not finite.
    """
    if samples.shape[1:] != training.shape[1:] or not 1 <= k <= len(training):
        shapes = f"{tuple(samples.shape)}, {tuple(training.shape)}"
        raise ValueError(
            f"nearest_images: samples and training must be (N, ...) and (M >= k = {k} >= 1, ...), got {shapes}"
        )
    if not (samples.isfinite().all() and training.isfinite().all()):
        raise ValueError("nearest_images: samples and training must be finite, got NaN or infinity")
    transforms = [lambda batch: batch, *orbit]
    targets = training.flatten(1)
    found = [_nearest(batch, targets, k, transforms) for batch in samples.split(CHUNK) if len(batch)]
    empty = [(torch.empty(0, k, dtype=torch.int64, device=samples.device), samples.new_empty(0, k))]
    indices, distances = zip(*(found or empty), strict=True)
    return Nearest(torch.cat(indices), torch.cat(distances))


def _nearest(
    batch: Tensor, targets: Tensor, k: int, transforms: list[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor]:
    # Differences, not the expanded square: the distance of a copy is 0.
    distances = torch.stack(
        [
            torch.cdist(transform(batch).flatten(1), targets, compute_mode="donot_use_mm_for_euclid_dist")
            for transform in transforms
        ]
    ).amin(0)
    values, indices = distances.sort(dim=1, stable=True)
    return indices[:, :k], values[:, :k]
