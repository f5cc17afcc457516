"""Data sets of points in the plane, drawn from the laws of `sgan.data.toy2d`."""

from __future__ import annotations

import torch
from torch import Tensor

from sgan.data.dataset import PointSet, RawImages
from sgan.data.toy2d import TOY2D

TRAINING_POINTS = 2000
DELIGAN_POINTS = 400  # as published, as many of each component
HELD_OUT_POINTS = 4000
HELD_OUT_SEED = 1_000_000  # larger than any run's seed is likely to be


def build_points(name: str, seed: int) -> RawImages:
    """Draw one of `TOY2D`: points to train on, which depend on the seed, and held-out ones, which do not.

    Every point has label 0. DeLiGAN's laws have 400 points to train on, the others 2,000.
    """
    law = TOY2D[name]
    balanced = name.startswith("deligan-")
    train = law.sample(DELIGAN_POINTS if balanced else TRAINING_POINTS, seed=seed, balanced=balanced)
    test = law.sample(HELD_OUT_POINTS, seed=HELD_OUT_SEED)
    built: dict[str, object] = {"source": f"points of {law}", "split_by": "drawn apart"}
    return RawImages(_unlabelled(train), ("point",), _unlabelled(test), None, built)


def _unlabelled(points: Tensor) -> PointSet:
    return PointSet(points, torch.zeros(len(points), dtype=torch.int64))
