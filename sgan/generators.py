"""The generator of SP-GAN for every lattice group; the planar baseline is the same network on the trivial group."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

import gconv.nn as gnn
from gconv import PlanarGroup
from sgan.latents import Latents, act_per_sample
from sgan.widths import matched_widths, scaled

__all__ = ["Generator", "stage_resolutions"]

PLANAR_WIDTHS = (512, 256, 128)  # lifting layer, then one per upsampling: SP-GAN's planar network for 28 x 28 images
MAP_CHANNELS = 128  # channels of the projected latent map, before the width multiplier
FILTER_SIZE = 3
SMALLEST_MAP = 7
LARGEST_MAP = 27  # below 4 x 7: the projection holds less than 16 times the published one's numbers


def stage_resolutions(resolution: int) -> tuple[int, ...]:
    """Side lengths from the latent map to the image: the image's, halved while the half is whole and at least 7.

    28 gives (7, 14, 28), 64 gives (8, 16, 32, 64).

    Raises:
        ValueError: resolution < 7, or the halves end at a map larger than 27 (299, a prime), of which the projection
            would be huge and the networks shallow.
    """
    if resolution < SMALLEST_MAP:
        raise ValueError(f"stage_resolutions: resolution must be >= {SMALLEST_MAP}, got {resolution}")
    stages = _halves(resolution)
    if stages[0] > LARGEST_MAP:
        below = next(side for side in range(resolution, 0, -1) if _halves(side)[0] <= LARGEST_MAP)
        above = next(side for side in count(resolution) if _halves(side)[0] <= LARGEST_MAP)
        raise ValueError(
            f"stage_resolutions: resolution must be {SMALLEST_MAP} to {LARGEST_MAP} times a power of two, got "
            f"{resolution}: resize the images to {below} or {above} pixels"
        )
    return stages


def _halves(resolution: int) -> tuple[int, ...]:
    stages = [resolution]
    while stages[0] % 2 == 0 and stages[0] // 2 >= SMALLEST_MAP:
        stages.insert(0, stages[0] // 2)
    return tuple(stages)


class Generator(nn.Module):
    """G(z, y) = synthesis(T_g latent_map(z, y)), g uniform: a class-conditional generator with a G-invariant law.

    one-hot y -> Linear, ++ z -> spectrally normalised Linear -> planar latent map -> T_g -> lifting convolution, ReLU
    -> [nearest upsampling, group convolution, conditional batch norm, ReLU] per stage -> group convolution to the
    image's channels -> max over the group -> tanh.

    `synthesis` is equivariant, synthesis(T_g m) = T_g synthesis(m), in training and in evaluation. That alone does not
    make the law invariant: the law of the projected map is not. Applying a uniformly random element to the map does
    (arXiv 2202.01129, Theorem T2 of SYSTEMS.md). `symmetrise_latent=False` leaves that out and is the published flawed
    "(I)Eqv G": the same network and parameters, the wrong law.

    Args:
        group: a lattice group; CyclicGroup(1) is the planar baseline.
        resolution: side length of the images.
        channels: channels of the images.
        num_classes: classes.
        width: multiplies every planar width, the latent map's channels included.
        latent_dim: entries of z.
        label_dim: entries of the label embedding.
        symmetrise_latent: apply each sample's group element to its latent map.
        norm_momentum: torch's batch norm momentum (0.9 is Keras' 0.1).
        backend: gconv backend of every convolution, None to let gconv choose.
    """

    def __init__(
        self,
        *,
        group: PlanarGroup,
        resolution: int,
        channels: int,
        num_classes: int,
        width: float = 1.0,
        latent_dim: int = 64,
        label_dim: int = 64,
        symmetrise_latent: bool = True,
        norm_momentum: float = 0.9,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.group = group
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.symmetrise_latent = symmetrise_latent
        self.stages = stage_resolutions(resolution)
        self.map_channels = max(1, round(MAP_CHANNELS * width))
        self.condition_dim = latent_dim + label_dim
        self.widths = self._matched_widths(channels, width)

        first, last = self.widths[0], self.widths[-1]
        self.embed = nn.Linear(num_classes, label_dim, bias=False)
        self.project = gnn.spectral_norm(nn.Linear(self.condition_dim, self.map_channels * self.stages[0] ** 2))
        self.lift = gnn.LiftingConv2d(
            self.map_channels, first, FILTER_SIZE, group=group, padding="same", backend=backend
        )
        self.blocks = nn.ModuleList(
            SynthesisBlock(c_in, c_out, self.condition_dim, group=group, norm_momentum=norm_momentum, backend=backend)
            for c_in, c_out in zip(self.widths[:-1], self.widths[1:], strict=True)
        )
        self.to_image = gnn.GroupConv2d(last, channels, FILTER_SIZE, group=group, padding="same", backend=backend)
        self.pool = gnn.GroupPool(group=group, mode="max")

    def forward(self, latents: Latents) -> Tensor:
        """Generate images.

        Args:
            latents: z (N, latent_dim), labels (N), elements (N).

        Returns:
            (N, channels, resolution, resolution), pixels in [-1, 1].
        """
        latent_map, condition = self.latent_map(latents.z, latents.labels)
        if self.symmetrise_latent:
            latent_map = act_per_sample(latent_map, latents.elements, self.group)
        return self.synthesis(latent_map, condition)

    def latent_map(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Project latent and label: the (N, map_channels, S, S) latent map and the (N, condition_dim) condition."""
        label = self.embed(one_hot(labels, self.num_classes).to(z.dtype))
        condition = torch.cat([label, z], dim=1)
        side = self.stages[0]
        return self.project(condition).view(-1, self.map_channels, side, side), condition

    def synthesis(self, latent_map: Tensor, condition: Tensor) -> Tensor:
        """Map latent maps to images, equivariantly: synthesis(T_g m, c) = T_g synthesis(m, c) for every g.

        Args:
            latent_map: (N, map_channels, S, S).
            condition: (N, condition_dim), invariant scalars for the conditional batch norms.

        Returns:
            (N, channels, resolution, resolution), pixels in [-1, 1].
        """
        x = relu(self.lift(latent_map))
        for block in self.blocks:
            x = block(x, condition)
        return torch.tanh(self.pool(self.to_image(x)))

    def _matched_widths(self, channels: int, width: float) -> tuple[int, ...]:
        stages = len(self.stages)
        planar = scaled(tuple(PLANAR_WIDTHS[0] // 2**stage for stage in range(stages)), width)
        fixed = self.num_classes * (self.condition_dim - self.latent_dim)
        fixed += (self.condition_dim + 1) * self.map_channels * self.stages[0] ** 2 + channels

        def size(widths: tuple[int, ...], order: int) -> int:
            taps = FILTER_SIZE**2
            lift = widths[0] * (self.map_channels * taps + 1)
            pairs = zip(widths, (*widths[1:], channels), strict=True)
            convolutions = sum(c_in * c_out * order * taps for c_in, c_out in pairs)
            conditional_norms = sum(2 * (self.condition_dim + 1) * c_out for c_out in widths[1:])
            return fixed + lift + convolutions + conditional_norms

        return matched_widths(planar, self.group.order, size)


class SynthesisBlock(nn.Module):
    """Nearest upsampling x2, group convolution, conditional batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        condition_dim: int,
        *,
        group: PlanarGroup,
        norm_momentum: float,
        backend: str | None,
    ) -> None:
        super().__init__()
        self.upsample = gnn.GroupUpsample2d(mode="nearest")
        self.conv = gnn.GroupConv2d(
            in_channels, out_channels, FILTER_SIZE, group=group, padding="same", bias=False, backend=backend
        )
        self.norm = gnn.GroupConditionalBatchNorm2d(out_channels, condition_dim, momentum=norm_momentum)
        gnn.spectral_norm(self.norm.gamma)
        gnn.spectral_norm(self.norm.beta)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(N, C_in, G, H, W) and (N, condition_dim) to (N, C_out, G, 2H, 2W)."""
        return relu(self.norm(self.conv(self.upsample(x)), condition))
