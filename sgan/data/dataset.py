"""What every reader returns: images with labels, in a training and a held-out part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sgan.data.toy2d import Mixture2d


@dataclass(frozen=True)
class ImageSet:
    """Images in memory with one label each.

    Attributes:
        images: (N, C, H, W) uint8 pixels, 0 to 255.
        labels: (N,) int64 class indices.
        paired: (N, C, H, W) uint8, the other image of each pair; None where images do not come in pairs.
    """

    images: Tensor
    labels: Tensor
    paired: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Return the images at `indices`, (n, C, H, W) float32 with pixels in [-1, 1]: 0 gives -1 and 255 gives 1."""
        return _to_unit(self.images[indices])

    def paired_batch(self, indices: Tensor | slice) -> Tensor:
        """Return the other images of the pairs at `indices`, in the shape, dtype and range of `batch`.

        Raises:
            ValueError: the images do not come in pairs.
        """
        if self.paired is None:
            raise ValueError("paired_batch: the set must hold pairs, got single images")
        return _to_unit(self.paired[indices])

    def select(self, indices: Tensor | slice) -> ImageSet:
        """Return the set of the images at `indices`, an int64 (n,) or a slice, in that order."""
        return self._each(lambda tensor: tensor[indices])

    def to(self, device: torch.device | str) -> ImageSet:
        """Return this set on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def checksum(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of the pixels and labels."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.labels, self.paired):
            if tensor is not None:
                digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def _each(self, change: Callable[[Tensor], Tensor]) -> ImageSet:
        paired = None if self.paired is None else change(self.paired)
        return replace(self, images=change(self.images), labels=change(self.labels), paired=paired)


class PointSet(ImageSet):
    """Points of the plane in place of images: `images` is (N, 2) float32, and a batch is the points themselves."""

    def batch(self, indices: Tensor | slice) -> Tensor:
        """Return the points at `indices`, (n, 2) float32."""
        return self.images[indices]


class DataWarning(UserWarning):
    """Part of a data set was left out, or may not be what was meant."""


def _to_unit(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) / 127.5 - 1


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
        law: what the samples were drawn from, where that is known.
        notes: lines for people: what was left out and why, and what may not be what they mean.
    """

    name: str
    train: ImageSet
    reference: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    built: dict[str, object]
    redraw: Callable[[int], ImageSet] | None = None
    law: Mixture2d | None = None
    notes: tuple[str, ...] = ()

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
    def is_labelled(self) -> bool:
        """Whether there is more than one class. A set without labels has one, called as its folder is."""
        return self.num_classes > 1

    @property
    def channels(self) -> int:
        """Of the images; the coordinates of points."""
        return self.train.images.shape[1]

    @property
    def resolution(self) -> int:
        """Side length of the images; points are as one pixel."""
        return self.train.images.shape[2] if self.train.images.ndim == 4 else 1


class RawImages(NamedTuple):
    """What a reader found, before the split.

    Attributes:
        images: all images that are not in `test`.
        class_names: one per label.
        test: the files' own held-out part, or None: then one is split off.
        sources: (N,) int64; images of one source stay in one part. None: every image is a source of its own.
        built: what the reader did, ready for JSON; "skipped" counts what it left out, by reason.
        redraw: draws the sources at these (n,) indices anew, about so many images in all; None where it cannot.
        notes: lines for people about what may not be what they mean.
    """

    images: ImageSet
    class_names: tuple[str, ...]
    test: ImageSet | None
    sources: Tensor | None
    built: dict[str, object]
    redraw: Callable[[Tensor, int], ImageSet] | None = None
    notes: tuple[str, ...] = ()
