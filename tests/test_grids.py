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


def margin_of(path: Path, names: list[str], side: int = 56) -> np.ndarray:
    """The margin of a grid of white images, one in each named row."""
    save_grid(torch.ones(len(names), 1, side, side), path, columns=1, row_names=names)
    grid = read(path)
    assert grid.shape[0] == len(names) * side
    assert (grid[:, -side:] == 255).all()  # the tiles are where they were
    return grid[:, :-side]


def test_every_row_has_its_name_beside_it(tmp_path: Path) -> None:
    margin = margin_of(tmp_path / "a.png", ["glioma", " ", "meningioma"])
    inked = [bool((row < 128).any()) for row in np.split(margin, 3)]
    assert inked == [True, False, True]
    with pytest.raises(ValueError, match="row_names must be 2 names, got 1"):
        save_grid(torch.zeros(2, 1, 8, 8), tmp_path / "a.png", columns=1, row_names=["glioma"])


@pytest.mark.parametrize("names", [("Глиома", "Нейрин"), ("γλίωμα", "νευρών"), ("ורם", "מוח"), ("über", "éber")])
def test_names_of_other_scripts_are_drawn_and_are_no_row_of_boxes(tmp_path: Path, names: tuple[str, str]) -> None:
    """Boxes would make names of one length alike."""
    first, second = (margin_of(tmp_path / "a.png", [name]) for name in names)
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_a_name_that_no_font_here_has_is_its_rows_number(tmp_path: Path) -> None:
    drawn = margin_of(tmp_path / "a.png", ["glioma", "腫瘍"])
    assert np.array_equal(drawn, margin_of(tmp_path / "a.png", ["glioma", "class 1"]))


def test_long_names_are_cut_and_lines_joined(tmp_path: Path) -> None:
    long, longer = (margin_of(tmp_path / "a.png", ["a name of many words " * count]) for count in (5, 50))
    assert np.array_equal(long, longer)
    assert long.shape[1] <= 160 + 2 * 6
    assert np.array_equal(margin_of(tmp_path / "a.png", ["a\nb"]), margin_of(tmp_path / "a.png", ["a b"]))
