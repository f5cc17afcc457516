"""From a name or a path to a data set."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgan.data.amat import is_amat, read_amat
from sgan.data.cifar_binary import has_cifar_binary, read_cifar_binary
from sgan.data.cifar_python import has_cifar_python, read_cifar_python
from sgan.data.dataset import Dataset, DataWarning, ImageSet, RawImages
from sgan.data.digits import DIGITS, build_digits
from sgan.data.folder import describe_skipped, read_image_folder
from sgan.data.food101 import has_lists, read_food101
from sgan.data.idx import has_idx, read_idx_folder
from sgan.data.lysto import read_lysto
from sgan.data.npz import read_npz
from sgan.data.pairs import has_pairs, read_pairs
from sgan.data.points import build_points
from sgan.data.resize import resize_raw
from sgan.data.rotate import PREFIXES, rotate_raw, split_prefix
from sgan.data.split import SUBSET_STREAM, split_indices, stratified_order
from sgan.data.toy2d import TOY2D
from sgan.data.tree import FileTree
from sgan.data.window import Window, parse_window


def load_dataset(
    name_or_path: str | os.PathLike[str],
    *,
    seed: int = 0,
    subset: float | None = None,
    subset_of: int | None = None,
    resolution: int | None = None,
    window: str | None = None,
) -> Dataset:
    """Load a labelled image data set into memory, as uint8, or one of points, as float32.

    Where the files have no held-out part of their own, a fifth of the images is held out, class by class, or source by
    source where the files name sources. The choice does not depend on `seed`, which draws the orientations of the
    embedded digits and of built sets, and the subset.

    Args:
        name_or_path: one of the embedded sets (`BUILDERS`: digits, and points of the laws of `sgan.data.toy2d`), or
            the path of a set in one of the formats of `READERS`. "<prefix>:<path>" turns the set at the path:
            `rotated:`, `quarter:`, `mirrored:`, `rotated-mirrored:` and `quarter-mirrored:` do what the embedded sets
            of these names do (`sgan.data.rotate`).
        seed: not negative. The same seed gives the same pixels.
        subset: fraction in (0, 1] of the training part to keep, drawn without replacement, class by class. A larger
            fraction with the same seed contains a smaller one.
        subset_of: take the subset of a set of so many training images alone; of another one take all, and note it.
        resolution: side that all images are brought to (`sgan.data.resize.resize`), before they are turned; None keeps
            their own.
        window: how images of more than 8 bits become 8: "LOW,HIGH" in the files' units, LOW to black and HIGH to white,
            or "LOW%,HIGH%", percentiles of all pixels of the set, in both parts. `built` records the numbers. Without
            it such images are refused, since cutting bits off would be a choice made in silence.

    Returns:
        The data set; `built` says how it was made, with a checksum of each part, and counts what was left out.

    Raises:
        ValueError: unknown name, path of no known format, damaged file, images that are not square, or bad `subset`,
            `seed`, `resolution` or `window`.

    Warns:
        DataWarning: a line for each of `notes`: what was left out and why, a class that may be none, images in both
            parts.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"load_dataset: seed must be an integer >= 0, got {seed!r}")
    if subset is not None and not 0 < subset <= 1:
        raise ValueError(f"load_dataset: subset must be a fraction in (0, 1], got {subset!r}")
    if resolution is not None and (isinstance(resolution, bool) or not isinstance(resolution, int) or resolution < 1):
        raise ValueError(f"load_dataset: resolution must be an integer >= 1, or None, got {resolution!r}")
    prefix, path = split_prefix(os.fspath(name_or_path))
    build = BUILDERS.get(path) if prefix is None else None
    if build is not None and window is not None:
        raise ValueError(f"load_dataset: window must be None for the embedded set {path}, got {window!r}")
    raw = read_raw(Path(path).expanduser(), resolution, window) if build is None else build(seed, resolution)
    if prefix is not None:
        raw = rotate_raw(raw, prefix, seed)
    reference, test, redraw = _hold_out(raw)
    _check(reference, test, name_or_path)
    notes = (*_notes(raw), *(_in_both(reference, test) if build is None else ()))
    if subset is not None and subset_of not in (None, len(reference)):
        notes += (
            f"the subset of {subset:.3g} is for a set of {subset_of:,} training images; of these "
            f"{len(reference):,} all are taken",
        )
        subset = None
    for note in notes:
        warnings.warn(f"{name_or_path}: {note}", DataWarning, stacklevel=2)
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
    name = path if build is not None else Path(path).resolve().name
    full_name = name if prefix is None else f"{prefix}:{name}"
    law = None if build is None else TOY2D.get(path)
    return Dataset(full_name, train, reference, test, raw.class_names, built, redraw, law, notes)


def _notes(raw: RawImages) -> list[str]:
    """What the reader says, and one line of what it left out; hidden files alone are not worth one."""
    skipped = raw.built.get("skipped")
    if not isinstance(skipped, dict) or not set(skipped) - {"hidden files"}:
        return list(raw.notes)
    return [*raw.notes, f"left out {describe_skipped(skipped)}"]


def _in_both(train: ImageSet, test: ImageSet) -> list[str]:
    """A line if held-out images are training images, too: what is held out says less of what is new."""
    training, held_out = ([_digest(image) for image in part.images.numpy()] for part in (train, test))
    shared = sum(map(set(training).__contains__, held_out))
    return [f"{shared:,} of {len(test):,} held-out images are among the training images, too"] if shared else []


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _digits(name: str, seed: int, resolution: int | None) -> RawImages:
    return resize_raw(build_digits(name, seed), resolution)


def _points(name: str, seed: int, resolution: int | None) -> RawImages:
    if resolution is not None:
        raise ValueError(f"load_dataset: resolution must be None for points, got {resolution}")
    return build_points(name, seed)


# The embedded sets: (seed, resolution) to what a reader would find.
BUILDERS: dict[str, Callable[[int, int | None], RawImages]] = {
    **{name: partial(_digits, name) for name in DIGITS},
    **{name: partial(_points, name) for name in TOY2D},
}


class Reader(NamedTuple):
    """One format: what it is, whether a path has it, and what reads it at a resolution (None: the images' own)."""

    what: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, int | None, Window | None], RawImages]


def _of_8_bits(read: Callable[[Path, int | None], RawImages]) -> Callable[[Path, int | None, Window | None], RawImages]:
    """A reader of a format that has no more than 8 bits."""

    def read_without_window(path: Path, resolution: int | None, window: Window | None) -> RawImages:
        if window is not None:
            raise ValueError(f"load_dataset: window must be None for {path}, whose format has 8 bits; leave it out")
        return read(path, resolution)

    return read_without_window


def _resized(read: Callable[[Path], RawImages]) -> Callable[[Path, int | None, Window | None], RawImages]:
    """A reader of small images of 8 bits: all are read, then resized."""
    return _of_8_bits(lambda path, resolution: resize_raw(read(path), resolution))


def _read_npz(path: Path, resolution: int | None, window: Window | None) -> RawImages:
    return resize_raw(read_npz(path, window), resolution)


def _read_image_files(path: Path, resolution: int | None, window: Window | None) -> RawImages:
    with FileTree(path) as tree:
        if has_lists(tree):
            return read_food101(tree, resolution, window)
        return (read_pairs if has_pairs(tree) else read_image_folder)(tree, resolution, window)


def _is_file(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and path.suffix.lower() in suffixes


# The first that fits reads the path.
READERS = (
    Reader("a .npz file", _is_file(".npz"), _read_npz),
    Reader("LYSTO's .h5 file", _is_file(".h5", ".hdf5"), _of_8_bits(read_lysto)),
    Reader("an .amat file or a folder of them", is_amat, _resized(read_amat)),
    Reader("a folder of MNIST's IDX files", has_idx, _resized(read_idx_folder)),
    Reader("a folder of CIFAR-10's binary version", has_cifar_binary, _resized(read_cifar_binary)),
    Reader("a folder of CIFAR-10's Python version", has_cifar_python, _resized(read_cifar_python)),
    Reader(
        "a folder or .zip file of images: Food-101, pairs side by side in train/, one sub-folder per class, or "
        "all straight in it",
        lambda path: path.is_dir() or _is_file(".zip")(path),
        _read_image_files,
    ),
)


def read_raw(path: Path, resolution: int | None = None, window: str | None = None) -> RawImages:
    """Read the files at `path` by the first of `READERS` that fits.

    Raises:
        ValueError: none fits, the files are damaged, or a bad window.
    """
    parsed = None if window is None else parse_window(window)
    for reader in READERS:
        if reader.fits(path):
            return reader.read(path, resolution, parsed)
    what = "a file of another format" if path.is_file() else "no such file or folder"
    known = ", ".join([*BUILDERS, *(reader.what for reader in READERS)])
    prefixes = ", ".join(f"{prefix}:" for prefix in PREFIXES)
    raise ValueError(
        f"load_dataset: name_or_path must be one of {known}, or such a path after one of {prefixes}, "
        f"got {str(path)!r} ({what})"
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
        raise ValueError(
            f"load_dataset: {name_or_path} must have images to train on and to hold out, got {counts}; a fifth is held "
            "out where the files say nothing, so it takes 3 at least"
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
        raise ValueError(f"load_dataset: training and held-out images must have one shape (C, H, W), got {shapes}")
    if train.images.ndim == 2:
        return
    height, width = train.images.shape[2:]
    if height != width or height == 0:
        raise ValueError(
            f"load_dataset: without a resolution images must be square, got H x W = {height} x {width}; --resolution N "
            "takes their largest centred square"
        )
