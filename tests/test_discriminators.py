"""The discriminator: equal sizes and exact invariance of every published row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

import gconv
from sgan.architectures import DISCRIMINATORS, DiscriminatorRow
from sgan.config import resolve
from sgan.discriminators import Discriminator
from sgan.heads import SanScores
from sgan.presets import PRESETS
from sgan.trainer import build_discriminator, parameter_count

GROUPS = ["C1", "C2", "C4", "D1", "D2", "D4", "C8", "D8"]
SHAPE = {"resolution": 28, "channels": 1, "num_classes": 10}
ROWS = {name: row for name, row in DISCRIMINATORS.items() if isinstance(row, DiscriminatorRow)}
ON_GROUPS = [name for name, row in ROWS.items() if row.stage != "strided"]
POOLED_EARLY = [name for name, row in ROWS.items() if row.planar_stages]
INVARIANT = [name for name in ON_GROUPS if name not in POOLED_EARLY]
LABELS = torch.tensor([0, 1, 2])


def build(
    group: str = "C4",
    row: str | DiscriminatorRow = "digits",
    *,
    resolution: int = 28,
    width: float = 1 / 16,
    **options: Any,
) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(
        architecture=ROWS[row] if isinstance(row, str) else row,
        group=gconv.group_from_name(group),
        resolution=resolution,
        channels=2,
        num_classes=3,
        width=width,
        **options,
    ).to(torch.float64)


def images(resolution: int = 28) -> Tensor:
    return torch.randn(3, 2, resolution, resolution, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def invariance_error(discriminator: Discriminator, resolution: int = 28, *, training: bool = False) -> float:
    """The largest difference between scores of moved images, over the elements on the pixel grid.

    All are one batch: a training step continues the power iterations of the spectral norms, which changes the function.
    """
    group, x = discriminator.group, images(resolution)
    moved = [group.act(x, element) for element in group.lattice_elements]
    scores = discriminator.train(training)(torch.cat(moved), LABELS.repeat(len(moved))).view(len(moved), 3)
    assert scores.std(dim=1).min() > 1e-6
    return float((scores - scores[:1]).abs().max().detach())


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("digits-")])
@pytest.mark.parametrize("width", [None, 0.25, 1.0])
def test_every_preset_has_the_planar_networks_parameter_count(preset: str, width: float | None) -> None:
    changes = {} if width is None else {"discriminator_width": width}
    planar, options = resolve("digits-cnn", **changes), resolve(preset, **changes)
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
def test_scores_are_invariant_for_every_group(group: str, training: bool, resolution: int) -> None:
    assert invariance_error(build(group, resolution=resolution), resolution, training=training) < 1e-10


@pytest.mark.parametrize("row", INVARIANT)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("resolution", [32, 20])
def test_scores_of_every_row_are_invariant(row: str, training: bool, resolution: int) -> None:
    """20 pixels halve to 5, 3 and 2: both even and odd sizes are met."""
    discriminator = build("D4", row, resolution=resolution)
    assert invariance_error(discriminator, resolution, training=training) < 1e-10


@pytest.mark.parametrize("row", POOLED_EARLY)
def test_rows_that_pool_early_are_equivariant_up_to_there_and_see_orientation_after(row: str) -> None:
    """Their last block is planar, as published: it may tell an upright image from a turned one."""
    discriminator = build("D4", row).eval()
    pool = next(i for i, stage in enumerate(discriminator.trunk) if isinstance(stage, gconv.nn.GroupPool))
    group, x = discriminator.group, images()
    maps = discriminator.trunk[: pool + 1](x)
    for element in group.elements:
        moved = discriminator.trunk[: pool + 1](group.act(x, element))
        torch.testing.assert_close(moved, group.act(maps, element), atol=1e-10, rtol=0)
    assert invariance_error(discriminator) > 1e-5


@pytest.mark.parametrize(
    ("row", "training"),
    [
        (name, training)
        for name, row in ROWS.items()
        for training in (True, False)
        if not (training and row.input_noise)
    ],
)
def test_the_projection_of_every_planar_row_is_invariant(row: str, training: bool) -> None:
    """Noise and dropout are drawn for every moved image anew, so rows with them are invariant in law in training."""
    discriminator = build("D4", row, projected=True)
    planar = build("C1", row)
    assert discriminator.widths == planar.widths
    assert parameter_count(discriminator) == parameter_count(planar)
    assert invariance_error(discriminator, training=training) < 1e-10


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_strided_stages_whose_windows_end_where_they_began_are_invariant(group: str) -> None:
    row = replace(ROWS["mnist-conv"], readout="sum")
    assert invariance_error(build(group, row, width=1 / 64)) < 1e-10


class FirstOrientation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0]


class DroppingDownsample(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, (1, 2, 2))


def test_the_check_of_invariance_finds_planted_flaws() -> None:
    for row in ("rotmnist", "medical-64"):
        pooled_first = build("C4", row)
        pool = next(i for i, stage in enumerate(pooled_first.trunk) if isinstance(stage, gconv.nn.GroupPool))
        pooled_first.trunk[pool] = FirstOrientation()
        assert invariance_error(pooled_first) > 1e-5
    for row, stage in (("rotmnist", 2), ("medical-64", 2)):
        dropping = build("C4", row)
        dropping.trunk[stage].downsample = DroppingDownsample()
        assert invariance_error(dropping) > 1e-5
    assert invariance_error_of_planar() > 1e-5


def invariance_error_of_planar() -> float:
    planar = build("C1")
    planar.group = gconv.CyclicGroup(4)
    return invariance_error(planar)


@pytest.mark.parametrize("row", ["rotmnist", "medical-64"])
def test_the_published_windows_are_invariant_on_even_sizes_alone(row: str) -> None:
    """28 halves to 7 and 48 to 3, whose last row and column 2 x 2 windows drop; 16 and 64 halve to 2."""
    odd, even = {"rotmnist": (28, 16), "medical-64": (48, 64)}[row]
    assert invariance_error(build("C4", row, resolution=odd, faithful=True), odd) > 1e-5
    assert invariance_error(build("C4", row, resolution=even, faithful=True), even) < 1e-10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("mnist-conv", "group must be C1 to flatten"),
        ("mnist-deligan", "whose filter of size 5 and stride 2 does not"),
    ],
)
def test_rows_that_are_not_exact_for_a_group_are_refused(row: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("C4", row)


@pytest.mark.parametrize("row", ["digits", "medical-64", "mnist-conv"])
def test_unconditional_discriminators_take_no_labels(row: str) -> None:
    discriminator = build("C1", row, conditional=False).eval()
    assert torch.equal(discriminator(images()), discriminator(images(), LABELS))
    with pytest.raises(ValueError, match="labels must be"):
        build("C1", row, conditional=True).eval()(images())


@pytest.mark.parametrize("row", ON_GROUPS)
def test_every_row_takes_a_san_head(row: str) -> None:
    discriminator = build("C4", row, head="san").eval()
    scores = discriminator(images(), LABELS)
    parts = discriminator(images(), LABELS, split=True)
    assert isinstance(parts, SanScores)
    torch.testing.assert_close(parts.fun, scores)
    torch.testing.assert_close(parts.dir, scores)


def test_heads_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="head must be 'score' or 'san', got 'linear'"):
        build(head="linear")
    with pytest.raises(ValueError, match="initial_bias must be None for a SAN head, got 1"):
        build(head="san", initial_bias=1.0)
    with pytest.raises(ValueError, match="split must be False for a ScoreHead"):
        build()(images(), LABELS, split=True)


def test_the_initial_bias_is_the_scores_start() -> None:
    high, low = (build(initial_bias=bias).eval()(images(), LABELS) for bias in (5.0, 0.0))
    torch.testing.assert_close(high, low + 5)


def test_scores_see_the_batch_only_through_minibatch_discrimination() -> None:
    for row, sees in (("mnist-deligan", True), ("sketches-deligan", True), ("mnist-conv", False)):
        discriminator = build("C1", row).eval()
        x = images()
        alone = discriminator(x[:1])
        assert torch.allclose(discriminator(x)[:1], alone) != sees


def test_noise_on_images_and_dropout_are_there_in_training_alone() -> None:
    discriminator = build("C1", "sketches-deligan")
    dropouts = [module for module in discriminator.modules() if isinstance(module, nn.Dropout)]
    assert [dropout.p for dropout in dropouts] == [0, 0.5, 0.5, 0, 0]
    x = images()
    discriminator.eval()
    assert torch.equal(discriminator(x), discriminator(x))
    dropouts[1].train()
    assert not torch.equal(discriminator(x), discriminator(x))
    discriminator.train()
    for dropout in dropouts:
        dropout.eval()
    seen: list[Tensor] = []
    discriminator.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    discriminator(x)
    assert float((seen[0] - x).std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("faithful", [True, False])
def test_the_published_spectral_norm_is_everywhere_or_nowhere(faithful: bool) -> None:
    discriminator = build("C4", "rotmnist", faithful=faithful)
    normalised = [module for module in discriminator.modules() if is_parametrized(module, "weight")]
    assert len(normalised) == 4
    for module in normalised:
        (norm,) = module.parametrizations.weight
        assert (type(norm).__module__ == "sgan.faithful") == faithful


def test_the_label_decides_the_score() -> None:
    discriminator = build("C4").eval()
    assert not torch.allclose(discriminator(images(), LABELS), discriminator(images(), LABELS.flip(0)))


@pytest.mark.parametrize("row", ROWS)
def test_convolutions_are_normalised_where_the_row_says_so(row: str) -> None:
    discriminator = build("C1", row)
    convolutions = [
        module
        for module in discriminator.modules()
        if isinstance(module, gconv.nn.LiftingConv2d | gconv.nn.GroupConv2d)
    ]
    stages = ROWS[row].strided
    expected = [stage.norm in ("spectral", "weight") for stage in stages] if stages else [True] * len(convolutions)
    assert [is_parametrized(convolution, "weight") for convolution in convolutions] == expected
    assert is_parametrized(discriminator.head.score, "weight") == ROWS[row].normalise_head


@pytest.mark.parametrize(
    ("group", "row"), [("C1", "digits"), ("D4", "digits"), ("C8", "rotmnist"), *(("C4", row) for row in ON_GROUPS)]
)
def test_gradients_of_the_gradient_reach_every_weight(group: str, row: str) -> None:
    discriminator = build(group, row)
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x, LABELS).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    for stage in discriminator.trunk:
        weights = [p.grad for p in stage.parameters() if p.dim() > 1]
        assert all(grad is not None and grad.abs().max() > 0 for grad in weights)
