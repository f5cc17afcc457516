"""From a name or a path to a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sgan.data.dataset import Dataset, ImageSet, RawImages
from sgan.data.digits import DIGITS, build_digits
from sgan.data.folder import read_image_folder
from sgan.data.idx import has_idx, read_idx_folder
from sgan.data.npz import read_npz
from sgan.data.split import SUBSET_STREAM, split_indices, stratified_order


def load_dataset(name_or_path: str | os.PathLike[str], *, seed: int = 0, subset: float | None = None) -> Dataset:
    """Load a labelled image data set into memory.

    Where the files have no held-out part of their own, a fifth of the images is held out, class by class. The choice
    does not depend on `seed`, which draws the orientations of the embedded digits, and the subset.

    Args:
        name_or_path: one of the embedded sets (`sgan.data.DIGITS`); or a .npz file (`sgan.data.npz.read_npz`), a folder
            of MNIST's IDX files (`sgan.data.idx.read_idx_folder`), or a folder with one sub-folder of images per class
            (`sgan.data.folder.read_image_folder`).
        seed: not negative. The same seed gives the same pixels.
        subset: fraction in (0, 1] of the training part to keep, drawn without replacement, class by class. A larger
            fraction with the same seed contains a smaller one.

    Returns:
        The data set; `built` says how it was made, with a checksum of each part.

    Raises:
        ValueError: unknown name, path of no known format, damaged file, images that are not square, or bad `subset`.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"load_dataset: seed must be an integer >= 0, got {seed!r}")
    if subset is not None and not 0 < subset <= 1:
        raise ValueError(f"load_dataset: subset must be a fraction in (0, 1], got {subset!r}")
    raw = _read(name_or_path, seed)
    reference, test, redraw = _hold_out(raw)
    _check(reference, test, name_or_path)
    train = reference if subset is None else _keep(reference, subset, seed)
    built = raw.built | {
        "seed": seed,
        "subset": subset,
        "n_train": len(train),
        "n_test": len(test),
        "train_sha256": train.checksum(),
        "reference_sha256": reference.checksum(),
        "test_sha256": test.checksum(),
    }
    name = str(name_or_path) if str(name_or_path) in DIGITS else Path(name_or_path).resolve().name
    return Dataset(name, train, reference, test, raw.class_names, built, redraw)


def _read(name_or_path: str | os.PathLike[str], seed: int) -> RawImages:
    if str(name_or_path) in DIGITS:
        return build_digits(str(name_or_path), seed)
    path = Path(name_or_path)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path)
    if path.is_dir():
        return read_idx_folder(path) if has_idx(path) else read_image_folder(path)
    what = "a file of another format" if path.is_file() else "no such file or folder"
    raise ValueError(
        f"load_dataset: name_or_path must be one of {', '.join(DIGITS)}, a .npz file, a folder of MNIST's IDX files or "
        f"a folder with one sub-folder of images per class, got {str(name_or_path)!r} ({what})"
    )


def _hold_out(raw: RawImages) -> tuple[ImageSet, ImageSet, Callable[[int], ImageSet] | None]:
    if raw.test is not None:
        return raw.images, raw.test, None
    train, test = split_indices(raw.images.labels, raw.sources)
    redraw = None if raw.redraw is None else partial(raw.redraw, test)
    return raw.images.select(train), raw.images.select(test), redraw


def _keep(images: ImageSet, fraction: float, seed: int) -> ImageSet:
    order = stratified_order(images.labels, np.random.default_rng([SUBSET_STREAM, seed]))
    return images.select(order[: max(1, round(fraction * len(images)))].sort().values)


def _check(train: ImageSet, test: ImageSet, name_or_path: str | os.PathLike[str]) -> None:
    if not len(train) or not len(test):
        counts = f"{len(train)} and {len(test)}"
        raise ValueError(f"load_dataset: {name_or_path} must have images to train on and to hold out, got {counts}")
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
        raise ValueError(f"load_dataset: training and held-out images must have one shape (C, H, W), got {shapes}")
    height, width = train.images.shape[2:]
    if height != width or height == 0:
        raise ValueError(f"load_dataset: images must be square, got H x W = {height} x {width}")
