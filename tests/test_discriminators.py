"""The discriminator: equal sizes and exact invariance."""

from __future__ import annotations

import pytest
import torch

import gconv
from sgan.config import PRESETS, resolve
from sgan.discriminators import Discriminator
from sgan.trainer import build_discriminator, parameter_count

GROUPS = ["C1", "C2", "C4", "D1", "D2", "D4"]
SHAPE = {"resolution": 28, "channels": 1, "num_classes": 10}


def build(group: str, resolution: int = 28) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(
        group=gconv.group_from_name(group), resolution=resolution, channels=2, num_classes=3, width=1 / 16
    ).to(torch.float64)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("width", [None, 0.25, 1.0])
def test_every_preset_has_the_planar_networks_parameter_count(preset: str, width: float | None) -> None:
    planar = resolve("digits-cnn", discriminator_width=width)
    options = resolve(preset, discriminator_width=width)
    expected = parameter_count(build_discriminator(planar, **SHAPE))
    assert parameter_count(build_discriminator(options, **SHAPE)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("preset", "widths"), [("digits-cnn", (128, 256, 512)), ("digits-c4", (64, 128, 256))])
def test_the_networks_are_the_published_ones(preset: str, widths: tuple[int, ...]) -> None:
    discriminator = build_discriminator(resolve(preset, discriminator_width=1.0), **SHAPE)
    assert discriminator.widths == pytest.approx(widths, rel=0.01)
    assert parameter_count(discriminator) == pytest.approx(1.48e6, rel=0.01)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("resolution", [28, 16])
def test_scores_are_invariant_for_every_element(group: str, training: bool, resolution: int) -> None:
    discriminator = build(group, resolution)
    images = torch.randn(3, 2, resolution, resolution, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    moved = [discriminator.group.act(images, element) for element in range(discriminator.group.order)]
    discriminator.train(training)
    # One batch: each training step continues the power iteration of the spectral norms, which changes the function.
    scores = discriminator(torch.cat(moved), labels.repeat(len(moved))).view(len(moved), 3)
    assert scores.std(dim=1).min() > 1e-5
    torch.testing.assert_close(scores, scores[:1].expand_as(scores), atol=1e-10, rtol=0)


def test_a_planar_discriminator_is_not_invariant() -> None:
    discriminator = build("C1").eval()
    images = torch.randn(3, 2, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    assert (discriminator(images, labels) - discriminator(images.rot90(1, (2, 3)), labels)).abs().max() > 1e-5


def test_the_label_decides_the_score() -> None:
    discriminator = build("C4").eval()
    images = torch.randn(2, 2, 28, 28, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert not torch.allclose(discriminator(images, torch.tensor([0, 0])), discriminator(images, torch.tensor([1, 2])))


@pytest.mark.parametrize("group", ["C1", "C4", "D4"])
def test_gradients_of_the_gradient_reach_every_weight(group: str) -> None:
    discriminator = build(group)
    images = torch.randn(2, 2, 28, 28, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(images, torch.tensor([0, 1])).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    for convolution in discriminator.convolutions:
        weights = [p.grad for p in convolution.parameters() if p.dim() > 1]
        assert all(grad is not None and grad.abs().max() > 0 for grad in weights)
