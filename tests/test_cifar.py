"""CIFAR-10's binary and Python versions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from writers import assert_truncation_is_refused, batch_names, pickle_batch, write_cifar_binary, write_cifar_python

from sgan.data import load_dataset
from sgan.data.cifar_binary import CLASS_NAMES, read_cifar_binary
from sgan.data.cifar_python import read_cifar_python


@pytest.mark.parametrize("write", [write_cifar_binary, write_cifar_python])
def test_both_versions(tmp_path: Path, write: Callable[[Path, int], tuple[np.ndarray, np.ndarray]]) -> None:
    images, labels = write(tmp_path, 7)
    data = load_dataset(tmp_path)
    assert (data.class_names, data.channels, data.resolution) == (CLASS_NAMES, 3, 32)
    assert torch.equal(data.train.images, torch.from_numpy(images[:35]))
    assert torch.equal(data.test.images, torch.from_numpy(images[35:]))
    assert torch.cat([data.train.labels, data.test.labels]).tolist() == labels.tolist()


def test_the_test_writes_what_python_reads_as_cifar() -> None:
    images = np.random.default_rng(0).integers(256, size=(3, 3, 32, 32), dtype=np.uint8)
    batch = pickle.loads(pickle_batch(images, np.array([4, 0, 9])), encoding="bytes")
    assert set(batch) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert batch[b"labels"] == [4, 0, 9]
    assert np.array_equal(batch[b"data"], images.reshape(3, 3072))
    assert batch[b"filenames"] == [b"a.png"] * 3


def test_bad_binary(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path, 2)
    last = tmp_path / "test_batch.bin"
    good = last.read_bytes()
    for content, message in [
        (good + b"x", r"test_batch\.bin must hold images of 3073 bytes, got 6147 bytes"),
        (b"\x0a" + good[1:], r"test_batch\.bin must have labels 0 to 9, got 10"),
    ]:
        last.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_dataset(tmp_path)
    last.unlink()
    with pytest.raises(ValueError, match=r"test_batch\.bin must be a readable file"):
        load_dataset(tmp_path)


def test_binary_truncation(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path, 1)
    assert_truncation_is_refused(tmp_path / "data_batch_3.bin", lambda: read_cifar_binary(tmp_path))


def test_python_truncation(tmp_path: Path) -> None:
    write_cifar_python(tmp_path, 2)
    assert_truncation_is_refused(tmp_path / "data_batch_3", lambda: read_cifar_python(tmp_path))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "must be a dict with data"),
        ({"data": 3, "labels": [1]}, "must be a dict with data"),
        ({b"labels": [1]}, "must be a dict with data"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, "must be a dict with data"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "must be a dict with data"),
        ({b"data": np.zeros(3072, np.uint8), b"labels": [1]}, "must be a dict with data"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1, 2]}, "must have labels, a list of 1 integers"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "must have labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [-1]}, "must have labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [b"1"]}, "must have labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [1]}, "must have labels"),
        ({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}, "must be a pickle of dicts"),
    ],
)
def test_bad_batches(tmp_path: Path, batch: object, message: str) -> None:
    write_cifar_python(tmp_path, 2)
    (tmp_path / "data_batch_5").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(ValueError, match=rf"data_batch_5 {message}"):
        load_dataset(tmp_path)


def test_every_batch_is_needed(tmp_path: Path) -> None:
    write_cifar_python(tmp_path, 2)
    for name in batch_names("")[1:]:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=rf"{name} must be"):
            load_dataset(tmp_path)
        (tmp_path / name).write_bytes(content)
