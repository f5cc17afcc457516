"""Sets built by turning upright images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from writers import write_idx, write_mnist

from sgan.data import DIGITS, load_dataset
from sgan.data.rotate import PREFIXES, split_prefix, turn_any, turn_quarters


def test_prefixes_are_the_embedded_sets_names() -> None:
    assert {f"digits-{prefix}" for prefix in PREFIXES} == set(DIGITS) - {"digits"}
    assert split_prefix("rotated:a:b") == ("rotated", "a:b")
    assert split_prefix("other:a") == (None, "other:a")
    assert split_prefix("rotated") == (None, "rotated")


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flipped", [False, True])
def test_quarter_turns_are_exact(turns: int, flipped: bool) -> None:
    images = torch.randint(256, (5, 3, 9, 9), dtype=torch.uint8)
    angle, flip = torch.full((5,), turns * math.pi / 2, dtype=torch.float64), torch.full((5,), flipped)
    expected = torch.rot90(images.flip(2) if flipped else images, turns, (2, 3))
    assert torch.equal(turn_quarters(images, angle, flip), expected)
    assert (turn_any(images, angle, flip).int() - expected.int()).abs().max() <= 1


def test_every_image_turns_by_its_own_angle() -> None:
    images = torch.randint(256, (4, 1, 6, 6), dtype=torch.uint8)
    angle = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64) * math.pi
    flip = torch.tensor([False, True, True, False])
    turned = turn_quarters(images, angle, flip)
    for index in range(4):
        one = images[index].flip(1) if flip[index] else images[index]
        assert torch.equal(turned[index], torch.rot90(one, index, (1, 2)))


def test_a_blob_moves_as_the_rotation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its centre turns counter-clockwise about the image's centre, in closed form, and its mass stays."""
    monkeypatch.setattr("sgan.data.rotate.CHUNK", 3)
    side, (x0, y0) = 28, (5.0, 2.5)  # y up
    y, x = (side - 1) / 2 - torch.arange(side)[:, None], torch.arange(side) - (side - 1) / 2
    blob = 255 * torch.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 2.0**2))
    angle = torch.linspace(0, 2 * math.pi, 10, dtype=torch.float64)
    flip = torch.arange(10) % 2 == 1
    turned = turn_any(blob.round().to(torch.uint8).expand(10, 1, -1, -1), angle, flip).double().squeeze(1)
    mass = turned.sum((1, 2))
    got = torch.stack([(turned * x).sum((1, 2)) / mass, (turned * y).sum((1, 2)) / mass], 1)
    start = torch.stack([torch.full((10,), x0), torch.where(flip, -y0, y0)], 1).double()
    expected = torch.stack(
        [
            angle.cos() * start[:, 0] - angle.sin() * start[:, 1],
            angle.sin() * start[:, 0] + angle.cos() * start[:, 1],
        ],
        1,
    )
    assert (got - expected).norm(dim=1).max() < 0.05
    assert (mass / mass[0] - 1).abs().max() < 0.01


def test_quarter_mnist_is_named_seeded_and_a_turn_of_the_files(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path, "train", 60)
    write_mnist(tmp_path, "t10k", 60)
    upright, data = load_dataset(tmp_path), load_dataset(f"quarter:{tmp_path}")
    assert data.name == f"quarter:{tmp_path.name}"
    assert data.built["rotation"] == "one of 0, 90, 180, 270 degrees per image, uniform"
    assert data.train.labels.tolist() == labels.tolist()
    turns = {}
    for part in ("train", "test"):
        before, after = getattr(upright, part).images, getattr(data, part).images
        is_turn = torch.stack([(torch.rot90(before, turn, (2, 3)) == after).all(3).all(2).all(1) for turn in range(4)])
        assert torch.equal(is_turn.sum(0), torch.ones(60, dtype=torch.int64))
        turns[part] = is_turn.int().argmax(0)
        assert len(turns[part].unique()) == 4
    assert not torch.equal(turns["train"], turns["test"])  # streams of their own
    assert torch.equal(load_dataset(f"quarter:{tmp_path}").train.images, data.train.images)
    assert not torch.equal(load_dataset(f"quarter:{tmp_path}", seed=1).train.images, data.train.images)
    mirrored = load_dataset(f"quarter-mirrored:{tmp_path}")
    assert mirrored.built["mirrored"] == "upside down with probability 1/2, before the rotation"
    assert images.shape == (60, 6, 6)


def test_rotated_mnist_needs_images_on_black(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8)
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(20, np.uint8))
    write_idx(tmp_path / "train-images-idx3-ubyte", pixels)
    with pytest.raises(ValueError, match="rotated: images must lie on black, 0 in the corners"):
        load_dataset(f"rotated:{tmp_path}")
    pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0
    write_idx(tmp_path / "train-images-idx3-ubyte", pixels)
    data = load_dataset(f"rotated:{tmp_path}")
    assert data.built["rotation"] == "uniform in [0, 360) degrees per image"
    assert len(data.train) == 16


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_only_square_images_turn(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 4, 6), np.uint8))
    with pytest.raises(ValueError, match="quarter: images must be square, got H x W = 4 x 6"):
        load_dataset(f"quarter:{tmp_path}/a.npz")
    assert load_dataset(f"quarter:{tmp_path}/a.npz", resolution=5).resolution == 5


def test_the_home_folder_is_found_after_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path, "train", 10)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert load_dataset(f"quarter:~/{tmp_path.name}").name == f"quarter:{tmp_path.name}"


def test_the_embedded_digits_have_names_of_their_own() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*digits-rotated, .*got 'digits' \(no such file or folder\)"):
        load_dataset("rotated:digits")
