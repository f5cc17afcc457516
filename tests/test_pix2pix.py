"""Image translation: equivariance of both players, and the published networks on the trivial group."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gconv
from sgan.architectures import PIX2PIX_DISCRIMINATOR, PIX2PIX_GENERATOR
from sgan.pix2pix import PatchDiscriminator, UNetGenerator

GROUPS = ["C1", "C4", "D1", "D4", "C8"]


def generator(group: str, resolution: int = 32, width: float = 1 / 16) -> UNetGenerator:
    torch.manual_seed(0)
    return UNetGenerator(
        architecture=PIX2PIX_GENERATOR,
        group=gconv.group_from_name(group),
        resolution=resolution,
        source_channels=3,
        channels=2,
        width=width,
    ).double()


def discriminator(group: str, width: float = 1 / 16) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(
        architecture=PIX2PIX_DISCRIMINATOR,
        group=gconv.group_from_name(group),
        source_channels=3,
        channels=2,
        width=width,
    ).double()


def images(channels: int, resolution: int = 32) -> Tensor:
    return torch.randn(2, channels, resolution, resolution, dtype=torch.float64)


@pytest.mark.parametrize("group", GROUPS)
def test_the_generator_is_equivariant(group: str) -> None:
    player = generator(group)
    source = images(3)
    player(source)  # running statistics that are not the initial ones
    player.eval()
    translated = player(source)
    assert translated.shape == (2, 2, 32, 32)
    assert translated.std() > 1e-3
    for element in player.group.lattice_elements:
        moved = player(player.group.act(source, element))
        torch.testing.assert_close(moved, player.group.act(translated, element), atol=1e-10, rtol=0)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("training", [True, False])
def test_the_map_of_scores_moves_with_the_images(group: str, training: bool) -> None:
    player = discriminator(group).train(training)
    x, source = images(2), images(3)
    scores = player(x, source)
    assert scores.shape == (2, 2, 2)
    for element in player.group.lattice_elements:
        moved = player(player.group.act(x, element), player.group.act(source, element))
        expected = player.group.act(scores[:, None], element).squeeze(1)
        torch.testing.assert_close(moved, expected, atol=1e-10, rtol=0)


def test_planar_players_are_not_equivariant() -> None:
    source, turn = images(3), gconv.CyclicGroup(4)
    player = generator("C1").eval()
    assert (player(turn.act(source, 1)) - turn.act(player(source), 1)).abs().max() > 1e-3
    judge, x = discriminator("C1").eval(), images(2)
    assert (judge(turn.act(x, 1), turn.act(source, 1)) - judge(x, source).rot90(1, (1, 2))).abs().max() > 1e-3


def test_a_patch_is_70_pixels_wide() -> None:
    player = discriminator("C1").eval()
    x = images(2, 128).requires_grad_()
    scores = player(x, images(3, 128))
    assert scores.shape == (2, 14, 14)
    (gradient,) = torch.autograd.grad(scores[0, 7, 7], x)
    seen = gradient[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_noise_is_dropout_in_three_stages_in_training_alone() -> None:
    player = generator("C4", resolution=64)
    rates = [module.p for stage in player.decoder for module in stage if isinstance(module, nn.Dropout)]
    assert rates == [0, 0, 0.5, 0.5, 0.5, 0]  # outermost first; not the innermost
    source = images(3, 64)
    assert not torch.equal(player(source), player(source))
    player.eval()
    assert torch.equal(player(source), player(source))


def test_every_skip_reaches_the_image() -> None:
    player = generator("C4").eval()
    (gradients) = torch.autograd.grad(player(images(3)).sum(), [stage[0].weight for stage in player.encoder])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("resolution", [2, 48, 512])
def test_resolutions_that_cannot_be_are_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match="resolution must be"):
        generator("C1", resolution=resolution)
