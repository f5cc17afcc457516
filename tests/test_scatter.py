"""Scatter plots: the same bytes for the same points, and points where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sgan.scatter import save_scatter


def colours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where the picture is blue and where it is grey, as (H, W) masks; the axes are black."""
    with Image.open(path) as image:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(int), 2, 0)
    return blue - red > 60, (red == green) & (green == blue) & (abs(red - 191) < 8)


def square(half: float) -> Tensor:
    return torch.tensor([[half, half], [half, -half], [-half, half], [-half, -half]])


def test_equal_points_give_equal_bytes(tmp_path: Path) -> None:
    points, behind = torch.randn(2, 50, 2)
    for name, drawn in (("a", points), ("b", points.clone()), ("c", points + 0.1)):
        save_scatter(drawn, tmp_path / name, behind=behind)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert len(a) < 50_000


def test_points_are_blue_over_grey_ones_and_lie_where_their_coordinates_say(tmp_path: Path) -> None:
    pixels = []
    for number, point in enumerate(([0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [1.0, 1.0])):
        save_scatter(torch.tensor([point]), tmp_path / f"{number}.png", behind=square(1.0))
        blue, _ = colours(tmp_path / f"{number}.png")
        pixels.append(np.argwhere(blue).mean(0))
    centre, right, up, corner = pixels
    half = right[1] - centre[1]
    assert half > 40
    for pixel, offset in ((right, (0, half)), (up, (-half, 0)), (corner, (-2 * half, 2 * half))):  # (row, column)
        assert pixel - centre == pytest.approx(np.array(offset), abs=1)


def test_the_frame_is_that_of_the_grey_points(tmp_path: Path) -> None:
    """Samples far outside are not drawn, and neither they nor one outlier among a hundred move the frame."""
    behind = torch.cat([square(1.0).repeat(25, 1), torch.tensor([[1000.0, 0.0]])])
    for name, points in (("near", square(0.5)), ("far", square(0.5) + 100)):
        save_scatter(points, tmp_path / name, behind=behind)
    (near, grey), (far, grey_again) = colours(tmp_path / "near"), colours(tmp_path / "far")
    assert near.any()
    assert not far.any()
    assert grey.sum() == grey_again.sum() > 20


def test_what_are_no_points_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"save_scatter: points must be \(N >= 1, 2\), got \(3, 3\)"):
        save_scatter(torch.zeros(3, 3), tmp_path / "a.png", behind=square(1.0))
    with pytest.raises(ValueError, match=r"save_scatter: behind must be \(N >= 1, 2\), got \(0, 2\)"):
        save_scatter(square(1.0), tmp_path / "a.png", behind=torch.zeros(0, 2))
