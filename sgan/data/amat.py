"""Reader of RotMNIST as Larochelle distributes it: text files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from sgan.data.dataset import ImageSet, RawImages

SIDE = 28
CLASSES = 10
LINES = 1000  # parsed at a time: a file of 50,000 lines would take 300 MB as float64


def is_amat(path: Path) -> bool:
    """Return whether `path` is an .amat file or a folder of such files."""
    return path.suffix == ".amat" if path.is_file() else any(path.glob("*.amat"))


def read_amat(path: Path) -> RawImages:
    """Read an .amat file, or a folder with one that has "train" in its name and, held out, one that has "test".

    RotMNIST (Larochelle, Erhan, Courville, Bergstra, Bengio, ICML 2007, in the corrected version mnist_rotation_new) is
    mnist_all_rotation_normalized_float_train_valid.amat, 12,000 lines, and ..._test.amat, 50,000 lines. A line has 784
    pixels in [0, 1] and the label, separated by spaces; lines that start with # are comments. Pixels become
    round(255 p).

    Pixels come column by column: the second value of a line is the pixel below the first. The files were made with
    MATLAB, which stores images so, and M. Sakai's bnn-verification reads them so (stand_alone/README.md,
    `--column-major`). Row by row, as much published code reads them, every digit comes out mirrored, which a rotated
    set does not show at a glance. This was not checked on the files themselves: the first run's reals.png must show
    digits that are rotated, none mirrored. Other sets of the series have the same lines in other orders, the basic one
    row by row (J. Bergstra, scikit-data, `larochelle_etal_2007`), and are not for this reader.

    Raises:
        ValueError: not one training file and at most one test file, or a file that is not text of 785 numbers per line
            with pixels in [0, 1] and whole labels from 0 to 9.
    """
    train, test = (path, None) if path.is_file() else _find_parts(path)
    built: dict[str, object] = {"source": f"amat files in {path.name}", "pixel_order": "column by column"}
    names = tuple(str(label) for label in range(CLASSES))
    return RawImages(_read_file(train), names, None if test is None else _read_file(test), None, built)


def _find_parts(folder: Path) -> tuple[Path, Path | None]:
    train, test = ([path for path in sorted(folder.glob("*.amat")) if word in path.name] for word in ("train", "test"))
    if len(train) != 1 or len(test) > 1:
        raise ValueError(
            f"load_dataset: {folder} must hold one .amat file with 'train' in its name and at most one with 'test', "
            f"got {len(train)} and {len(test)}"
        )
    return train[0], test[0] if test else None


def _read_file(path: Path) -> ImageSet:
    images, labels = [], []
    try:
        with path.open(encoding="ascii") as file:
            lines = (line for line in file if line.strip() and not line.startswith("#"))
            while chunk := list(islice(lines, LINES)):
                values = np.loadtxt(chunk, dtype=np.float32, ndmin=2)
                images.append(_pixels(values[:, :-1]))
                labels.append(_labels(values[:, -1]))
    except (OSError, ValueError) as error:
        what = f"text of {SIDE * SIDE} pixels in [0, 1] and a label per line"
        raise ValueError(f"load_dataset: {path} must be {what}, got: {error}") from error
    if not images:
        raise ValueError(f"load_dataset: {path} must have a line per image, got none")
    return ImageSet(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))


def _pixels(values: np.ndarray) -> np.ndarray:
    if values.shape[1] != SIDE * SIDE:
        raise ValueError(f"{values.shape[1] + 1} numbers per line")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"a pixel outside [0, 1], from {values.min()} to {values.max()}")
    columns = np.rint(values * 255).astype(np.uint8).reshape(-1, 1, SIDE, SIDE)
    return np.ascontiguousarray(columns.swapaxes(2, 3))


def _labels(values: np.ndarray) -> np.ndarray:
    if not np.isin(values, np.arange(CLASSES)).all():
        raise ValueError(f"a label that is not one of 0 to {CLASSES - 1}")
    return values.astype(np.int64)
