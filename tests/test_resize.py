"""The rule by which images are brought to another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sgan.data import load_dataset
from sgan.data import resize as resize_module
from sgan.data.resize import RULE, describe_resize, resize


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


@pytest.mark.parametrize(("old", "new"), [(299, 64), (64, 28), (28, 32), (32, 27), (7, 56)])
def test_it_is_pillows_antialiased_bicubic(old: int, new: int) -> None:
    """Pillow in floating point, before rounding: a half level apart, and what float32 adds."""
    images = random_images(2, 1, old, old)
    got = resize(images, new)
    for index in range(2):
        image = Image.fromarray(images[index, 0].numpy().astype(np.float32))
        expected = np.array(image.resize((new, new), Image.Resampling.BICUBIC)).clip(0, 255)
        assert np.abs(got[index, 0].numpy() - expected).max() <= 0.5 + 1e-3


def test_the_centred_square_is_taken() -> None:
    wide = random_images(3, 3, 4, 9)
    assert torch.equal(resize(wide, 4), wide[:, :, :, 2:6])
    tall = random_images(3, 1, 10, 4)
    assert torch.equal(resize(tall, 4), tall[:, :, 3:7])
    assert torch.equal(resize(wide, 8), resize(wide[:, :, :, 2:6].contiguous(), 8))


@pytest.mark.parametrize(("old", "new"), [(33, 14), (8, 28), (30, 16)])
def test_it_commutes_with_the_symmetries_of_a_square(old: int, new: int) -> None:
    images = random_images(4, 3, old, old)
    resized = resize(images, new).int()
    for turns in range(4):
        for flip in (False, True):

            def act(x: torch.Tensor, turns: int = turns, flip: bool = flip) -> torch.Tensor:
                return torch.rot90(x.flip(2) if flip else x, turns, (2, 3))

            assert (resize(act(images), new).int() - act(resized)).abs().max() <= 1  # ties, rounded either way


def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(7, 3, 20, 20)
    whole = resize(images, 12)
    monkeypatch.setattr(resize_module, "CHUNK_VALUES", 2 * 3 * 20 * 20)
    assert torch.equal(resize(images, 12), whole)


def test_nothing_to_do_changes_nothing() -> None:
    images = random_images(2, 3, 16, 16)
    assert resize(images, 16) is images
    assert resize(random_images(2, 3, 4, 5), None).shape == (2, 3, 4, 5)


def test_built_says_what_was_done() -> None:
    assert describe_resize([(8, 8)], None) == describe_resize([(8, 8)], 8) == "no"
    assert describe_resize([(9, 8)], 8) == f"9x8 to 8x8: {RULE}"
    assert describe_resize([(9, 8), (7, 30), (12, 12)], 8) == f"7x30 to 12x12 to 8x8: {RULE}"


def test_every_part_and_what_is_drawn_anew_are_resized(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=random_images(10, 4, 6, 3).numpy())
    data = load_dataset(tmp_path / "a.npz", resolution=7)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (3, 7, 7)
    assert data.built["resized"] == f"4x6 to 7x7: {RULE}"
    digits = load_dataset("digits-rotated", resolution=14)
    assert digits.resolution == 14
    assert digits.held_out(1000).images.shape[2:] == (14, 14)
    assert torch.equal(digits.train.images, resize(load_dataset("digits-rotated").train.images, 14))


@pytest.mark.parametrize("resolution", [0, -1, True, 2.5])
def test_resolution_is_checked(resolution: int) -> None:
    with pytest.raises(ValueError, match="load_dataset: resolution must be an integer >= 1, or None, got"):
        load_dataset("digits", resolution=resolution)
