"""to_planar of sgan's players, every published row on the groups that it fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gconv
from sgan.architectures import (
    DISCRIMINATORS,
    GENERATORS,
    DiscriminatorRow,
    GeneratorRow,
    PatchDiscriminatorRow,
    UNetRow,
)
from sgan.discriminators import Discriminator
from sgan.generators import Generator
from sgan.latents import Latents, stream
from sgan.mlp import PerceptronDiscriminator, PerceptronGenerator
from sgan.pix2pix import PatchDiscriminator, UNetGenerator

RESOLUTIONS = {"medical-64": 64, "anhir-128": 128, "lysto-256": 256, "cifar10-32": 32, "food101-64": 64}
RESOLUTIONS |= {"cifar10-deligan": 32, "sketches-deligan": 32}
PLANAR = {"mnist-mlp"}  # a perceptron, whose generator has no group
OF_C1 = {"mnist-conv", "mnist-deligan", "cifar10-deligan", "sketches-deligan"}
GROUPS = ("C1", "C4", "D4", "C8")
GROUP_LAYERS = (
    gconv.nn.LiftingConv2d, gconv.nn.GroupConv2d, gconv.nn.GroupConvTranspose2d, gconv.nn.GroupPool,
    gconv.nn.GroupConditionalBatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip


def generator(name: str, group: str, **options: Any) -> nn.Module:
    row, side = GENERATORS[name], RESOLUTIONS.get(name, 28)
    common: dict[str, Any] = {"architecture": row, "group": gconv.group_from_name(group), "channels": 2}
    if isinstance(row, UNetRow):
        return UNetGenerator(**common, resolution=16, source_channels=2, width=1 / 16)
    if isinstance(row, GeneratorRow):
        return Generator(**common, resolution=side, num_classes=3, width=1 / side, **options)
    return PerceptronGenerator(**common, resolution=side, num_classes=3, components=3)


def discriminator(name: str, group: str, **options: Any) -> nn.Module:
    row, side = DISCRIMINATORS[name], RESOLUTIONS.get(name, 28)
    common: dict[str, Any] = {"architecture": row, "group": gconv.group_from_name(group), "channels": 2}
    if isinstance(row, PatchDiscriminatorRow):
        return PatchDiscriminator(**common, source_channels=2, width=1 / 16)
    if isinstance(row, DiscriminatorRow):
        return Discriminator(**common, resolution=side, num_classes=3, width=1 / 16, **options)
    return PerceptronDiscriminator(**common, resolution=side)


def operands(player: nn.Module, side: int) -> tuple[Any, ...]:
    torch.manual_seed(1)
    if isinstance(player, UNetGenerator):
        return (images(16),)
    if isinstance(player, Generator | PerceptronGenerator):
        latents = player.sample_latents(torch.tensor([0, 2, 1]), stream(0, "test"))
        return (Latents(latents.z.double(), *latents[1:]),)
    if isinstance(player, PatchDiscriminator):
        return images(64), images(64)
    if isinstance(player, Discriminator):
        return images(side), torch.tensor([0, 2, 1])
    return (images(side),)


def images(side: int) -> Tensor:
    return torch.randn(3, 2, side, side, dtype=torch.float64)


def assert_alike(player: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    torch.manual_seed(0)
    for part in player.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    player = player.double().eval()
    planar = gconv.to_planar(player)
    assert not any(isinstance(part, GROUP_LAYERS) for part in planar.modules())
    with torch.no_grad():
        expected = player(*inputs)
        assert expected.std() > 0
        torch.testing.assert_close(planar(*inputs), expected, rtol=1e-10, atol=1e-10)
    return planar


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", GENERATORS)
def test_generators(name: str, group: str, faithful: bool) -> None:
    if group != "C1" and name in PLANAR | OF_C1 - {"mnist-conv"}:
        with pytest.raises(ValueError, match="group must be C1"):
            generator(name, group)
        return
    torch.manual_seed(0)
    player = generator(name, group, faithful=faithful)
    assert_alike(player, operands(player, 0))


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", [name for name in DISCRIMINATORS if name not in ("toy", "points", "mnist-mlp")])
def test_discriminators(name: str, group: str, faithful: bool) -> None:
    if group != "C1" and name in OF_C1:
        with pytest.raises(ValueError, match="group must be C1"):
            discriminator(name, group)
        return
    torch.manual_seed(0)
    player = discriminator(name, group, faithful=faithful)
    assert_alike(player, operands(player, RESOLUTIONS.get(name, 28)))


@pytest.mark.parametrize("options", [{"projected": True}, {"head": "san"}, {"conditional": False}], ids=str)
@pytest.mark.parametrize("name", ["digits", "cifar10-32"])
def test_discriminators_with_other_options(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    player = discriminator(name, "D4", **options)
    assert_alike(player, operands(player, RESOLUTIONS.get(name, 28)))


@pytest.mark.parametrize("options", [{"components": 3}, {"symmetrise_latent": False}, {"conditional": False}], ids=str)
@pytest.mark.parametrize("name", ["digits", "cifar10-32", "mnist-conv"])
def test_generators_with_other_options(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    player = generator(name, "C4", **options)
    assert_alike(player, operands(player, 0))


@pytest.mark.parametrize("name", ["digits", "cifar10-32", "pix2pix"])
def test_players_in_training_mode_are_refused(name: str) -> None:
    for player in (generator(name, "C4"), discriminator(name, "C4")):
        with pytest.raises(
            ValueError, match=r"^to_planar: module must be in eval mode.*, got .* at '.*in training mode"
        ):
            gconv.to_planar(player)


def test_a_planar_discriminator_exports_without_gconv() -> None:
    planar = assert_alike(player := discriminator("cifar10-32", "D4"), inputs := operands(player, 32))
    program = torch.export.export(planar, inputs)
    assert not any("gconv" in str(node.target) for node in program.graph.nodes)
