"""The stages that generators and discriminators on groups are made of, and the layers that stages are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu, silu
from torch.nn.utils.parametrizations import weight_norm

import gconv.nn as gnn
from gconv import PlanarConversion, PlanarGroup, sp_gan_basis
from sgan.architectures import StridedFilter, TransposedFilter
from sgan.faithful import BatchNormPerOrientation, TruncatingDownsample, project_spectrum

__all__ = [
    "ACTIVATIONS",
    "AnalysisBlock",
    "Layers",
    "MapModule",
    "MinibatchDiscrimination",
    "ResidualAnalysisBlock",
    "ResidualSynthesisBlock",
    "StridedBlock",
    "SynthesisBlock",
    "TransposedBlock",
    "halvings",
    "taps",
    "transposed_convolution",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "leaky_relu": partial(leaky_relu, negative_slope=0.2),
    "slightly_leaky_relu": leaky_relu,  # slope 0.01
    "silu": silu,
    "tanh": torch.tanh,
}
OFF_LATTICE_FILTER_SIZE = 5  # SP-GAN's steerable filters, in place of 3 x 3


def taps(group: PlanarGroup) -> int:
    """Parameters of one 3 x 3 filter: its pixels, or off the pixel grid SP-GAN's functions in its place."""
    return 9 if group.is_lattice else sum(1 + 2 * ring.max_frequency for ring in sp_gan_basis())


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one network, all on one group and all correct or all as published.

    Attributes:
        group: of every layer.
        momentum: torch's, of every batch norm.
        faithful: put the published defects of `sgan.faithful` in.
        backend: gconv backend of every convolution, None to let gconv choose.
    """

    group: PlanarGroup
    momentum: float = 0.9
    faithful: bool = False
    backend: str | None = None

    def convolution(
        self,
        c_in: int,
        c_out: int,
        size: int = 3,
        *,
        lift: bool = False,
        stride: int = 1,
        padding: int | Literal["same"] = "same",
        bias: bool = True,
        normalise: bool = False,
    ) -> nn.Module:
        """A group convolution, or with lift a lifting one; off the pixel grid 3 x 3 is SP-GAN's steerable 5 x 5."""
        steerable = size == 3 and not self.group.is_lattice
        layer = (gnn.LiftingConv2d if lift else gnn.GroupConv2d)(
            c_in,
            c_out,
            OFF_LATTICE_FILTER_SIZE if steerable else size,
            group=self.group,
            stride=stride,
            padding=padding,
            bias=bias,
            backend=self.backend,
            basis=sp_gan_basis() if steerable else None,
        )
        return self.spectral_norm(layer) if normalise else layer

    def spectral_norm(self, module: nn.Module) -> nn.Module:
        """The module with its weight over the norm of the operator that it applies."""
        return project_spectrum(module) if self.faithful else gnn.spectral_norm(module)

    def batch_norm(self, width: int) -> nn.Module:
        """Batch norm with a learned scale and shift per channel and statistics shared over the group."""
        return (BatchNormPerOrientation if self.faithful else gnn.GroupBatchNorm2d)(width, momentum=self.momentum)

    def conditional_norm(self, width: int, condition_dim: int) -> nn.Module:
        """Conditional batch norm, both of its maps of the condition normalised."""
        norm = gnn.GroupConditionalBatchNorm2d(width, condition_dim, momentum=self.momentum)
        self.spectral_norm(norm.gamma)
        self.spectral_norm(norm.beta)
        if self.faithful:
            norm.norm = BatchNormPerOrientation(width, momentum=self.momentum, affine=False)
        return norm

    def downsample(self, mode: str) -> nn.Module:
        """Halve height and width, rounding up, by "average" or "max"."""
        return TruncatingDownsample(mode) if self.faithful else gnn.GroupDownsample2d(mode)


class MapModule(nn.Module):
    """A module of which `gconv.to_planar` knows the planar form: its forward, on flattened maps."""

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """This module of planar children."""
        return conversion.children(self)


class SynthesisBlock(MapModule):
    """Nearest upsampling x2, group convolution, conditional batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, condition_dim: int, layers: Layers, *, normalise: bool) -> None:
        super().__init__()
        self.upsample = gnn.GroupUpsample2d("nearest")
        self.conv = layers.convolution(c_in, c_out, bias=False, normalise=normalise)
        self.norm = layers.conditional_norm(c_out, condition_dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, C_in, |G|, H, W) and (N, condition_dim) to (N, C_out, |G|, 2H, 2W)."""
        return relu(self.norm(self.conv(self.upsample(x)), condition))


class ResidualSynthesisBlock(MapModule):
    """Conditional batch norm, ReLU, upsampling, convolution, norm, ReLU, convolution; and a 1 x 1 shortcut.

    GE-GAN's and SP-GAN's block (arXiv 2005.01683, 2202.01129 and their code).

    Args:
        c_in, c_out: channels.
        condition_dim: entries of the condition.
        layers: makes the layers.
        lift: take a planar map, whose norm has one orientation.
        upsample: double height and width.
    """

    def __init__(
        self, c_in: int, c_out: int, condition_dim: int, layers: Layers, *, lift: bool, upsample: bool
    ) -> None:
        super().__init__()
        self.lift = lift
        self.upsample = gnn.GroupUpsample2d("nearest") if upsample else nn.Identity()
        self.shortcut = layers.convolution(c_in, c_out, 1, lift=lift, bias=False, normalise=True)
        self.norm1 = layers.conditional_norm(c_in, condition_dim)
        self.conv1 = layers.convolution(c_in, c_out, lift=lift, bias=False, normalise=True)
        self.norm2 = layers.conditional_norm(c_out, condition_dim)
        self.conv2 = layers.convolution(c_out, c_out, bias=False, normalise=True)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, C_in[, |G|], H, W) and (N, condition_dim) to (N, C_out, |G|, H', W')."""
        normed = self.norm1(x.unsqueeze(2), condition).squeeze(2) if self.lift else self.norm1(x, condition)
        out = relu(self.norm2(self.conv1(self.upsample(relu(normed))), condition))
        return self.shortcut(self.upsample(x)) + self.conv2(out)

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """This block of planar children, whose first norm takes a planar map as it is."""
        return _without_lift(self, conversion)


class TransposedBlock(MapModule):
    """Transposed convolution with stride 2, batch norm, activation; the condition is not used.

    Args:
        c_in, c_out: channels.
        shape: of the filter.
        layers: makes the layers.
        lift: take a planar map, as a map that is the same in every orientation.
        activation: of ACTIVATIONS.
    """

    def __init__(
        self, c_in: int, c_out: int, shape: TransposedFilter, layers: Layers, *, lift: bool, activation: str
    ) -> None:
        super().__init__()
        self.lift = lift
        self.order = layers.group.order
        self.conv = transposed_convolution(c_in, c_out, shape, layers)
        self.norm = layers.batch_norm(c_out)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, C_in[, |G|], H, W) to (N, C_out, |G|, H', W'), H' = 2 (H - 1) + K - 2 padding + output padding."""
        if self.lift:
            x = x.unsqueeze(2).expand(-1, -1, self.order, -1, -1)
        return self.activation(self.norm(self.conv(x)))

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """This block of planar children; of a map that is the same in every orientation the filters add up."""
        planar = conversion.children(self)
        if self.lift:
            planar.lift = False
            assert isinstance(planar.conv, nn.ConvTranspose2d)
            weight = planar.conv.weight.detach().unflatten(0, (-1, self.order)).sum(dim=1)
            planar.conv.in_channels = len(weight)
            planar.conv.weight = nn.Parameter(weight, requires_grad=planar.conv.weight.requires_grad)
        return planar


def _without_lift(block: ResidualSynthesisBlock | ResidualAnalysisBlock, conversion: PlanarConversion) -> nn.Module:
    planar = conversion.children(block, {"norm1": 1} if block.lift else None)
    planar.lift = False
    return planar


def transposed_convolution(
    c_in: int, c_out: int, shape: TransposedFilter, layers: Layers, *, bias: bool = True
) -> nn.Module:
    """A transposed group convolution of stride 2."""
    return gnn.GroupConvTranspose2d(
        c_in,
        c_out,
        shape.size,
        group=layers.group,
        stride=2,
        padding=shape.padding,
        output_padding=shape.output_padding,
        bias=bias,
        backend=layers.backend,
    )


class AnalysisBlock(MapModule):
    """Convolution, LeakyReLU 0.2, downsampling by 2."""

    def __init__(self, c_in: int, c_out: int, layers: Layers, *, lift: bool, downsample: str | None) -> None:
        super().__init__()
        self.conv = layers.convolution(c_in, c_out, lift=lift)
        self.downsample = nn.Identity() if downsample is None else layers.downsample(downsample)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in[, |G|], H, W) to (N, C_out, |G|, H', W'), H' = ceil(H / 2) with downsampling."""
        return self.downsample(ACTIVATIONS["leaky_relu"](self.conv(x)))


class ResidualAnalysisBlock(MapModule):
    """[batch norm,] ReLU, convolution, [norm,] ReLU, convolution, downsampling; and a 1 x 1 shortcut, downsampled.

    GE-GAN's and SP-GAN's block; the first one's ReLU acts on the image, as published.

    Args:
        c_in, c_out: channels.
        layers: makes the layers.
        lift: take a planar map.
        downsample: "average", "max" or None.
        batch_norm: normalise before each ReLU.
    """

    def __init__(
        self, c_in: int, c_out: int, layers: Layers, *, lift: bool, downsample: str | None, batch_norm: bool
    ) -> None:
        super().__init__()
        self.lift = lift
        self.shortcut = layers.convolution(c_in, c_out, 1, lift=lift)
        self.norm1 = layers.batch_norm(c_in) if batch_norm else nn.Identity()
        self.conv1 = layers.convolution(c_in, c_out, lift=lift, bias=not batch_norm)
        self.norm2 = layers.batch_norm(c_out) if batch_norm else nn.Identity()
        self.conv2 = layers.convolution(c_out, c_out)
        self.downsample = nn.Identity() if downsample is None else layers.downsample(downsample)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in[, |G|], H, W) to (N, C_out, |G|, H', W'), H' = ceil(H / 2) with downsampling."""
        normed = self.norm1(x.unsqueeze(2)).squeeze(2) if self.lift else self.norm1(x)
        out = self.conv2(relu(self.norm2(self.conv1(relu(normed)))))
        return self.downsample(self.shortcut(x)) + self.downsample(out)

    def to_planar(self, conversion: PlanarConversion) -> nn.Module:
        """This block of planar children, whose first norm takes a planar map as it is."""
        return _without_lift(self, conversion)


class StridedBlock(MapModule):
    """Convolution of any stride, normalised or not, LeakyReLU 0.2, dropout or none.

    Args:
        c_in, c_out: channels.
        shape: of the filter, with its norm and the dropout.
        layers: makes the layers.
        lift: take a planar map.
    """

    def __init__(self, c_in: int, c_out: int, shape: StridedFilter, layers: Layers, *, lift: bool) -> None:
        super().__init__()
        size, stride, padding, norm, dropout = shape
        self.conv = layers.convolution(
            c_in, c_out, size, lift=lift, stride=stride, padding=padding, normalise=norm == "spectral"
        )
        if norm == "weight":
            weight_norm(self.conv)
        self.norm = layers.batch_norm(c_out) if norm == "batch" else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in[, |G|], H, W) to (N, C_out, |G|, H', W')."""
        return self.dropout(ACTIVATIONS["leaky_relu"](self.norm(self.conv(x))))


class MinibatchDiscrimination(nn.Module):
    """h_i ++ o_i, o_ib = sum over j != i of exp(-|M_ib - M_jb|_1), M_i = T h_i: how near the batch's others are.

    Salimans et al. 2016 (arXiv 1606.03498, section 3.2), with T's columns of length exp(scale) as in DeLiGAN's scripts,
    which divide o by its sum over the batch besides; not here, where it would hide how many are near.

    Args:
        width: entries of h.
        kernels: entries b of o.
        dim: entries of each M_ib.
    """

    def __init__(self, width: int, kernels: int, dim: int) -> None:
        super().__init__()
        self.kernels = kernels
        self.direction = nn.Parameter(0.05 * torch.randn(width, kernels * dim))
        self.scale = nn.Parameter(torch.zeros(kernels * dim))

    def forward(self, features: Tensor) -> Tensor:
        """(N, width) to (N, width + kernels)."""
        projection = self.direction * (self.scale.exp() / self.direction.norm(dim=0))
        moved = (features @ projection).unflatten(1, (self.kernels, -1))
        distances = (moved[:, None] - moved[None]).abs().sum(dim=3)  # (N, N, kernels)
        others = 1 - torch.eye(len(features), dtype=features.dtype, device=features.device)
        return torch.cat([features, (torch.exp(-distances) * others[:, :, None]).sum(dim=1)], dim=1)


def halvings(resolution: int, side: int) -> int:
    """How often `side` must double to be `resolution`.

    Raises:
        ValueError: it never is.
    """
    count = int(math.log2(resolution / side)) if resolution >= side else -1
    if count < 0 or side * 2**count != resolution:
        raise ValueError(
            f"Generator: resolution must be {side} times a power of two, got {resolution}: --resolution resizes"
        )
    return count
