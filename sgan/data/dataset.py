"""What every reader returns: images with labels, in a training and a held-out part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images in memory with one label each.

    Attributes:
        images: (N, C, H, W) uint8 pixels, 0 to 255.
        labels: (N,) int64 class indices.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.images.shape[0]

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Return the images at `indices`, (n, C, H, W) float32 with pixels in [-1, 1]: 0 gives -1 and 255 gives 1."""
        return self.images[indices].to(torch.float32) / 127.5 - 1

    def select(self, indices: Tensor) -> ImageSet:
        """Return the set of the images at `indices`, an int64 (n,), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])

    def to(self, device: torch.device | str) -> ImageSet:
        """Return this set on `device`."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def checksum(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of the pixels and labels."""
        digest = hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes())
        digest.update(self.labels.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """A labelled data set, split so that no source image is in both parts.

    Attributes:
        name: the embedded set's name, or the last part of the path.
        train: the images to train on, after `subset`.
        reference: the whole training part, whatever `subset` is: what metrics compare with.
        test: the held-out images.
        class_names: one per label.
        built: how the set was made, ready for JSON; recorded into reports.
        redraw: draws about so many images of the held-out sources anew, or None where only the files' images exist.
    """

    name: str
    train: ImageSet
    reference: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    built: dict[str, object]
    redraw: Callable[[int], ImageSet] | None = None

    def held_out(self, count: int) -> ImageSet:
        """Return held-out images to set beside `count` other images, as many as there can be of them or a few more.

        The embedded digits draw every held-out source several times anew, in different orientations of the same law;
        other sets give `test`.
        """
        return self.test if self.redraw is None else self.redraw(count)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def resolution(self) -> int:
        return self.train.images.shape[2]


class RawImages(NamedTuple):
    """What a reader found, before the split.

    Attributes:
        images: all images that are not in `test`.
        class_names: one per label.
        test: the files' own held-out part, or None: then one is split off.
        sources: (N,) int64; images of one source stay in one part. None: every image is a source of its own.
        built: what the reader did, ready for JSON.
        redraw: draws the sources at these (n,) indices anew, about so many images in all; None where it cannot.
    """

    images: ImageSet
    class_names: tuple[str, ...]
    test: ImageSet | None
    sources: Tensor | None
    built: dict[str, object]
    redraw: Callable[[Tensor, int], ImageSet] | None = None
