"""Seeded, stratified choices of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stratified_order(labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a random order of all items of which every prefix has the class proportions of the whole.

    The k-th item of a class of n, k = 0, 1, ..., in random order gets the key (k + u) / n, with one uniform u in [0, 1)
    per class; items are sorted by key. A prefix then holds the proportional share of every class, within 1 of it.

    Args:
        labels: (N,) int64.
        rng: source of all randomness.

    Returns:
        (N,) int64 permutation of 0 .. N - 1.
    """
    keys = np.empty(len(labels))
    values = labels.numpy()
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        keys[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def split(labels: Tensor, held_out: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ascending (train, held-out) indices; the fraction `held_out` of the items is held out, class by class."""
    order = stratified_order(labels, rng)
    count = round(held_out * len(labels))
    return order[count:].sort().values, order[:count].sort().values


def split_sources(sources: Tensor, held_out: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ascending (train, held-out) indices that share no source.

    Sources are held out whole, in random order, until at least the fraction `held_out` of the items is.

    Args:
        sources: (N,) int64, the source of each item.
        held_out: fraction in (0, 1).
        rng: source of all randomness.

    Raises:
        ValueError: all items come from one source.
    """
    unique, counts = sources.unique(return_counts=True)
    if len(unique) < 2:
        raise ValueError("load_dataset: src must name at least 2 sources to hold one out, got 1")
    order = torch.from_numpy(rng.permutation(len(unique)))
    needed = int((counts[order].cumsum(0) < held_out * len(sources)).sum()) + 1
    chosen = unique[order[: min(needed, len(unique) - 1)]]
    is_held_out = torch.isin(sources, chosen)
    return (~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten()
