"""The embedded digits: scikit-learn's 1,797 real handwritten digits of 8 x 8 pixels, drawn at 28 x 28."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.split import HELD_OUT_STREAM, ORIENTATION_STREAM

RESOLUTION = 28
BORDER = (
    1  # source pixels of background on every side: a digit fills its 8 x 8 box and would lose its ends when rotated
)
MAX_INTENSITY = 16


class Orientation(NamedTuple):
    """How a digits set is turned.

    Attributes:
        angle: upright, quarter or uniform: a key of `ANGLE_LAWS`.
        mirrored: flipped upside down with probability 1/2, before the rotation.
    """

    angle: str
    mirrored: bool


DIGITS = {
    "digits": Orientation("upright", False),
    "digits-mirrored": Orientation("upright", True),
    "digits-quarter": Orientation("quarter", False),
    "digits-quarter-mirrored": Orientation("quarter", True),
    "digits-rotated": Orientation("uniform", False),
    "digits-rotated-mirrored": Orientation("uniform", True),
}

ANGLE_LAWS = {
    "upright": "none",
    "quarter": "one of 0, 90, 180, 270 degrees per image, uniform",
    "uniform": "uniform in [0, 360) degrees per image",
}


def load_sources() -> tuple[Tensor, Tensor]:
    """Return the digits as scikit-learn ships them: (1797, 1, 8, 8) float64 in [0, 1] and (1797,) int64 labels."""
    from sklearn.datasets import load_digits  # here: a second to import, and only this set needs it

    bunch = load_digits()
    return torch.from_numpy(bunch.images / MAX_INTENSITY).unsqueeze(1), torch.from_numpy(bunch.target).to(torch.int64)


def draw(sources: Tensor, angle_rad: Tensor, flip: Tensor) -> Tensor:
    """Draw small images at 28 x 28, flipped upside down where `flip` says so, then rotated.

    The source gets a border of one background pixel; upsampling and rotation are one resampling.

    Args:
        sources: (N, 1, S, S) pixels in [0, 1], background 0.
        angle_rad: (N,) counter-clockwise rotation.
        flip: (N,) bool.

    Returns:
        (N, 1, 28, 28) pixels in [0, 1], in the dtype of `sources`.
    """
    return resample(F.pad(sources, [BORDER] * 4), angle_rad, flip, RESOLUTION)


def resample(images: Tensor, angle_rad: Tensor, flip: Tensor, resolution: int) -> Tensor:
    """Evaluate the bicubic interpolant of images on the rotated pixel grid of another resolution.

    Overshoot is clipped. A quarter turn is `rot90`, up to rounding.

    Args:
        images: (N, C, S, S) pixels in [0, 1]; background 0, also outside.
        angle_rad: (N,) counter-clockwise rotation.
        flip: (N,) bool: flipped upside down before the rotation.
        resolution: side length of the result, which covers the same square as `images`.

    Returns:
        (N, C, resolution, resolution) pixels in [0, 1], in the dtype of `images`.
    """
    cos, sin, sign = angle_rad.cos(), angle_rad.sin(), 1 - 2 * flip.to(images.dtype)
    zero = torch.zeros_like(cos)
    # grid_sample asks where each output point (x right, y down) comes from: undo the rotation, then the flip of y.
    inverse = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sign * sin, sign * cos, zero], 1)], 1)
    grid = F.affine_grid(inverse.to(images.dtype), [*images.shape[:2], resolution, resolution], align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0, 1)


def orient(orientation: Orientation, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw `count` independent (angle_rad float64, flip bool) pairs from the law of `orientation`."""
    angle = np.zeros(count)
    if orientation.angle == "uniform":
        angle = angle + rng.uniform(0, 2 * math.pi, count)
    elif orientation.angle == "quarter":
        angle = angle + rng.integers(4, size=count) * (math.pi / 2)
    flip = rng.random(count) < 0.5 if orientation.mirrored else np.zeros(count, dtype=bool)
    return torch.from_numpy(angle), torch.from_numpy(flip)


def orient_apart(orientation: Orientation, count: int, copies: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw `copies` different orientations for each of `count` images, each from the law of `orientation`.

    Returns:
        (copies * count,) angle_rad float64 and flip bool, all images of the first copy first. Where the law has fewer
        orientations than `copies`, it is every one of them: count times 1, 2, 4 or 8.
    """
    if orientation.angle == "uniform":
        return orient(orientation, copies * count, rng)  # a continuous law: alike with probability 0
    turns = 4 if orientation.angle == "quarter" else 1
    all_orientations = np.tile(np.arange(turns * (1 + orientation.mirrored)), (count, 1))
    chosen = torch.from_numpy(rng.permuted(all_orientations, axis=1)[:, :copies].T.flatten())
    return (chosen % turns) * (math.pi / 2), chosen >= turns


def build_digits(name: str, seed: int) -> RawImages:
    """Build one of `DIGITS`; every one of the 1,797 sources is used exactly once, with an orientation of its own."""
    orientation = DIGITS[name]
    sources, labels = load_sources()

    def pixels(rows: Tensor, orientations: tuple[Tensor, Tensor]) -> Tensor:
        return (draw(sources[rows], *orientations) * 255).round().to(torch.uint8)

    def redraw(rows: Tensor, count: int) -> ImageSet:
        rng = np.random.default_rng([HELD_OUT_STREAM, seed])
        orientations = orient_apart(orientation, len(rows), max(1, round(count / len(rows))), rng)
        rows = rows.repeat(len(orientations[0]) // len(rows))
        return ImageSet(pixels(rows, orientations), labels[rows])

    rng = np.random.default_rng([ORIENTATION_STREAM, seed])
    images = pixels(torch.arange(len(sources)), orient(orientation, len(sources), rng))
    built: dict[str, object] = {
        "source": "scikit-learn load_digits, 1797 images of 8x8, padded by 1, bicubic to 28x28",
        "rotation": ANGLE_LAWS[orientation.angle],
        "mirrored": "upside down with probability 1/2, before the rotation" if orientation.mirrored else "no",
    }
    return RawImages(ImageSet(images, labels), tuple(str(digit) for digit in range(10)), None, None, built, redraw)
