"""Memorisation: the share of samples that are nearer to a training image than held-out images are.

With d(x) the distance of an image to its nearest training image, it is the share of samples with d at most the 5 %
quantile of the held-out images' d. Samples of the law itself have a share of 5 %, as held-out images have; copies of
training images have d = 0 and a share of 1. As Meehan et al. 2020 (arXiv 2004.05675) it compares the law of d for
samples with that for held-out images; at the lower end of d, where a tenth of copies shows as a tenth more.

Distances are Euclidean, of pixels: what is copied is the picture, whatever a feature network makes of it. Two things it
cannot tell: a turned or mirrored copy is another picture (`nearest_images` takes an orbit); and where the held-out
images come from other sources (other patients, other sections) all of the law of the training sources is nearer to
training. What held-out images themselves get is the floor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sgan.data import ImageSet
from sgan.data.split import stratified_order

SIDE = 16  # larger images are shrunk: of 16 x 16 x 3 values the search is a matrix product of a second
SAMPLES = 1000  # compared on either side, so that 5 % are 50 of them: a standard error of 0.7 %
MAX_TRAINING = 100_000  # a choice from more is seeded and class by class
QUANTILE = 0.05
# Root mean square over the pixels in [-1, 1] up to which two images are one: half of a step of 8-bit pixels, to which
# the files are rounded.
SAME = 1 / 255
CHUNK = 8192  # training images whose distances are held at once
DESCRIPTION = (
    f"share of the first {SAMPLES:,} samples nearer to a training image than {1 - QUANTILE:.0%} of the held-out ones, "
    f"pixels at {SIDE}x{SIDE}"
)


class Memorisation:
    """The training images' pixels, and how near held-out images come to them.

    Attributes:
        n_train: training images that are searched.
        threshold: squared distance within which a sample counts: the smallest of the held-out images' that at least 5 %
            of them do not exceed, and no less than `SAME`, so that duplicates in the two parts do not hide copies.
        floor: share of the held-out images within it: 0.05, or the next larger share that their number allows; more if
            duplicates of training images were held out.
    """

    def __init__(self, train: ImageSet, held_out: ImageSet) -> None:
        """Args: train: the images trained on. held_out: at least one image."""
        if len(train) > MAX_TRAINING:
            train = train.select(stratified_order(train.labels, np.random.default_rng(0))[:MAX_TRAINING])
        self.n_train = len(train)
        parts = torch.arange(len(train)).split(CHUNK)
        self._train = torch.cat([thumbnails(train.batch(rows)) for rows in parts])
        distances = self._to_nearest(thumbnails(held_out.batch(slice(SAMPLES))))
        ranked = distances.sort().values
        same = SAME**2 * self._train.shape[1]
        self.threshold = max(same, float(ranked[math.ceil(QUANTILE * len(ranked)) - 1]))
        self.floor = float((distances <= self.threshold).double().mean())

    def share(self, samples: Tensor) -> float:
        """Return the share, in [0, 1]; lower is better, down to `floor`.

        Args:
            samples: (N >= 1, D) `thumbnails`, of which the first 1,000 count.
        """
        return float((self._to_nearest(samples[:SAMPLES]) <= self.threshold).double().mean())

    def _to_nearest(self, samples: Tensor) -> Tensor:
        """(n,) float64 squared distances of (n, D) samples to their nearest training images."""
        x = samples.double()
        norms = x.square().sum(1)
        nearest = torch.full((len(x),), math.inf, dtype=torch.float64)
        for part in self._train.split(CHUNK):
            y = part.double()
            nearest = torch.minimum(nearest, torch.addmm(y.square().sum(1), x, y.T, alpha=-2).amin(1) + norms)
        return nearest


def thumbnails(images: Tensor) -> Tensor:
    """Return (N, D) float32 pixels on the CPU of (N, C, H, W) images, larger ones shrunk to 16 x 16, antialiased."""
    size = [min(SIDE, side) for side in images.shape[2:]]
    images = images.detach().to("cpu", torch.float32)
    if list(images.shape[2:]) != size:
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    return images.flatten(1)
