"""Picture grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sgan.grids import class_rows, first_of_each, save_grid


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image)


def test_pixels_and_places(tmp_path: Path) -> None:
    images = torch.stack([torch.full((1, 2, 2), value) for value in (-1.0, 0.0, 1.0, 2.0, -2.0)])
    save_grid(images, tmp_path / "a.png", columns=3, scale=1)
    grid = read(tmp_path / "a.png")
    assert grid.tolist() == [[0, 0, 128, 128, 255, 255]] * 2 + [[255, 255, 0, 0, 0, 0]] * 2


def test_uint8_round_trip_in_colour_at_scale(tmp_path: Path) -> None:
    pixels = torch.arange(3 * 3 * 5 * 5, dtype=torch.uint8).reshape(3, 3, 5, 5)
    save_grid(pixels / 127.5 - 1, tmp_path / "a.png", columns=3)
    grid = read(tmp_path / "a.png")
    scale = 12  # ceil(56 / 5)
    assert grid.shape == (5 * scale, 15 * scale, 3)
    expected = pixels.permute(2, 0, 3, 1).reshape(5, 15, 3).numpy()
    assert np.array_equal(grid[::scale, ::scale], expected)
    assert np.array_equal(grid[scale - 1 :: scale, scale - 1 :: scale], expected)


def test_default_layout_is_square(tmp_path: Path) -> None:
    save_grid(torch.zeros(10, 1, 28, 28), tmp_path / "a.png")
    assert read(tmp_path / "a.png").shape == (3 * 56, 4 * 56)
    save_grid(torch.zeros(1, 1, 64, 64), tmp_path / "a.png")
    assert read(tmp_path / "a.png").shape == (64, 64)


@pytest.mark.parametrize("shape", [(3, 28, 28), (2, 2, 28, 28), (0, 1, 28, 28)])
def test_bad_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"save_grid: images must be \(N, 1 or 3, H, W\)"):
        save_grid(torch.zeros(shape), tmp_path / "a.png")


def test_bad_layout(tmp_path: Path) -> None:
    for options in ({"columns": 0}, {"scale": 0}):
        with pytest.raises(ValueError, match="columns and scale must be at least 1"):
            save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "a.png", **options)


def test_class_rows() -> None:
    assert class_rows(3, 2).tolist() == [0, 0, 1, 1, 2, 2]
    labels = torch.tensor([1, 0, 1, 1, 0, 2])
    assert first_of_each(labels, 3, 2).tolist() == [1, 4, 0, 2, 5, 5]
    with pytest.raises(ValueError, match="got none of class 3"):
        first_of_each(labels, 4, 2)
