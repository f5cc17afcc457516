"""Sets built from upright ones by turning every image: rotated MNIST from MNIST, among others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.digits import ANGLE_LAWS, DIGITS, Orientation, orient, resample
from sgan.data.split import HELD_OUT_STREAM, ORIENTATION_STREAM

CHUNK = 1000  # images turned at a time
# "rotated:PATH" turns the images at PATH as the digits of the set "digits-rotated" are turned.
PREFIXES = {name.removeprefix("digits-"): orientation for name, orientation in DIGITS.items() if "-" in name}


def split_prefix(name_or_path: str) -> tuple[str | None, str]:
    """Return the key of `PREFIXES` that a "<prefix>:<path>" begins with, or None, and the rest."""
    prefix, colon, path = name_or_path.partition(":")
    return (prefix, path) if colon and prefix in PREFIXES else (None, name_or_path)


def rotate_raw(raw: RawImages, prefix: str, seed: int) -> RawImages:
    """Turn every image once, by an orientation of its own, in both parts.

    Quarter turns and reflections are exact. Other angles evaluate the image's bicubic interpolant on the rotated pixel
    grid about the image's centre, 0 outside; overshoot is clipped and values rounded to 8 bits.

    Args:
        raw: square images. For angles that are no quarter turns they must lie on black, as MNIST's do: 0 in the four
            corner pixels.
        prefix: key of `PREFIXES`.
        seed: of the orientations; the files' own held-out part has a stream of its own.

    Raises:
        ValueError: images that are not square, or, for other angles than quarter turns, not on black.
    """
    orientation = PREFIXES[prefix]
    parts = [part for part in (raw.images, raw.test) if part is not None]
    for part in parts:
        height, width = part.images.shape[2:]
        if height != width:
            raise ValueError(f"load_dataset: {prefix}: images must be square, got H x W = {height} x {width}")
        if orientation.angle == "uniform" and part.images[:, :, :: max(1, height - 1), :: max(1, width - 1)].any():
            raise ValueError(
                f"load_dataset: {prefix}: images must lie on black, 0 in the corners, to be turned by any angle, got "
                "others; quarter: takes every image"
            )
    train = _turn_set(raw.images, orientation, np.random.default_rng([ORIENTATION_STREAM, seed]))
    test = raw.test
    if test is not None:
        test = _turn_set(test, orientation, np.random.default_rng([HELD_OUT_STREAM, seed]))
    built = raw.built | {
        "rotation": ANGLE_LAWS[orientation.angle],
        "mirrored": "upside down with probability 1/2, before the rotation" if orientation.mirrored else "no",
    }
    return raw._replace(images=train, test=test, built=built)


def _turn_set(images: ImageSet, orientation: Orientation, rng: np.random.Generator) -> ImageSet:
    angle, flip = orient(orientation, len(images), rng)
    turn: Callable[[Tensor], Tensor] = partial(
        turn_quarters if orientation.angle != "uniform" else turn_any, angle_rad=angle, flip=flip
    )
    paired = None if images.paired is None else turn(images.paired)
    return replace(images, images=turn(images.images), paired=paired)


def turn_quarters(images: Tensor, angle_rad: Tensor, flip: Tensor) -> Tensor:
    """Flip upside down where `flip` says so, then rotate by the nearest multiple of 90 degrees; no pixel changes value.

    Args:
        images: (N, C, S, S).
        angle_rad: (N,) counter-clockwise rotation.
        flip: (N,) bool.

    Returns:
        (N, C, S, S) in the dtype of `images`.
    """
    turned = torch.where(flip.view(-1, 1, 1, 1), images.flip(2), images)
    quarters = (angle_rad / (torch.pi / 2)).round().to(torch.int64) % 4
    for quarter in range(1, 4):
        chosen = quarters == quarter
        turned[chosen] = torch.rot90(turned[chosen], quarter, (2, 3))
    return turned


def turn_any(images: Tensor, angle_rad: Tensor, flip: Tensor) -> Tensor:
    """Flip upside down where `flip` says so, then rotate about the centre, by bicubic interpolation; 0 comes in.

    Args:
        images: (N, C, S, S) uint8.
        angle_rad: (N,) counter-clockwise rotation.
        flip: (N,) bool.

    Returns:
        (N, C, S, S) uint8.
    """
    turned = torch.empty_like(images)
    for old, new, angles, flips in zip(*(part.split(CHUNK) for part in (images, turned, angle_rad, flip)), strict=True):
        new.copy_((resample(old / 255, angles, flips, old.shape[-1]) * 255).round_())
    return turned
