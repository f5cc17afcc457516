"""The generators that are fed a latent: one family on groups, parametrised by a row of `sgan.architectures`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

import gconv.nn as gnn
from gconv import PlanarConversion, PlanarGroup
from sgan.architectures import GeneratorRow
from sgan.blocks import (
    ACTIVATIONS,
    Layers,
    ResidualSynthesisBlock,
    SynthesisBlock,
    TransposedBlock,
    halvings,
    taps,
    transposed_convolution,
)
from sgan.latents import LatentLaw, LatentMixture, Latents, act_per_sample
from sgan.sizes import stage_resolutions, transposed_side
from sgan.widths import fitted, group_widths, matched_widths, scaled

__all__ = ["Generator", "LatentGenerator"]


class LatentGenerator(nn.Module):
    """What every generator has that is fed a latent.

    Attributes:
        group: whose elements move what synthesis starts from.
        num_classes: classes of the data, whether it sees labels or not.
        law: what z and the component are drawn from.
        mixture: DeLiGAN's learned mixture, None where the latent is z itself.
        widths: channels or hidden units of the stages.
        symmetrise_latent: whether each sample's group element is applied.
    """

    group: PlanarGroup
    num_classes: int
    law: LatentLaw
    mixture: LatentMixture | None
    widths: tuple[int, ...]
    symmetrise_latent: bool

    def sizes(self) -> dict[str, Any]:
        """What follows from the options and belongs beside them: widths and the like."""
        return {"widths": self.widths}

    @property
    def latent_dim(self) -> int:
        return self.law.dim

    def sample_latents(self, labels: Tensor, rng: torch.Generator, *, training: bool = False) -> Latents:
        """Draw latents for (N) labels on the CPU from a CPU stream, on the CPU.

        The component rule is for training alone: otherwise every component is as likely, whatever the batch.
        """
        law = self.law if training else replace(self.law, component_rule="uniform")
        return law.sample(labels, group=self.group, rng=rng)

    def generate(self, labels: Tensor, rng: torch.Generator, *, training: bool = False) -> Tensor:
        """Draw latents for (N) labels from a CPU stream and make samples from them, on the network's device."""
        latents = self.sample_latents(labels.cpu(), rng, training=training)
        return self(latents.to(next(self.parameters()).device))

    def latent(self, latents: Latents) -> Tensor:
        """z itself, or mu + sigma z of each sample's component: (N, latent_dim)."""
        return latents.z if self.mixture is None else self.mixture(latents.z, latents.components)

    def latent_penalty(self) -> Tensor:
        """What `LatentMixture.penalty` is, 0 without a mixture."""
        return next(self.parameters()).new_zeros(()) if self.mixture is None else self.mixture.penalty()


class Generator(LatentGenerator):
    """G(z, y) = synthesis(T_g latent_map(z, y)), g uniform: a generator whose law is invariant.

    one-hot y -> Linear, ++ z -> Linear -> planar latent map -> T_g -> stages -> group convolution to the image's
    channels -> max over the group -> tanh. The stages of "digits" are: lifting convolution, ReLU, then
    [nearest upsampling, group convolution, conditional batch norm, ReLU] per doubling.

    `synthesis` is equivariant, synthesis(T_g m) = T_g synthesis(m), in training and in evaluation. That alone does not
    make the law invariant: the law of the projected map is not. Applying a uniformly random element to the map does
    (arXiv 2202.01129; theorem T2 of docs/theory.md). `symmetrise_latent=False` leaves that out and is the published
    flawed "(I)Eqv G": the same network and parameters, the wrong law. Off the pixel grid both hold exactly for the
    lattice subgroup, and as far as sampled filters and pixels allow for the other elements.

    Args:
        group: CyclicGroup(1) is the planar baseline.
        resolution: side length of the images; with residual stages the map's side times a power of two, no more
            doublings than stages; with transposed convolutions the one that they end at.
        channels: channels of the images.
        num_classes: classes of the data.
        architecture: a row of `sgan.architectures.GENERATORS`.
        width: multiplies every width, the latent map's channels included.
        latent_dim, label_dim: entries of z and of the label embedding, None for the published ones.
        conditional: whether labels are seen, None as published. Without them conditional norms see z alone.
        noise, components, component_rule: of `LatentLaw`; more than one component makes a DeLiGAN mixture.
        sigma: of the mixture at the start.
        symmetrise_latent: apply each sample's group element to its latent map.
        norm_momentum: torch's batch norm momentum, None for the published one.
        faithful: keep the published defects of `sgan.faithful`; synthesis is then not equivariant in training.
        backend: gconv backend of every convolution, None to let gconv choose.

    Raises:
        ValueError: a resolution that the stages do not reach, or a group that they are not exact for.
    """

    def __init__(
        self,
        *,
        group: PlanarGroup,
        resolution: int,
        channels: int,
        num_classes: int,
        architecture: GeneratorRow,
        width: float = 1.0,
        latent_dim: int | None = None,
        label_dim: int | None = None,
        conditional: bool | None = None,
        noise: str = "gaussian",
        components: int = 1,
        component_rule: str = "uniform",
        sigma: float = 0.2,
        symmetrise_latent: bool = True,
        norm_momentum: float | None = None,
        faithful: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        row = architecture
        self.group = group
        self.num_classes = num_classes
        self.architecture = row
        self.symmetrise_latent = symmetrise_latent
        self.law = LatentLaw(row.latent_dim if latent_dim is None else latent_dim, noise, components, component_rule)
        sees_labels = row.conditional if conditional is None else conditional
        label_dim = (row.label_dim if label_dim is None else label_dim) if sees_labels else 0
        self.condition_dim = self.latent_dim + label_dim
        self.map_channels = max(1, round(row.map_channels * width))
        self.map_side = _map_side(row, resolution, group)
        self.widths = self._widths(resolution, channels, width)

        momentum = row.norm_momentum if norm_momentum is None else norm_momentum
        layers = Layers(group, momentum, faithful, backend)
        self.mixture = LatentMixture(components, self.latent_dim, sigma) if components > 1 else None
        self.embed = nn.Linear(num_classes, label_dim, bias=False) if sees_labels else None
        project = nn.Linear(self.condition_dim, self.map_channels * self.map_side**2)
        self.project = layers.spectral_norm(project) if row.map_norm == "spectral" else project
        self.map_norm = nn.BatchNorm1d(project.out_features, momentum=momentum) if row.map_norm == "batch" else None
        self.lift: nn.Module | None = None
        if row.stage == "plain":
            self.lift = layers.convolution(self.map_channels, self.widths[0], lift=True, normalise=row.normalise)
        self.blocks = nn.ModuleList(self._stages(layers, resolution))
        self.norm = layers.batch_norm(self.widths[-1]) if row.stage == "residual" else None
        if row.stage == "transposed":
            self.to_image = transposed_convolution(self.widths[-1], channels, row.transposed[-1], layers)
        else:
            self.to_image = layers.convolution(self.widths[-1], channels, normalise=row.normalise)
        self.pool = gnn.GroupPool(group=group, mode="max")

    def forward(self, latents: Latents) -> Tensor:
        """Generate images.

        Args:
            latents: z (N, latent_dim), labels (N), elements (N), components (N).

        Returns:
            (N, channels, resolution, resolution), pixels in [-1, 1].
        """
        latent_map, condition = self.latent_map(self.latent(latents), latents.labels)
        if self.symmetrise_latent:
            latent_map = act_per_sample(latent_map, latents.elements, self.group)
        return self.synthesis(latent_map, condition)

    def sizes(self) -> dict[str, Any]:
        """Channels of the latent map and of the stages."""
        return {"map_channels": self.map_channels, **super().sizes()}

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """This generator of planar children; its latent map is an image."""
        conversion.order = None
        return conversion.children(self)

    def latent_map(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Project latent and label: the (N, map_channels, S, S) latent map and the (N, condition_dim) condition."""
        condition = z
        if self.embed is not None:
            condition = torch.cat([self.embed(one_hot(labels, self.num_classes).to(z.dtype)), z], dim=1)
        latent_map = self.project(condition)
        if self.map_norm is not None:
            latent_map = self.map_norm(latent_map)
        if self.architecture.map_activation is not None:
            latent_map = ACTIVATIONS[self.architecture.map_activation](latent_map)
        return latent_map.view(-1, self.map_channels, self.map_side, self.map_side), condition

    def synthesis(self, latent_map: Tensor, condition: Tensor) -> Tensor:
        """Map latent maps to images, equivariantly: synthesis(T_g m, c) = T_g synthesis(m, c) for every g.

        Args:
            latent_map: (N, map_channels, S, S).
            condition: (N, condition_dim), invariant scalars for the conditional batch norms.

        Returns:
            (N, channels, resolution, resolution), pixels in [-1, 1].
        """
        x = latent_map if self.lift is None else relu(self.lift(latent_map))
        for block in self.blocks:
            x = block(x, condition)
        if self.norm is not None:
            x = relu(self.norm(x))
        image = self.pool(self.to_image(x))
        return torch.tanh(image) if self.architecture.output == "tanh" else 2 * torch.sigmoid(image) - 1

    def _stages(self, layers: Layers, resolution: int) -> Iterator[nn.Module]:
        row, dim = self.architecture, self.condition_dim
        if row.stage == "plain":
            for c_in, c_out in pairwise(self.widths):
                yield SynthesisBlock(c_in, c_out, dim, layers, normalise=row.normalise)
            return
        doublings = 0 if row.stage == "transposed" else halvings(resolution, self.map_side)
        for stage, (c_in, c_out) in enumerate(pairwise((self.map_channels, *self.widths))):
            lift = stage == 0
            if row.stage == "transposed":
                shape = row.transposed[stage]
                yield TransposedBlock(c_in, c_out, shape, layers, lift=lift, activation=row.activation)
            else:
                yield ResidualSynthesisBlock(c_in, c_out, dim, layers, lift=lift, upsample=stage < doublings)

    def _widths(self, resolution: int, channels: int, width: float) -> tuple[int, ...]:
        row = self.architecture
        if row.stage != "plain":
            return scaled(group_widths(row.widths, row.widths_on, self.group), width)
        stages = len(stage_resolutions(resolution))
        planar = fitted(row.widths, stages)
        if row.match_parameters:
            return self._matched_widths(scaled(planar, width), channels)
        listed = {name: fitted(widths, stages) for name, widths in row.widths_on.items()}
        return scaled(group_widths(planar, listed, self.group), width)

    def _matched_widths(self, planar: tuple[int, ...], channels: int) -> tuple[int, ...]:
        fixed = self.num_classes * (self.condition_dim - self.latent_dim)
        fixed += (self.condition_dim + 1) * self.map_channels * self.map_side**2 + channels

        def size(widths: tuple[int, ...], group: PlanarGroup) -> int:
            lift = widths[0] * (self.map_channels * taps(group) + 1)
            pairs = zip(widths, (*widths[1:], channels), strict=True)
            convolutions = sum(c_in * c_out * group.order * taps(group) for c_in, c_out in pairs)
            conditional_norms = sum(2 * (self.condition_dim + 1) * c_out for c_out in widths[1:])
            return fixed + lift + convolutions + conditional_norms

        return matched_widths(planar, self.group, size)


def _map_side(row: GeneratorRow, resolution: int, group: PlanarGroup) -> int:
    if row.map_side is None:
        return stage_resolutions(resolution)[0]
    if row.stage == "transposed":
        side = transposed_side(row)
        is_uneven = any(filter.output_padding for filter in row.transposed)
        if is_uneven and (group.moves_axis(0) or group.moves_axis(1)):
            raise ValueError(
                f"Generator: group must be C1 for {row.source}, whose transposed convolutions add a row and a "
                f"column at one end, got {group.name}"
            )
        if side != resolution:
            raise ValueError(f"Generator: resolution must be {side} for {row.source}, got {resolution}")
    elif halvings(resolution, row.map_side) > len(row.widths):
        most = row.map_side * 2 ** len(row.widths)
        raise ValueError(f"Generator: resolution must be at most {most} for {row.source}, got {resolution}")
    return row.map_side
