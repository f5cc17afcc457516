"""Reader of one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.window import HOW, Window

ARRAYS = ("x", "y", "src")
DAMAGED = (  # what zipfile and NumPy raise on damaged files; MemoryError if a header asks for too great an array
    *(OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, SyntaxError, RuntimeError, MemoryError),
    *(OverflowError, zipfile.BadZipFile, zlib.error),
)


def read_npz(path: Path, window: Window | None = None) -> RawImages:
    """Read images from a .npz file; nothing in it is unpickled.

    Args:
        path: file with `x` (N, H, W) or (N, H, W, C), C 1 or 3, uint8, or other real numbers with a window; optional
            `y` (N,) integer labels from 0 (without: one class); optional `src` (N,) integers: images of one source are
            never split between the two parts. Other arrays are left out and counted.
        window: of values that are not uint8; percentiles are of the whole of `x`.

    Raises:
        ValueError: the file is no .npz file, or an array is missing or has another shape or dtype.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            others = sorted(set(members) - set(ARRAYS))
            arrays = {key: members[key] for key in ARRAYS if key in members}
    except DAMAGED as error:
        raise ValueError(f"load_dataset: {path} must be a .npz file of plain arrays, got: {error}") from error
    if "x" not in arrays:
        got = ", ".join(others) or "none"
        raise ValueError(
            f"load_dataset: {path} must hold an array x, of images, got {got}; save it with np.savez(x=...)"
        )
    x = arrays["x"]
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)):
        raise ValueError(
            f"load_dataset: x must be uint8 (N, H, W) or (N, H, W, 1 or 3), got {x.dtype} {x.shape}; channels go last, "
            "x.transpose(0, 2, 3, 1) of (N, C, H, W)"
        )
    x, window = _in_8_bits(x, window, path)
    images = torch.from_numpy(x)
    images = images.unsqueeze(1) if x.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    labels = _integers(arrays, "y", len(x), minimum=0)
    sources = _integers(arrays, "src", len(x), minimum=None)
    labels = torch.zeros(len(x), dtype=torch.int64) if labels is None else labels
    names = tuple(str(label) for label in range(int(labels.max()) + 1)) if len(x) else ()
    built: dict[str, object] = {
        "source": f"npz file {path.name}",
        "split_by": "image" if sources is None else "src",
        "skipped": {f"array called {key}": 1 for key in others},
        **({} if window is None else {"window": window.describe()}),
    }
    return RawImages(ImageSet(images, labels), names, None, sources, built)


def _in_8_bits(x: np.ndarray, window: Window | None, path: Path) -> tuple[np.ndarray, Window | None]:
    """The values as uint8, and the window that mapped them."""
    if x.dtype.kind not in "uif" or (x.dtype == np.uint8) != (window is None) or not x.size:
        if window is not None and x.dtype == np.uint8:
            raise ValueError(
                f"load_dataset: x must have more than 8 bits, as a window is given, got {x.dtype}; leave out --window"
            )
        if x.dtype.kind in "uif" and x.size:
            raise ValueError(f"load_dataset: x in {path} is {x.dtype}, values from {x.min():g} to {x.max():g}: {HOW}")
        if x.dtype != np.uint8:
            raise ValueError(
                f"load_dataset: x must be uint8 (N, H, W) or (N, H, W, 1 or 3), got {x.dtype} {x.shape}; save it as "
                "uint8, 0 black and 255 white"
            )
    if window is None:
        return x, None
    if not np.isfinite(x).all():
        raise ValueError(f"load_dataset: x in {path} must have finite values, got NaN or infinity; replace them")
    if window.is_percentile:
        window = window.of(x)
    return window.apply(x), window


def _integers(arrays: dict[str, np.ndarray], key: str, count: int, minimum: int | None) -> torch.Tensor | None:
    values = arrays.get(key)
    if values is None:
        return None
    wrong = values.shape != (count,) or values.dtype.kind not in "iu"
    if wrong or (minimum is not None and count and values.min() < minimum):
        floor = "" if minimum is None else f" >= {minimum}"
        least = f" from {values.min()}" if values.dtype.kind in "iuf" and values.size else ""
        raise ValueError(
            f"load_dataset: {key} must be ({count},) integers{floor}, got {values.dtype} {values.shape}{least}; number "
            "them from 0, y.argmax(1) where a class has a column"
        )
    return torch.from_numpy(values.astype(np.int64))
