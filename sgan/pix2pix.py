"""Image translation with group convolutions: pix2pix's U-Net and patch discriminator on any group.

Isola et al., CVPR 2017 (arXiv 1611.07004, appendix 6.1), with the convolutions of GE-GAN (arXiv 2005.01683). On C1 they
are the published networks. Filters of 4 x 4 with stride 2 and padding 1 end where they began on even sizes, so every
layer is exactly equivariant; so is the law of dropout, which drops numbers independently.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import gconv.nn as gnn
from gconv import PlanarGroup
from sgan.architectures import PatchDiscriminatorRow, TransposedFilter, UNetRow
from sgan.blocks import ACTIVATIONS, Layers, MapModule, halvings, transposed_convolution
from sgan.sizes import patch_filters
from sgan.widths import published_widths, scaled

__all__ = ["PatchDiscriminator", "UNetGenerator"]

SIZE, PADDING = 4, 1  # of the U-Net
NORM_MOMENTUM = 0.1
SMALLEST = 1  # side of the innermost map


class UNetGenerator(MapModule):
    """G(x): an image to an image, G(T_g x) = T_g G(x) for every element of a lattice group, in evaluation.

    LeakyReLU 0.2, convolution, batch norm per halving; ReLU, transposed convolution, batch norm per doubling, on what
    comes from inside beside the encoder's map of that size; max over the group, tanh. Noise enters as dropout alone, so
    in training the images' law is equivariant, not each image.

    Args:
        architecture: `sgan.architectures.PIX2PIX_GENERATOR`.
        group: CyclicGroup(1) is the published network.
        resolution: side length of the images, a power of two; below 2^8 the innermost stages are left out.
        source_channels, channels: channels of the images it takes and makes.
        width: multiplies every width.
        backend: gconv backend of every convolution, None to let gconv choose.

    Raises:
        ValueError: resolution is no power of two from 4 to 2 to the number of widths.
    """

    def __init__(
        self,
        *,
        architecture: UNetRow,
        group: PlanarGroup,
        resolution: int,
        source_channels: int,
        channels: int,
        width: float = 1.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        depth = halvings(resolution, SMALLEST)
        if not 2 <= depth <= len(architecture.widths):
            most = 2 ** len(architecture.widths)
            raise ValueError(f"UNetGenerator: resolution must be a power of two from 4 to {most}, got {resolution}")
        self.group = group
        self.widths = scaled(published_widths(architecture.widths[:depth], group.order), width)
        layers = Layers(group, NORM_MOMENTUM, backend=backend)
        pairs = list(enumerate(pairwise((source_channels, *self.widths))))
        self.encoder = nn.ModuleList(
            _halving(c_in, c_out, layers, lift=level == 0, norm=0 < level < depth - 1) for level, (c_in, c_out) in pairs
        )
        dropped = range(max(1, depth - 1 - architecture.dropped), depth - 1)
        self.decoder = nn.ModuleList(
            _doubling(
                c_in if level == depth - 1 else 2 * c_in,  # beside the encoder's map, where one is further inside
                c_out if level else channels,
                layers,
                norm=level > 0,
                dropout=architecture.dropout if level in dropped else 0.0,
            )
            for level, (c_out, c_in) in pairs
        )
        self.pool = gnn.GroupPool(group=group)

    def sizes(self) -> dict[str, Any]:
        """What follows from the options and belongs beside them."""
        return {"widths": self.widths}

    def generate(self, source: Tensor, rng: torch.Generator, *, training: bool = False) -> Tensor:
        """Translate (N, source_channels, H, W) images, on the network's device. Nothing is drawn from the stream."""
        return self(source.to(next(self.parameters()).device))

    def latent_penalty(self) -> Tensor:
        """0: there is no latent."""
        return next(self.parameters()).new_zeros(())

    def forward(self, source: Tensor) -> Tensor:
        """(N, source_channels, H, W) to (N, channels, H, W), pixels in [-1, 1] both."""
        maps: list[Tensor] = []
        x = source
        for level, stage in enumerate(self.encoder):
            x = stage(ACTIVATIONS["leaky_relu"](x) if level else x)
            maps.append(x)
        for level, stage in reversed(list(enumerate(self.decoder))):
            if level < len(maps) - 1:
                x = torch.cat([maps[level], x], dim=1)
            x = stage(ACTIVATIONS["relu"](x))
        return torch.tanh(self.pool(x))


def _halving(c_in: int, c_out: int, layers: Layers, *, lift: bool, norm: bool) -> nn.Module:
    convolution = layers.convolution(c_in, c_out, SIZE, lift=lift, stride=2, padding=PADDING, bias=False)
    return nn.Sequential(convolution, layers.batch_norm(c_out) if norm else nn.Identity())


def _doubling(c_in: int, c_out: int, layers: Layers, *, norm: bool, dropout: float) -> nn.Module:
    convolution = transposed_convolution(c_in, c_out, TransposedFilter(SIZE, PADDING), layers, bias=not norm)
    return nn.Sequential(convolution, layers.batch_norm(c_out) if norm else nn.Identity(), nn.Dropout(dropout))


class PatchDiscriminator(MapModule):
    """D(x | source): a score per patch, moved as the images are, D(T_g x | T_g source) = T_g D(x | source), exactly.

    4 x 4 convolutions, LeakyReLU 0.2 and, but for the first, batch norm; a last one to a single channel, whose maximum
    over the group is the map of scores. Each looks at 70 x 70 pixels with the published four stages. Means over scores,
    what losses take, are invariant. There is no last linear layer after the maximum, so SAN does not apply.

    Args:
        architecture: `sgan.architectures.PIX2PIX_DISCRIMINATOR`.
        group: CyclicGroup(1) is the published network.
        source_channels, channels: channels of the two images.
        width: multiplies every width.
        backend: gconv backend, None to let gconv choose.
    """

    def __init__(
        self,
        *,
        architecture: PatchDiscriminatorRow,
        group: PlanarGroup,
        source_channels: int,
        channels: int,
        width: float = 1.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.group = group
        self.widths = scaled(published_widths(architecture.widths, group.order), width)
        layers = Layers(group, NORM_MOMENTUM, backend=backend)
        stages: list[nn.Module] = []
        *filters, (last_size, _, last_padding) = patch_filters(architecture)
        channels_of = pairwise((source_channels + channels, *self.widths))
        for (c_in, c_out), (size, stride, padding) in zip(channels_of, filters, strict=True):
            first = not stages
            stages.append(layers.convolution(c_in, c_out, size, lift=first, stride=stride, padding=padding, bias=first))
            stages += [] if first else [layers.batch_norm(c_out)]
            stages.append(nn.LeakyReLU(0.2))
        stages += [layers.convolution(self.widths[-1], 1, last_size, padding=last_padding), gnn.GroupPool(group=group)]
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(N, channels, H, W) and (N, source_channels, H, W) to scores (N, H', W'), 30 x 30 for 256 x 256."""
        return self.stages(torch.cat([source, x], dim=1)).squeeze(1)
