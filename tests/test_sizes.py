"""Which sides of images the networks fit, as --list says it, and what a side that cannot be halved costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgan.architectures import DISCRIMINATORS, GENERATORS
from sgan.config import Options
from sgan.presets import PRESETS
from sgan.sizes import fitting_sides, lost_stages, smallest_side
from sgan.trainer import build_discriminator, build_generator

FITTING = {
    "digits": {7, 8, 9, 13, 14, 16, 17, 27, 28, 32, 54, 64, 100, 128, 216, 256},
    "medical-64": {4, 8, 16, 32, 64, 128},
    "cifar10-32": {4, 8, 16, 32},
    "mnist-conv": {28},
    "mnist-deligan": {28},
    "cifar10-deligan": {32},
    "pix2pix": {4, 8, 16, 32, 64, 128, 256},
}
SIDES = (4, 6, 7, 8, 9, 13, 14, 16, 17, 27, 28, 29, 31, 32, 54, 58, 64, 100, 128, 216, 256, 299)


def fits(options: Options, side: int) -> bool:
    """Whether both networks can be built; on the meta device, where a layer costs nothing."""
    shape = {"resolution": side, "channels": 3, "num_classes": 2}
    try:
        with torch.device("meta"):
            build_generator(options, **shape)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("row", FITTING)
def test_the_sides_that_are_stated_fit_and_others_do_not(row: str) -> None:
    options = Options(
        preset="digits-cnn",
        generator=row,
        discriminator=row,
        generator_group="C1",
        discriminator_group="C1",
        generator_width=1 / 16,
        loss="hinge",
    )
    assert {side for side in SIDES if fits(options, side)} == FITTING[row] & set(SIDES)


def test_sides_are_stated_of_every_preset() -> None:
    stated = {row: fitting_sides(row, row if row in DISCRIMINATORS else "toy") for row in GENERATORS}
    assert stated["digits"] == "7 to 27 times 1, 2, 4, ..."
    assert stated["medical-64"] == "4, 8, ..., 128"
    assert stated["cifar10-32"] == "4, 8, ..., 32"
    assert stated["mnist-conv"] == stated["mnist-deligan"] == "28"
    assert stated["pix2pix"] == "32, 64, ..., 256"  # the U-Net alone fits 4 pixels
    assert stated["mnist-mlp"] == "any"
    assert fitting_sides("mnist-mlp", "mnist-conv") == "12 or more"
    assert fitting_sides("mnist-mlp", "digits") == stated["digits"]
    assert fitting_sides("digits", "mnist-conv") == "7 to 27 times 1, 2, 4, ..., from 12 on"
    assert fitting_sides("medical-64", "sketches-deligan") == "32, 64, ..., 128"
    assert stated["toy"] == "points"


PLAYERS = {(o.generator, o.discriminator) for o in (Options(preset=n, **p.changes) for n, p in PRESETS.items())}


@pytest.mark.parametrize("row", sorted({d for g, d in PLAYERS if fitting_sides(g, d) != "points"}))
def test_a_discriminator_scores_its_smallest_images_and_refuses_smaller_ones(row: str) -> None:
    """Scores are calculated: a convolution that finds no place on its map is told by no constructor of a layer."""
    pairs = row == "pix2pix"
    groups = {"generator_group": "C1", "discriminator_group": "C1"}
    options = Options(preset="digits-cnn", discriminator=row, discriminator_width=1 / 64, **groups)
    smallest = smallest_side(row)
    x = torch.zeros(2, 3, smallest, smallest)
    condition: Tensor = x if pairs else torch.zeros(2, dtype=torch.int64)
    discriminator = build_discriminator(options, resolution=smallest, channels=3, num_classes=2)
    assert discriminator(x, condition).isfinite().all()
    if smallest > 1:
        with pytest.raises(ValueError, match=rf"resolution must be at least {smallest} for .*, got {smallest - 1}"):
            build_discriminator(options, resolution=smallest - 1, channels=3, num_classes=2)


@pytest.mark.parametrize(
    ("side", "line"),
    [
        (17, "at 17 x 17 pixels, halved 0 times, the networks have 1 of the 2 stages that they have at 16 x 16"),
        (13, "at 13 x 13 pixels, halved 0 times, the networks have 1 of the 2 stages that they have at 14 x 14"),
        (54, "halved 1 times, the networks have 2 of the 3 stages that they have at 52 x 52"),
        *((side, None) for side in (28, 32, 64, 128, 256)),
    ],
)
def test_a_side_that_costs_stages_is_told(side: int, line: str | None) -> None:
    told = lost_stages("digits", side)
    assert (told is None) == (line is None)
    assert told is None or line in told
    assert lost_stages("medical-64", 17) is None
    assert lost_stages("toy", 1) is None


def test_what_17_pixels_make_of_the_discriminator() -> None:
    options = Options(preset="digits-cnn", generator_group="C1", discriminator_group="C1", discriminator_width=0.1)
    sizes = {
        side: sum(
            p.numel() for p in build_discriminator(options, resolution=side, channels=1, num_classes=2).parameters()
        )
        for side in (16, 17)
    }
    assert sizes[17] < sizes[16] / 10
