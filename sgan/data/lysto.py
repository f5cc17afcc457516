"""Reader of LYSTO's HDF5 file (Ciompi et al., https://doi.org/10.5281/zenodo.3513571)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.resize import describe_resize, resize

CHUNK = 256  # images read at a time: 69 MB of LYSTO's
DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, OverflowError)  # h5py's on damaged files


def read_lysto(path: Path, resolution: int | None = None) -> RawImages:
    """Read patches and their organs.

    The file has `x` (N, 299, 299, 3) uint8, `organ` (N,) strings or integers, and `y` (N,) lymphocyte counts, which are
    not read. The classes are the organs, three in LYSTO, in alphabetical order. Patches are resized whole by
    `sgan.data.resize.resize` as they are read, 256 at a time: all of LYSTO would be 5.4 GB at its own size. They are
    square, so nothing is cropped.

    The file does not say which slide a patch is from: patches of one slide may be in both parts.

    Raises:
        ValueError: h5py is not installed, the file is damaged, or an array is missing or has another shape or dtype.
    """
    try:
        import h5py  # here: only this reader needs it
    except ImportError as error:
        raise ValueError(f"load_dataset: {path} needs h5py to be read: pip install 'gconv[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            x, organ = (_array(file, key) for key in ("x", "organ"))
            _check(x, organ)
            names, labels = _classes(organ)
            images = _read_images(x, resolution)
            size = x.shape[1:3]
    except DAMAGED as error:
        what = "an HDF5 file of patches x and their organ"
        raise ValueError(f"load_dataset: {path} must be {what}, got: {error}; save other data as .npz") from error
    built: dict[str, object] = {
        "source": f"HDF5 file {path.name}, classes by organ",
        "split_by": "image: the file does not name slides",
        "resized": describe_resize({size}, resolution),
    }
    return RawImages(ImageSet(images, labels), names, None, None, built)


def _array(file: Any, key: str) -> Any:
    array = file.get(key)
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise ValueError(f"no array {key}")
    return array


def _check(x: Any, organ: Any) -> None:
    if x.dtype != np.uint8 or len(x.shape) != 4 or x.shape[3] != 3 or not all(x.shape):
        raise ValueError(f"x must be uint8 (N, H, W, 3), got {x.dtype} {x.shape}")
    if organ.shape != x.shape[:1] or organ.dtype.kind not in "SOiu":
        raise ValueError(f"organ must be ({len(x)},) strings or integers, got {organ.dtype} {organ.shape}")


def _classes(organ: Any) -> tuple[tuple[str, ...], Tensor]:
    values = organ[:] if organ.dtype.kind in "iu" else organ.asstr()[:].astype(str)
    names, labels = np.unique(values, return_inverse=True)
    return tuple(map(str, names)), torch.from_numpy(labels.astype(np.int64))


def _read_images(x: Any, resolution: int | None) -> Tensor:
    size = x.shape[1:3] if resolution is None else (resolution, resolution)
    images = torch.empty(x.shape[0], 3, *size, dtype=torch.uint8)
    for start in range(0, x.shape[0], CHUNK):
        chunk = torch.from_numpy(x[start : start + CHUNK])
        images[start : start + CHUNK] = resize(chunk.permute(0, 3, 1, 2), resolution)
    return images
