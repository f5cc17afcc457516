"""Reader of CIFAR-10's Python version (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sgan.data.cifar_binary import CLASS_NAMES, PIXELS, SHAPE, Batch, join_batches
from sgan.data.dataset import RawImages
from sgan.data.plain_pickle import read_plain_pickle

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"


def has_cifar_python(folder: Path) -> bool:
    """Return whether `folder` has the Python version's first training batch."""
    return (folder / TRAIN[0]).is_file()


def read_cifar_python(folder: Path) -> RawImages:
    """Read the pickles data_batch_1 to data_batch_5 and, held out, test_batch; nothing in them is executed.

    Each is a dict with `data`, (N, 3072) uint8: 1024 values of red, of green and of blue, row by row; and `labels`, a
    list of N integers from 0 to 9.

    Raises:
        ValueError: a file is missing, cut short, no pickle, one that holds or does anything else than plain data
            (`sgan.data.plain_pickle`), or data or labels of another type, shape or range.
    """
    train = [_read_batch(folder / name) for name in TRAIN]
    return join_batches(train, _read_batch(folder / TEST), f"CIFAR-10 Python version in {folder.name}")


def _read_batch(path: Path) -> Batch:
    batch = read_plain_pickle(path)
    data, labels = (batch.get(key) for key in (b"data", b"labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != PIXELS or not len(data):
        raise ValueError(f"load_dataset: {path} must be a dict with data, uint8 (N, {PIXELS}), got another pickle")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(map(_is_label, labels)):
        raise ValueError(
            f"load_dataset: {path} must have labels, a list of {len(data)} integers from 0 to {len(CLASS_NAMES) - 1}"
        )
    return data.reshape(-1, *SHAPE), np.array(labels, dtype=np.int64)


def _is_label(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < len(CLASS_NAMES)
