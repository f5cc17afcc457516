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
            until at least a fifth of the items is. A source is passed over if a class had no other in training.

    Returns:
        Ascending (train, held-out) indices, int64.

    Raises:
        ValueError: every source is the only one of a class.
    """
    rng = np.random.default_rng([SPLIT_STREAM, SPLIT_SEED])
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    if sources is None:
        is_held_out[stratified_order(labels, rng)[: round(HELD_OUT * len(labels))]] = True
    else:
        is_held_out[torch.isin(sources, _choose_sources(labels, sources, rng))] = True
    return (~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten()


def _choose_sources(labels: Tensor, sources: Tensor, rng: np.random.Generator) -> Tensor:
    names, source_rows = sources.unique(return_inverse=True)
    classes, class_columns = labels.unique(return_inverse=True)
    counts = torch.zeros(len(names), len(classes), dtype=torch.int64)
    counts.index_put_((source_rows, class_columns), torch.ones_like(labels), accumulate=True)
    in_training, chosen = counts.sum(0), []
    for row in rng.permutation(len(names)):
        if len(labels) - in_training.sum() >= HELD_OUT * len(labels):
            break
        if (in_training > counts[row]).all():
            in_training -= counts[row]
            chosen.append(names[row])
    if not chosen:
        raise ValueError(
            "load_dataset: src must name at least 2 sources of every class of some source, to hold that one out, "
            f"got {len(names)} sources of {len(classes)} classes"
        )
    return torch.stack(chosen)
