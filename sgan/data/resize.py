"""The one rule by which images are brought to another size."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sgan.data.dataset import ImageSet, RawImages

RULE = "the largest centred square, antialiased bicubic, rounded to 8 bits"
CHUNK_VALUES = 2**24  # resized at a time: 64 MiB as float32


def resize(images: Tensor, resolution: int | None) -> Tensor:
    """Bring images to a square size by `RULE`. On square images it commutes with quarter turns and reflections.

    Where H - W is odd the centred square starts at the smaller index. Pixel centres are aligned at the image's edges
    (torch's align_corners=False); when shrinking, the bicubic filter is widened by the ratio of the sizes (antialias).

    Args:
        images: (N, C, H, W) uint8.
        resolution: the side wanted; None returns the images as they are, as does the size that they have.

    Returns:
        (N, C, resolution, resolution) uint8.
    """
    side = min(images.shape[2:])
    if resolution is None or images.shape[2:] == (resolution, resolution) or side == 0:
        return images
    top, left = ((size - side) // 2 for size in images.shape[2:])
    images = images[:, :, top : top + side, left : left + side]
    resized = torch.empty(*images.shape[:2], resolution, resolution, dtype=torch.uint8)
    chunk = max(1, CHUNK_VALUES // (images.shape[1] * max(side, resolution) ** 2))
    for old, new in zip(images.split(chunk), resized.split(chunk), strict=True):
        values = F.interpolate(
            old.to(torch.float32), (resolution, resolution), mode="bicubic", align_corners=False, antialias=True
        )
        new.copy_(values.round_().clamp_(0, 255))
    return resized


def describe_resize(sizes: Collection[tuple[int, int]], resolution: int | None) -> str:
    """Return what `resize` did to images of these (H, W), for `built`."""
    if resolution is None or set(sizes) <= {(resolution, resolution)}:
        return "no"
    smallest, largest = (f"{height}x{width}" for height, width in (min(sizes), max(sizes)))
    old = smallest if smallest == largest else f"{smallest} to {largest}"
    return f"{old} to {resolution}x{resolution}: {RULE}"


def resize_set(images: ImageSet, resolution: int | None) -> ImageSet:
    """Return `images` with all its images brought to one size by `resize`."""
    paired = None if images.paired is None else resize(images.paired, resolution)
    return replace(images, images=resize(images.images, resolution), paired=paired)


def resize_raw(raw: RawImages, resolution: int | None) -> RawImages:
    """Return what a reader found with all images brought to one size, and `built` saying so."""
    redraw = raw.redraw
    shapes = [part.images.shape for part in (raw.images, raw.test) if part is not None]
    return raw._replace(
        images=resize_set(raw.images, resolution),
        test=None if raw.test is None else resize_set(raw.test, resolution),
        built=raw.built | {"resized": describe_resize({(shape[2], shape[3]) for shape in shapes}, resolution)},
        redraw=None if redraw is None else lambda rows, count: resize_set(redraw(rows, count), resolution),
    )
