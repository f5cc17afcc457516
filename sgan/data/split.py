"""Seeded, stratified choices of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 0.2
SPLIT_STREAM, ORIENTATION_STREAM, SUBSET_STREAM, HELD_OUT_STREAM = range(4)
SPLIT_SEED = (
    0  # a constant: every run holds out the same images, so runs compare and the feature network saw none of them
)


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


def split_indices(labels: Tensor, sources: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Choose the held-out fifth of a data set: the same for the same labels, always.

    Args:
        labels: (N,) int64; the choice has the class proportions of the whole.
        sources: (N,) int64, the source of each item. If given, whole sources are held out instead, in random order,
            until at least a fifth of the items is, and classes are not looked at.

    Returns:
        Ascending (train, held-out) indices, int64.

    Raises:
        ValueError: all items come from one source.
    """
    rng = np.random.default_rng([SPLIT_STREAM, SPLIT_SEED])
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    if sources is None:
        is_held_out[stratified_order(labels, rng)[: round(HELD_OUT * len(labels))]] = True
    else:
        unique, counts = sources.unique(return_counts=True)
        if len(unique) < 2:
            raise ValueError(f"load_dataset: src must name at least 2 sources, to hold one out, got {len(unique)}")
        order = torch.from_numpy(rng.permutation(len(unique)))
        needed = 1 + int((counts[order].cumsum(0) < HELD_OUT * len(labels)).sum())
        is_held_out = torch.isin(sources, unique[order[: min(needed, len(unique) - 1)]])
    return (~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten()
