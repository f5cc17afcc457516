"""Reader of CIFAR-10's binary version (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sgan.data.dataset import ImageSet, RawImages

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
Batch = tuple[np.ndarray, np.ndarray]


def has_cifar_binary(folder: Path) -> bool:
    """Return whether `folder` has the binary version's first training batch."""
    return (folder / TRAIN[0]).is_file()


def read_cifar_binary(folder: Path) -> RawImages:
    """Read data_batch_1.bin to data_batch_5.bin and, held out, test_batch.bin.

    A file is a sequence of images: one byte of label, then 1024 bytes of red, of green and of blue, row by row.

    Raises:
        ValueError: a file is missing, empty, or no whole number of images, or a label is above 9.
    """
    train = [_read_batch(folder / name) for name in TRAIN]
    return join_batches(train, _read_batch(folder / TEST), f"CIFAR-10 binary version in {folder.name}")


def join_batches(train: list[Batch], test: Batch, source: str) -> RawImages:
    """The set of these training batches and this held-out one, each (N, 3, 32, 32) uint8 pixels and (N) labels."""
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    kept, held_out = (ImageSet(*map(torch.from_numpy, part)) for part in ((images, labels), test))
    return RawImages(kept, CLASS_NAMES, held_out, None, {"source": source})


def _read_batch(path: Path) -> Batch:
    try:
        values = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"load_dataset: {path} must be a readable file, got: {error}") from error
    if not len(values) or len(values) % (1 + PIXELS):
        raise ValueError(f"load_dataset: {path} must hold images of {1 + PIXELS} bytes, got {len(values)} bytes")
    rows = values.reshape(-1, 1 + PIXELS)
    labels = rows[:, 0].astype(np.int64)
    if labels.max() >= len(CLASS_NAMES):
        raise ValueError(f"load_dataset: {path} must have labels 0 to {len(CLASS_NAMES) - 1}, got {labels.max()}")
    return rows[:, 1:].reshape(-1, *SHAPE).copy(), labels
