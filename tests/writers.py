"""Writes tiny data sets in the formats that `sgan.data` reads."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from sgan.data.dataset import RawImages

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray) -> None:
    content = b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(
    folder: Path, prefix: str, count: int, suffix: str = ".gz", size: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    images = RNG.integers(256, size=(count, size, size), dtype=np.uint8)
    labels = (np.arange(count) % 3).astype(np.uint8)
    write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
    write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return images, labels


def write_amat(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Larochelle's lines, from (N, 28, 28) pixels in [0, 1]: MATLAB's `save -ascii` of images stored by columns."""
    lines = []
    for image, label in zip(images, labels, strict=True):
        lines.append("".join(f"   {value:.7e}" for value in [*image.T.flatten(), label]))
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def write_cifar_binary(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Five training batches and the test batch of `count` images each; returns all images and labels, test last."""
    images = RNG.integers(256, size=(6 * count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(6 * count) % 10
    for name, rows in zip(batch_names(".bin"), np.split(np.arange(6 * count), 6), strict=True):
        content = b"".join(bytes([labels[row]]) + images[row].tobytes() for row in rows)
        (folder / name).write_bytes(content)
    return images, labels


def write_cifar_python(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """As `write_cifar_binary`, in the opcodes that Python 2's cPickle wrote."""
    images = RNG.integers(256, size=(6 * count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(6 * count) % 10
    for name, rows in zip(batch_names(""), np.split(np.arange(6 * count), 6), strict=True):
        (folder / name).write_bytes(pickle_batch(images[rows], labels[rows]))
    return images, labels


def batch_names(suffix: str) -> list[str]:
    return [*(f"data_batch_{number}{suffix}" for number in range(1, 6)), f"test_batch{suffix}"]


def pickle_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """{"batch_label": ..., "labels": [...], "data": array (N, 3072), "filenames": [...]}, protocol 2 of Python 2."""
    count = len(images)
    return b"".join(
        [
            b"\x80\x02}q\x01(",
            b"U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03",
            b"U\x06labelsq\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09",
            b"(K\x01M" + struct.pack("<H", count) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", images.size) + images.tobytes() + b"tb",
            b"U\tfilenamesq\x0c]q\x0d(" + b"U\x05a.pngq\x0e" + b"h\x0e" * (count - 1) + b"e",
            b"u.",
        ]
    )


def write_lysto(path: Path, count: int, size: int = 299) -> np.ndarray:
    images = RNG.integers(256, size=(count, size, size, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=images, chunks=(1, size, size, 3), compression="gzip")
        file.create_dataset("y", data=np.arange(count))
        file.create_dataset("organ", data=[("prostate", "breast", "colon")[i % 3].encode() for i in range(count)])
    return images


def write_image(path: Path, pixels: np.ndarray) -> None:
    """(H, W) or (H, W, C) uint8, in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_food101(folder: Path, per_part: int) -> None:
    """Two classes of colour images of many sizes, `per_part` of each in either part."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for part, entries in lists.items():
        for number in range(2 * per_part):
            entry = f"{('pizza', 'apple_pie')[number % 2]}/{part}{number}"
            entries.append(entry)
            shape = (20 + number, 30 - number, 3)
            write_image(folder / "images" / f"{entry}.jpg", RNG.integers(256, size=shape, dtype=np.uint8))
    (folder / "meta").mkdir()
    for part, entries in lists.items():
        (folder / "meta" / f"{part}.txt").write_text("\n".join(entries) + "\n")


def write_pairs(folder: Path, counts: dict[str, int], size: int = 12) -> dict[str, np.ndarray]:
    """Files of two images side by side in <folder>/<part>/; returns (N, H, 2 H, 3) pixels of each part."""
    parts = {}
    for part, count in counts.items():
        parts[part] = RNG.integers(256, size=(count, size, 2 * size, 3), dtype=np.uint8)
        for number, pixels in enumerate(parts[part]):
            write_image(folder / part / f"{number:03}.png", pixels)
    return parts


def assert_truncation_is_refused(path: Path, read: Callable[[], RawImages], cuts: int = 40) -> None:
    """`read` must raise a ValueError that names the file at `path` if that is cut anywhere, and nothing else.

    A cut after the last value that counts, in padding or an end mark, may give the same images instead.
    """
    content, whole = path.read_bytes(), read()
    refusals = []
    for cut in sorted({*np.linspace(0, len(content) - 1, cuts).astype(int), *range(8), len(content) - 1}):
        path.write_bytes(content[:cut])
        try:
            again = read()
        except ValueError as error:
            refusals.append(str(error))
        else:
            assert cut > 0.9 * len(content), f"{path.name} cut to {cut} of {len(content)} bytes was read"
            assert torch.equal(again.images.images, whole.images.images)
    path.write_bytes(content)
    assert len(refusals) >= cuts // 2
    assert all(path.name in message for message in refusals)
