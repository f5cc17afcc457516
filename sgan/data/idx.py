"""Reader of a folder of IDX files, the format and the names of MNIST (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from sgan.data.dataset import ImageSet, RawImages

TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def has_idx(folder: Path) -> bool:
    """Return whether `folder` has MNIST's training images, with or without .gz."""
    return _find(folder, TRAIN[0]) is not None


def read_idx_folder(folder: Path) -> RawImages:
    """Read train-images-idx3-ubyte and train-labels-idx1-ubyte, and the t10k- pair as held-out part if it is there.

    Raises:
        ValueError: a file of a pair is missing, is no IDX file of uint8, is cut short, or counts do not match.
    """
    train = _read_pair(folder, TRAIN)
    test = _read_pair(folder, TEST) if _find(folder, TEST[0]) is not None else None
    labels = [part.labels for part in (train, test) if part is not None]
    names = tuple(str(label) for label in range(int(torch.cat(labels).max()) + 1)) if len(train) else ()
    return RawImages(train, names, test, None, {"source": f"IDX files in {folder.name}"})


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file of uint8, gzipped or not: magic 0 0 8 ndim, big-endian sizes, then the values.

    Raises:
        ValueError: another magic number or dtype, or not exactly as many values as the sizes say.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
                raise ValueError(f"load_dataset: {path} must be an IDX file of uint8, got magic number {magic.hex()!r}")
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise ValueError(f"load_dataset: {path} must have {magic[3]} sizes, got a file that ends before them")
            shape = struct.unpack(f">{magic[3]}I", header)
            values = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"load_dataset: {path} must be a readable IDX file, got: {error}") from error
    if len(values) != math.prod(shape):
        raise ValueError(f"load_dataset: {path} must hold {math.prod(shape)} values for {shape}, got {len(values)}")
    return np.frombuffer(bytearray(values), dtype=np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read_pair(folder: Path, names: tuple[str, str]) -> ImageSet:
    paths = [_find(folder, name) for name in names]
    if paths[0] is None or paths[1] is None:
        raise ValueError(f"load_dataset: {folder} must hold {names[0]} and {names[1]} (or .gz), got only one of them")
    images, labels = read_idx(paths[0]), read_idx(paths[1])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"load_dataset: {names[0]} must be (N, H, W) with N labels, got {images.shape} and {labels.shape} labels"
        )
    return ImageSet(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))
