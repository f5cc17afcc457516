"""The discriminators of images: one family on groups, parametrised by a row of `sgan.architectures`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

import gconv.nn as gnn
from gconv import CyclicGroup, PlanarConversion, PlanarGroup
from sgan.architectures import DiscriminatorRow
from sgan.blocks import AnalysisBlock, Layers, MinibatchDiscrimination, ResidualAnalysisBlock, StridedBlock, taps
from sgan.heads import SanHead, SanScores, ScoreHead
from sgan.projection import InvariantProjection, image_maps
from sgan.sizes import stage_resolutions
from sgan.widths import fitted, group_widths, matched_widths, scaled

__all__ = ["Discriminator", "FeatureDiscriminator", "make_head"]

READOUTS: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}


class Readout(nn.Module):
    """(N, C, H, W) to (N, C) by "mean", "sum" or "max" over the plane, or to (N, C H W) by "flatten"."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.mode == "flatten" else READOUTS[self.mode](x, dim=(2, 3))


class FeatureDiscriminator(nn.Module):
    """D(x, y) = head(h(x), y), what every discriminator of images or points is.

    Attributes:
        group: whose elements leave D as it is.
        head: a head of `sgan.heads`.
        widths: channels or hidden units of the stages.
    """

    group: PlanarGroup
    head: ScoreHead | SanHead
    widths: tuple[int, ...]

    def features(self, x: Tensor) -> Tensor:
        """The invariant features h(x): (N, width)."""
        raise NotImplementedError

    def forward(self, x: Tensor, labels: Tensor | None = None, *, split: bool = False) -> Tensor | SanScores:
        """Score images or points, higher is more real.

        Args:
            x: (N, C, H, W) images, pixels in [-1, 1], or (N, 2) points.
            labels: (N) int64 classes; not looked at if unconditional.
            split: of SanHead, in the discriminator's own step.

        Returns:
            (N) scores, unbounded; SanScores if split.

        Raises:
            ValueError: split without a SanHead, or no labels for a conditional head.
        """
        if not split:
            return self.head(self.features(x), labels)
        if not isinstance(self.head, SanHead):
            raise ValueError(f"Discriminator: split must be False for a {type(self.head).__name__}, got True")
        return self.head(self.features(x), labels, split=True)


def make_head(
    kind: str, width: int, num_classes: int | None, *, normalise: bool, initial_bias: float | None
) -> ScoreHead | SanHead:
    """The head called "score" or "san".

    Raises:
        ValueError: another kind, or an initial bias for a head that has none.
    """
    if kind == "score":
        return ScoreHead(width, num_classes, spectral_norm=normalise, initial_bias=initial_bias)
    if kind != "san":
        raise ValueError(f"Discriminator: head must be 'score' or 'san', got {kind!r}")
    if initial_bias is not None:
        raise ValueError(f"Discriminator: initial_bias must be None for a SAN head, got {initial_bias}")
    return SanHead(width, num_classes)


class Discriminator(FeatureDiscriminator):
    """D(x, y) = head(h(x), y), h invariant: D(T_g x, y) = D(x, y) for every element, exactly on the pixel grid.

    All rows but those with planar stages after the maximum over the group are invariant; see `DiscriminatorRow`.

    The stages of "digits": [spectrally normalised 3 x 3 convolution with padding "same", LeakyReLU 0.2, exact
    downsampling by 2] per stage, max over the group, mean over the plane -> h. One block more than the generator has
    upsamplings, as published: 28 -> 14 -> 7 -> 4, where 7 -> 4 is a 3 x 3 average of stride 2 (a 2 x 2 average drops a
    row and a column, and with them invariance).

    Normalised operators bound every layer but the projection head's embedding, whose initial N(0, 1) entries therefore
    set the scale of the scores: with entries within 0.05, the Frechet distance of digits-c4 at 38 kimg was 5.0 instead
    of 2.5. Scores are functions of the other images of the batch where the row has batch norms or minibatch
    discrimination, which the penalties on gradients do not allow for.

    Args:
        group: CyclicGroup(1) is the planar baseline.
        resolution: side length of the images.
        channels: channels of the images.
        num_classes: classes of the data.
        architecture: a row of `sgan.architectures.DISCRIMINATORS`.
        width: multiplies every width.
        projected: planar filters and widths, and h averaged over the moved images: S_Sigma of the planar network
            (`sgan.projection`), the baseline without group convolutions; for lattice groups.
        head: "score" (projection, or unconditional) or "san".
        initial_bias: of the score head, None for torch's random one.
        conditional: whether labels are seen, None as published.
        faithful: keep the published defects of `sgan.faithful`; D is then not invariant where a size is odd.
        backend: gconv backend of every convolution, None to let gconv choose.

    Raises:
        ValueError: another head, or a row whose strides or readout are not exact for the group.
    """

    def __init__(
        self,
        *,
        group: PlanarGroup,
        resolution: int,
        channels: int,
        num_classes: int,
        architecture: DiscriminatorRow,
        width: float = 1.0,
        projected: bool = False,
        head: str = "score",
        initial_bias: float | None = None,
        conditional: bool | None = None,
        faithful: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        row = architecture
        self.group = group
        self.architecture = row
        self.projected = projected
        self.filters = CyclicGroup(1) if projected else group
        seen = num_classes if (row.conditional if conditional is None else conditional) else None
        self.widths = self._widths(resolution, channels, seen or 0, width)

        layers = Layers(self.filters, row.norm_momentum, faithful, backend)
        side = _strided_side(row, resolution, self.filters)
        trunk = nn.Sequential(*self._stages(channels, layers), Readout(row.readout))
        if row.stage != "strided":
            for module in list(trunk.modules()):
                if isinstance(module, gnn.LiftingConv2d | gnn.GroupConv2d):
                    layers.spectral_norm(module)
        self.trunk = InvariantProjection(trunk, image_maps(group)) if projected else trunk
        features = self.widths[-1] * (side**2 if row.readout == "flatten" else 1)
        self.minibatch = None if row.minibatch is None else MinibatchDiscrimination(features, *row.minibatch)
        features += 0 if row.minibatch is None else row.minibatch[0]
        normalise = row.normalise_head and not faithful
        self.head = make_head(head, features, seen, normalise=normalise, initial_bias=initial_bias)
        if faithful and row.normalise_head and isinstance(self.head, ScoreHead):
            layers.spectral_norm(self.head.score)

    def features(self, x: Tensor) -> Tensor:
        """The invariant features h(x): (N, width)."""
        if self.training and self.architecture.input_noise > 0:
            x = x + self.architecture.input_noise * torch.randn_like(x)
        features = self.trunk(x)
        return features if self.minibatch is None else self.minibatch(features)

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """This discriminator of planar children; it takes images."""
        conversion.order = None
        return conversion.children(self)

    def _stages(self, channels: int, layers: Layers) -> Iterator[nn.Module]:
        """The stages, the maximum over the group between those on the group and planar ones, and at the end."""
        row = self.architecture
        pooled_from = len(self.widths) - row.planar_stages
        for stage, (c_in, c_out) in enumerate(pairwise((channels, *self.widths))):
            if stage == pooled_from:
                yield gnn.GroupPool(group=layers.group)
                layers = replace(layers, group=CyclicGroup(1))
            lift = stage in (0, pooled_from)
            down = row.downsampling if row.downsamplings is None or stage < row.downsamplings else None
            if row.stage == "plain":
                yield AnalysisBlock(c_in, c_out, layers, lift=lift, downsample=down)
            elif row.stage == "residual":
                yield ResidualAnalysisBlock(c_in, c_out, layers, lift=lift, downsample=down, batch_norm=row.batch_norm)
            else:
                yield StridedBlock(c_in, c_out, row.strided[stage], layers, lift=lift)
        if row.stage == "residual":
            yield nn.ReLU()
        yield gnn.GroupPool(group=layers.group)

    def _widths(self, resolution: int, channels: int, classes: int, width: float) -> tuple[int, ...]:
        row = self.architecture
        if row.stage != "plain":
            on_group = len(row.widths) - row.planar_stages
            widths = group_widths(row.widths[:on_group], row.widths_on, self.filters)
            return scaled((*widths, *row.widths[on_group:]), width)
        stages = len(stage_resolutions(resolution))
        planar = fitted(row.widths[::-1], stages)[::-1]
        if row.match_parameters:
            return self._matched_widths(scaled(planar, width), channels, classes)
        listed = {name: fitted(widths[::-1], stages)[::-1] for name, widths in row.widths_on.items()}
        return scaled(group_widths(planar, listed, self.filters), width)

    def _matched_widths(self, planar: tuple[int, ...], channels: int, classes: int) -> tuple[int, ...]:
        def size(widths: tuple[int, ...], group: PlanarGroup) -> int:
            lift = channels * widths[0] * taps(group)
            convolutions = sum(c_in * c_out * group.order * taps(group) for c_in, c_out in pairwise(widths))
            return lift + convolutions + sum(widths) + (classes + 1) * widths[-1] + 1

        return matched_widths(planar, self.filters, size)


def _strided_side(row: DiscriminatorRow, resolution: int, group: PlanarGroup) -> int:
    """The side of the last map of strided stages, checked to be exact for the group; the resolution of other rows."""
    moves = group.moves_axis(0) or group.moves_axis(1)
    if row.readout == "flatten" and moves:
        raise ValueError(f"Discriminator: group must be C1 to flatten the last map of {row.source}, got {group.name}")
    side = resolution
    for size, stride, padding, *_ in row.strided:
        if (side + 2 * padding - size) % stride and moves:
            raise ValueError(
                f"Discriminator: group must be C1 for {row.source} at {resolution} pixels, whose filter of size {size} "
                f"and stride {stride} does not end where it began on {side} pixels, got {group.name}"
            )
        side = (side + 2 * padding - size) // stride + 1
    if side < 1:
        raise ValueError(f"Discriminator: resolution must be larger for {row.source}, got {resolution}")
    return side
