"""The tables of published networks: parameter counts and widths as they were published."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import gconv
from sgan.architectures import (
    DISCRIMINATORS,
    GENERATORS,
    PIX2PIX_DISCRIMINATOR,
    PIX2PIX_GENERATOR,
    DiscriminatorRow,
    GeneratorRow,
)
from sgan.discriminators import Discriminator
from sgan.generators import Generator
from sgan.mlp import PerceptronDiscriminator, PerceptronGenerator
from sgan.pix2pix import PatchDiscriminator, UNetGenerator
from sgan.trainer import parameter_count

DIGIT = {"resolution": 28, "channels": 1, "num_classes": 10}


def generator(row: str, group: str, **shape: Any) -> Generator | PerceptronGenerator:
    architecture = GENERATORS[row]
    if isinstance(architecture, GeneratorRow):
        return Generator(architecture=architecture, group=gconv.group_from_name(group), **{**DIGIT, **shape})
    return PerceptronGenerator(architecture=architecture, group=gconv.group_from_name(group), **{**DIGIT, **shape})


def discriminator(row: str, group: str, **shape: Any) -> Discriminator | PerceptronDiscriminator:
    architecture = DISCRIMINATORS[row]
    if isinstance(architecture, DiscriminatorRow):
        return Discriminator(architecture=architecture, group=gconv.group_from_name(group), **{**DIGIT, **shape})
    shape = {"resolution": 28, "channels": 1, **shape}
    return PerceptronDiscriminator(architecture=architecture, group=gconv.group_from_name(group), **shape)


@pytest.mark.parametrize(
    ("group", "widths_g", "millions_g", "widths_d", "millions_d"),
    [
        ("C1", (512, 256, 128), 2.97, (128, 256, 512), 1.48),
        ("C4", (256, 128, 64), 2.63, (64, 128, 256), 1.48),
        ("C8", (180, 90, 45), 2.88, (45, 90, 180), 1.78),
    ],
)
def test_sp_gan_on_rotmnist(
    group: str, widths_g: tuple[int, ...], millions_g: float, widths_d: tuple[int, ...], millions_d: float
) -> None:
    """Widths and counts of arXiv 2202.01129."""
    g, d = generator("rotmnist", group), discriminator("rotmnist", group)
    assert (g.widths, d.widths) == (widths_g, widths_d)
    assert round(parameter_count(g) / 1e6, 2) == millions_g
    assert round(parameter_count(d) / 1e6, 2) == millions_d


@pytest.mark.parametrize(
    ("row", "group", "resolution", "widths_g", "widths_d"),
    [
        ("medical-64", "D4", 64, (90, 45, 22, 11, 5), (5, 11, 22, 45, 90)),
        ("medical-64", "C1", 64, (256, 128, 64, 32, 16), (16, 32, 64, 128, 256)),
        ("anhir-128", "D4", 128, (181, 90, 45, 22, 11), (11, 22, 45, 90, 181)),
        ("lysto-256", "D4", 256, (181, 90, 45, 22, 11, 5), (5, 11, 22, 45, 90, 181)),
        ("cifar10-32", "C4", 32, (128, 128, 128), (64, 64, 64, 128)),
        ("cifar10-32", "C1", 32, (256, 256, 256), (128, 128, 128, 128)),
        ("food101-64", "C4", 64, (256, 192, 128, 96), (64, 128, 256, 784)),
    ],
)
def test_residual_networks(
    row: str, group: str, resolution: int, widths_g: tuple[int, ...], widths_d: tuple[int, ...]
) -> None:
    """int(width / sqrt(|G|)) everywhere, as in the code of arXiv 2005.01683; the last block after pooling is planar."""
    shape = {"resolution": resolution, "channels": 3}
    assert (generator(row, group, **shape).widths, discriminator(row, group, **shape).widths) == (widths_g, widths_d)


def linear(*sizes: int) -> int:
    return sum((a + 1) * b for a, b in pairwise(sizes))


def convolution(c_in: int, c_out: int, size: int) -> int:
    return c_in * c_out * size**2 + c_out


def test_counts_of_the_mnist_players_by_hand() -> None:
    assert parameter_count(generator("mnist-mlp", "C1")) == linear(100, 256, 512, 1024, 784)
    assert parameter_count(discriminator("mnist-mlp", "C1")) == linear(784, 1024, 512, 256, 1)
    norms = 2 * (256 + 128)
    upward = convolution(512, 256, 4) + convolution(256, 128, 4) + convolution(128, 1, 6)
    assert parameter_count(generator("mnist-conv", "C1")) == linear(100, 4608) + upward + norms
    downward = convolution(1, 128, 6) + convolution(128, 256, 4) + convolution(256, 512, 4)
    assert parameter_count(discriminator("mnist-conv", "C1", head="san")) == downward + 4608


def test_counts_of_deligans_players_by_hand() -> None:
    upward = convolution(64, 32, 3) + convolution(32, 16, 5) + convolution(16, 1, 5)
    norms = 2 * (1024 + 32 + 16)
    mixture = 2 * 50 * 30
    g = generator("mnist-deligan", "C1", components=50)
    assert parameter_count(g) == linear(30, 1024) + upward + norms + mixture
    downward = convolution(1, 16, 5) + convolution(16, 32, 5) + convolution(32, 64, 3) + 2 * (32 + 64)
    kernels = 64 * 64 * 5 + 64 * 5
    assert parameter_count(discriminator("mnist-deligan", "C1")) == downward + kernels + linear(128, 1)
    assert parameter_count(discriminator("toy", "C1")) == linear(2, 32, 1)
    for row, channels, widths in (("cifar10-deligan", 3, (512, 256, 128)), ("sketches-deligan", 1, (160, 80, 40))):
        upward = sum(convolution(*pair, 5) for pair in pairwise((*widths, channels)))
        norms = 2 * (16 * widths[0] + sum(widths[1:]))
        g = generator(row, "C1", resolution=32, channels=channels)
        assert parameter_count(g) == linear(100, 16 * widths[0]) + upward + norms
    for row, count in {
        "toy": linear(2, 32, 2),
        "toy-gan++": linear(2, 50, 32, 2),
        "toy-nx": linear(2, 1600, 2),
    }.items():
        assert parameter_count(generator(row, "C1")) == count
    assert parameter_count(generator("toy", "C1", components=50)) == linear(2, 32, 2) + 2 * 50 * 2
    assert parameter_count(generator("toy-moe", "C1", components=50)) == linear(52, 32, 2)
    assert parameter_count(generator("toy-ensemble", "C1", components=50)) == 50 * linear(2, 32, 2)


def test_counts_of_pix2pix() -> None:
    """54.414 M and 2.769 M are what the authors' PyTorch code prints for its default networks."""
    c1 = gconv.CyclicGroup(1)
    g = UNetGenerator(architecture=PIX2PIX_GENERATOR, group=c1, resolution=256, source_channels=3, channels=3)
    assert round(parameter_count(g) / 1e6, 3) == 54.414
    del g
    d = PatchDiscriminator(architecture=PIX2PIX_DISCRIMINATOR, group=c1, source_channels=3, channels=3)
    assert round(parameter_count(d) / 1e6, 3) == 2.769


@pytest.mark.parametrize("row", ["rotmnist", "medical-64", "cifar10-32"])
def test_the_multiplier_scales_the_widths_of_the_group(row: str) -> None:
    resolution = {"rotmnist": 28, "medical-64": 64, "cifar10-32": 32}[row]
    for make in (generator, discriminator):
        whole, half = (make(row, "C4", resolution=resolution, width=width) for width in (1.0, 0.5))
        assert half.widths == tuple(width // 2 for width in whole.widths)
