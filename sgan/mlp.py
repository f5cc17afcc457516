"""Multilayer perceptrons that play: on images without symmetry or projected, on points of the plane with any group."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gconv import PlanarGroup
from sgan.architectures import PerceptronDiscriminatorRow, PerceptronGeneratorRow
from sgan.blocks import ACTIVATIONS
from sgan.discriminators import FeatureDiscriminator, make_head
from sgan.generators import LatentGenerator
from sgan.latents import LatentLaw, LatentMixture, Latents, act_on_points_per_sample
from sgan.projection import EquivariantProjection, InvariantProjection, image_maps, point_maps
from sgan.widths import scaled

__all__ = ["PerceptronDiscriminator", "PerceptronGenerator"]


class PerComponentLinear(nn.Module):
    """N linear layers, of which each sample passes its component's; torch.nn.Linear's initialisation."""

    def __init__(self, components: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(components, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(components, out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor, components: Tensor) -> Tensor:
        """(N, in_features) and (N) components to (N, out_features)."""
        return torch.einsum("noi,ni->no", self.weight[components], x) + self.bias[components]


class Perceptron(nn.Module):
    """Linear layers with an activation between them.

    Args:
        sizes: entries of the input, of each hidden layer and of the output.
        activation: of sgan.blocks.ACTIVATIONS.
        output: of sgan.blocks.ACTIVATIONS, after the last layer, or "linear".
        components: of the input's law.
        use: "one-hot", the component beside the input; "ensemble", layers per component; otherwise it is not used.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: str,
        *,
        output: str = "linear",
        components: int = 1,
        use: str = "mixture",
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.output = None if output == "linear" else ACTIVATIONS[output]
        self.components = components
        self.use = use
        inputs = sizes[0] + (components if use == "one-hot" else 0)
        self.layers = nn.ModuleList(
            PerComponentLinear(components, *pair) if use == "ensemble" else nn.Linear(*pair)
            for pair in pairwise((inputs, *sizes[1:]))
        )

    def forward(self, x: Tensor, components: Tensor | None = None) -> Tensor:
        """(N, ...) inputs and (N) components to (N, sizes[-1])."""
        x = x.flatten(1)
        if self.use == "one-hot" and components is not None:
            x = torch.cat([one_hot(components, self.components).to(x.dtype), x], dim=1)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, components) if isinstance(layer, PerComponentLinear) else layer(x)
            activation = self.activation if number < len(self.layers) else self.output
            x = x if activation is None else activation(x)
        return x


class PerceptronGenerator(LatentGenerator):
    """A perceptron from z to an image or a point, without labels.

    On points with a group, G(z) = mean over s of s^-1 g(s z) is equivariant (arXiv 2202.01129), and z is moved by each
    sample's element first, which makes the law of any z invariant (`sgan.latents`). One network serves DeLiGAN's
    baselines: what a latent law with components does, the row says.

    Args:
        architecture: a row of `sgan.architectures.GENERATORS`.
        group: that acts on points; CyclicGroup(1) for images, on whose z no group acts.
        resolution, channels: of the images; a row of points makes (N, 2) and looks at neither.
        num_classes: classes of the data.
        width: multiplies the hidden widths.
        latent_dim: entries of z, None for the published number; 2 for points with a group.
        noise, components, component_rule, sigma, symmetrise_latent: as in `sgan.generators.Generator`.

    Raises:
        ValueError: a group that cannot act, or one component where the row needs several.
    """

    def __init__(
        self,
        *,
        architecture: PerceptronGeneratorRow,
        group: PlanarGroup,
        resolution: int,
        channels: int,
        num_classes: int,
        width: float = 1.0,
        latent_dim: int | None = None,
        noise: str = "gaussian",
        components: int = 1,
        component_rule: str = "uniform",
        sigma: float = 0.2,
        symmetrise_latent: bool = True,
    ) -> None:
        super().__init__()
        row = architecture
        dim = row.latent_dim if latent_dim is None else latent_dim
        if group.order > 1 and not (row.points and dim == 2):
            raise ValueError(f"PerceptronGenerator: group must be C1 except on points of the plane, got {group.name}")
        if row.components != "mixture" and components == 1:
            raise ValueError(f"PerceptronGenerator: components must be > 1 for {row.source}, got 1")
        self.architecture = row
        self.group = group
        self.num_classes = num_classes
        self.symmetrise_latent = symmetrise_latent
        self.law = LatentLaw(dim, noise, components, component_rule)
        self.widths = scaled(row.widths, width)
        self.shape = (2,) if row.points else (channels, resolution, resolution)
        mixes = row.components == "mixture" and components > 1
        self.mixture = LatentMixture(components, dim, sigma) if mixes else None
        sizes = (dim, *self.widths, math.prod(self.shape))
        self.network: nn.Module = Perceptron(
            sizes, row.activation, output=row.output, components=components, use=row.components
        )
        if group.order > 1:
            maps = point_maps(group)
            inverses = [maps[group.inverse(element)] for element in group.elements]
            self.network = EquivariantProjection(self.network, maps, inverses)

    def forward(self, latents: Latents) -> Tensor:
        """Generate images (N, channels, resolution, resolution), pixels in [-1, 1] after tanh, or points (N, 2)."""
        z = self.latent(latents)
        if self.group.order > 1 and self.symmetrise_latent:
            z = act_on_points_per_sample(z, latents.elements, self.group)
        return self.synthesis(z, latents.components)

    def synthesis(self, z: Tensor, components: Tensor) -> Tensor:
        """(N, latent_dim) and (N) components to images or points, equivariant for points with a group."""
        return self.network(z, components).view(-1, *self.shape)


class PerceptronDiscriminator(FeatureDiscriminator):
    """A perceptron from an image or a point to a score, without labels; with a group S_Sigma of it.

    The last hidden layer is h, averaged over the moved inputs; the head is linear, so scores are averages too.

    Args:
        architecture: a row of `sgan.architectures.DISCRIMINATORS`.
        group: any on points, one that is exact on the pixel grid on images.
        resolution, channels: of the images; a row of points takes (N, 2) and looks at neither.
        width: multiplies the hidden widths.
        head, initial_bias: as in `sgan.discriminators.Discriminator`.
    """

    def __init__(
        self,
        *,
        architecture: PerceptronDiscriminatorRow,
        group: PlanarGroup,
        resolution: int,
        channels: int,
        width: float = 1.0,
        head: str = "score",
        initial_bias: float | None = None,
    ) -> None:
        super().__init__()
        row = architecture
        self.group = group
        self.widths = scaled(row.widths, width)
        inputs = 2 if row.points else channels * resolution**2
        network = Perceptron((inputs, *self.widths), row.activation, output=row.activation)
        self.network = InvariantProjection(network, point_maps(group) if row.points else image_maps(group))
        self.head = make_head(head, self.widths[-1], None, normalise=False, initial_bias=initial_bias)

    def features(self, x: Tensor) -> Tensor:
        """The invariant features h(x): (N, widths[-1])."""
        return self.network(x)
