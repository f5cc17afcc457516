"""Larochelle's text files: orientation, parts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from writers import assert_truncation_is_refused, write_amat

from sgan.data import load_dataset
from sgan.data.amat import LINES, read_amat

TRAIN, TEST = (f"mnist_all_rotation_normalized_float_{part}.amat" for part in ("train_valid", "test"))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(12, 28, 28)) / 255


def test_both_parts_of_rotmnist(tmp_path: Path, pixels: np.ndarray) -> None:
    labels = np.arange(12) % 10
    write_amat(tmp_path / TRAIN, pixels, labels)
    write_amat(tmp_path / TEST, 1 - pixels, labels)
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test), data.num_classes) == (12, 12, 10)
    expected = torch.from_numpy((pixels * 255).round().astype(np.uint8)).unsqueeze(1)
    assert torch.equal(data.train.images, expected)
    assert torch.equal(data.test.images, 255 - expected)
    assert data.train.labels.tolist() == labels.tolist()


def test_pixels_come_column_by_column(tmp_path: Path) -> None:
    """The second number of a line is the pixel below the first."""
    line = ["0"] * 785
    line[1], line[784] = "1", "7"
    (tmp_path / "a.amat").write_text(" ".join(line))
    raw = read_amat(tmp_path / "a.amat")
    assert raw.images.images.nonzero().tolist() == [[0, 0, 1, 0]]
    assert raw.images.labels.tolist() == [7]


def test_long_files_are_read_in_pieces(tmp_path: Path) -> None:
    count = 2 * LINES + 3
    labels = np.arange(count) % 10
    lines = [f"{'0 ' * 783}{index % 256 / 255:.7f} {label}\n" for index, label in enumerate(labels)]
    (tmp_path / "a.amat").write_text("# a comment\n\n" + "".join(lines))
    raw = read_amat(tmp_path / "a.amat")
    assert raw.images.labels.tolist() == labels.tolist()
    assert raw.images.images[:, 0, -1, -1].tolist() == [index % 256 for index in range(count)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:-1], "784 numbers per line"),
        (lambda line: [*line, "0"], "786 numbers per line"),
        (lambda line: ["1.5", *line[1:]], r"a pixel outside \[0, 1\], from 0.0 to 1.5"),
        (lambda line: ["-0.01", *line[1:]], "a pixel outside"),
        (lambda line: ["nan", *line[1:]], "a pixel outside"),
        (lambda line: [*line[:-1], "10"], "a label that is not one of 0 to 9"),
        (lambda line: [*line[:-1], "2.5"], "a label"),
        (lambda line: ["x", *line[1:]], "must be text of 784 pixels"),
        (lambda line: ["é", *line[1:]], "must be text of 784 pixels"),
        (lambda line: [], "must have a line per image, got none"),
    ],
)
def test_bad_lines(tmp_path: Path, change: Callable[[list[str]], list[str]], message: str) -> None:
    (tmp_path / "a.amat").write_text(" ".join(change(["0"] * 785)), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"a\.amat .*{message}"):
        read_amat(tmp_path / "a.amat")


def test_truncation(tmp_path: Path, pixels: np.ndarray) -> None:
    write_amat(tmp_path / "a.amat", pixels[:1], np.array([3]))
    assert_truncation_is_refused(tmp_path / "a.amat", lambda: read_amat(tmp_path / "a.amat"))


def test_a_folder_must_say_which_file_is_which(tmp_path: Path, pixels: np.ndarray) -> None:
    write_amat(tmp_path / "digits.amat", pixels, np.arange(12) % 10)
    with pytest.raises(
        ValueError, match=r"one \.amat file with 'train' in its name and at most one with 'test', got 0"
    ):
        load_dataset(tmp_path)
    assert len(load_dataset(tmp_path / "digits.amat").test) == 2  # a single file: a fifth is held out
