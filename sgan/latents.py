"""Everything random in training: streams derived from (seed, purpose, position), latents, and group elements.

No stream outlives the batch it was opened for, so there is no random state to save: a resumed run opens the same
streams at the same positions and draws the same numbers.

What keeps a generator's law invariant. Let m be what the group acts on, an image generator's latent map m(z, y) or the
point z itself, and G equivariant. If the law of m is invariant, so is that of G(m) (theorem T2 of docs/theory.md). The
Gaussian on R^2 is invariant under every rotation and reflection, the uniform law on a square under its own eight; a
DeLiGAN mixture and the law of a projected map are invariant under none. But T_g m, with g uniform on the group and
independent of m, is invariant whatever the law of m, because h g is as uniform as g. So the element is drawn beside z
and the component and acts last, and any latent law may be learned under it. With the "cyclic" rule sample i always has
component i mod N; given its component the law of its image is invariant all the same, and so is that of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gconv import PlanarGroup

__all__ = [
    "COMPONENT_RULES",
    "NOISES",
    "LatentLaw",
    "LatentMixture",
    "Latents",
    "act_on_points_per_sample",
    "act_per_sample",
    "epoch_indices",
    "point_matrices",
    "stream",
]

NOISES = ("gaussian", "uniform")
COMPONENT_RULES = ("uniform", "cyclic")


class Latents(NamedTuple):
    """What a generator is fed: per sample one vector of noise, one class, one group element and one component.

    z: (N, latent_dim) noise. labels: (N) int64 classes. elements: (N) int64 element indices of the group.
    components: (N) int64 components of the latent law, all 0 where it has one.
    """

    z: Tensor
    labels: Tensor
    elements: Tensor
    components: Tensor

    def to(self, device: torch.device | str) -> Latents:
        """The same latents on `device`."""
        return Latents(*(tensor.to(device) for tensor in self))


def stream(seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """Open the CPU random stream that belongs to (seed, purpose, position), position counting images seen.

    Raises:
        ValueError: seed or position is negative.
    """
    if seed < 0 or position < 0:
        raise ValueError(f"stream: seed and position must be >= 0, got {seed} and {position}")
    entropy = np.random.SeedSequence([seed, int.from_bytes(purpose.encode(), "big"), position])
    return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))


@dataclass(frozen=True)
class LatentLaw:
    """What is drawn for a generator, before anything learned.

    Attributes:
        dim: entries of z.
        noise: "gaussian", N(0, 1), or "uniform", U(-1, 1), each entry independent.
        components: N, of a DeLiGAN mixture, of a mixture of experts or of an ensemble.
        component_rule: "uniform", each sample's drawn, as in DeLiGAN's paper (arXiv 1706.02071); or "cyclic", sample i
            of the batch has component i mod N, as in its published scripts.
    """

    dim: int
    noise: str = "gaussian"
    components: int = 1
    component_rule: str = "uniform"

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: a value out of range.
        """
        for name, value in (("dim", self.dim), ("components", self.components)):
            if value < 1:
                raise ValueError(f"LatentLaw: {name} must be >= 1, got {value}")
        if self.noise not in NOISES:
            raise ValueError(f"LatentLaw: noise must be one of {', '.join(NOISES)}, got {self.noise!r}")
        if self.component_rule not in COMPONENT_RULES:
            rules = ", ".join(COMPONENT_RULES)
            raise ValueError(f"LatentLaw: component_rule must be one of {rules}, got {self.component_rule!r}")

    def sample(self, labels: Tensor, *, group: PlanarGroup, rng: torch.Generator) -> Latents:
        """Draw z, a uniform group element and a component for every label.

        Args:
            labels: (N) int64 classes, on the CPU.
            group: the elements are uniform in 0 .. group.order - 1.
            rng: a CPU stream; z is drawn first, so it does not depend on the group, and components last.

        Returns:
            Latents on the CPU, of torch's default dtype and int64.
        """
        count = len(labels)
        if self.noise == "gaussian":
            z = torch.randn(count, self.dim, generator=rng)
        else:
            z = 2 * torch.rand(count, self.dim, generator=rng) - 1
        elements = torch.randint(group.order, (count,), generator=rng)
        components = torch.arange(count) % self.components
        if self.component_rule == "uniform" and self.components > 1:
            components = torch.randint(self.components, (count,), generator=rng)
        return Latents(z, labels, elements, components)


class LatentMixture(nn.Module):
    """DeLiGAN's latent: z = mu_i + sigma_i * eps for component i, p_z = 1/N sum_i N(mu_i, diag(sigma_i^2)).

    mu and sigma are learned with the generator; mu starts at U(-1, 1) (Gurumurthy et al., CVPR 2017, arXiv 1706.02071,
    equations 3 to 5, and the published scripts).

    Args:
        components: N.
        dim: K, entries of z.
        sigma: every entry of sigma at the start; 0.2 in the scripts for images, 0.02 in the toy one.
    """

    def __init__(self, components: int, dim: int, sigma: float = 0.2) -> None:
        super().__init__()
        self.mu = nn.Parameter(2 * torch.rand(components, dim) - 1)
        self.sigma = nn.Parameter(torch.full((components, dim), sigma))

    def forward(self, noise: Tensor, components: Tensor) -> Tensor:
        """(N, K) noise eps and (N) components to (N, K) latents z."""
        return self.mu[components] + self.sigma[components] * noise

    def penalty(self) -> Tensor:
        """The mean of (1 - sigma)^2 over all entries, as published scripts have it; it keeps sigma from collapsing.

        The generator's loss gets lambda times this: 0.1 for the toy mixtures, 1/3 for MNIST, 0.05 for sketches.
        """
        return (1 - self.sigma).square().mean()


def act_per_sample(x: Tensor, elements: Tensor, group: PlanarGroup) -> Tensor:
    """Apply to every sample its own group element: y_n = T_{g_n} x_n.

    T_g permutes pixels for the elements of a lattice group. Off the pixel grid element h c, c a rotation by less than a
    quarter turn, is T_h T_c, where T_c takes the nearest pixel of what lies inside the disk that the map's border
    touches and is 0 outside, the identity's T included. So T_h (T_g x) = T_{hg} x holds exactly for h in the lattice
    subgroup, and the law is exactly invariant under that and nearly under the group. SP-GAN's C8 rows do the same
    (arXiv 2202.01129 and its code).

    Args:
        x: (N, C, H, W) maps.
        elements: (N) int64 element indices.
        group: the group that acts; H == W if it turns the grid.

    Returns:
        (N, C, H, W), the dtype of x. Differentiable.
    """
    sources, inside = _moved_pixels(group, x.shape[-2], x.shape[-1], x.device)
    index = sources[elements][:, None, :].expand(-1, x.shape[1], -1)
    moved = x.flatten(2).gather(2, index)
    if not group.is_lattice:
        moved = moved * inside[elements][:, None, :]
    return moved.view(x.shape)


def act_on_points_per_sample(x: Tensor, elements: Tensor, group: PlanarGroup) -> Tensor:
    """Apply to every point its own group element: (N, 2) points and (N) elements to (N, 2) points, exactly."""
    return torch.einsum("nij,nj->ni", _point_matrices(group, x.dtype, x.device)[elements], x)


Made = TypeVar("Made")
Arguments = ParamSpec("Arguments")


def _kept(*, most: int | None = None) -> Callable[[Callable[Arguments, Made]], Callable[Arguments, Made]]:
    """Cache the tensors that a function makes, the `most` newest, or all for good.

    Whatever mode the first caller is in, they are ordinary tensors, which autograd can save, and not on a default
    device of his. They are for this file alone: whoever else got one could write to it.
    """

    def kept(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
        @wraps(make)
        def made(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Made:
            with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
                return make(*args, **kwargs)

        cached: Any = lru_cache(maxsize=most)(made)
        return cached

    return kept


def point_matrices(
    group: PlanarGroup, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    """The action on points (x, y), counter-clockwise with y up, flips changing the sign of y: (|G|, 2, 2).

    Pixel (row, column) of an image centred at 0 is the point (column, -row), so images and points move alike.
    """
    return _point_matrices(group, dtype, torch.device("cpu") if device is None else device).clone()


@_kept()  # for good: a CUDA graph reads a table where it was when it was recorded
def _point_matrices(group: PlanarGroup, dtype: torch.dtype, device: torch.device) -> Tensor:
    of_pixels = [group.matrix(element) for element in group.elements]
    matrices = [[[d, -c], [-b, a]] for (a, b), (c, d) in of_pixels]
    return torch.tensor(matrices, dtype=torch.float64).to(device=device, dtype=dtype)


@_kept()  # for good: a CUDA graph reads a table where it was when it was recorded
def _moved_pixels(group: PlanarGroup, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per element the pixel that each pixel takes its value from, (|G|, H * W), and whether both lie in the disk."""
    turned = [_turned_pixels(group, c, height, width) for c in range(group.coset_count)]
    moved = [
        [group.act(table[None, None], h).flatten() for table in turned[c]]
        for h in group.lattice_elements
        for c in range(group.coset_count)
    ]
    sources, inside = (torch.stack(tables).to(device) for tables in zip(*moved, strict=True))
    return sources, inside


def _turned_pixels(group: PlanarGroup, rotation: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """`_moved_pixels` of a rotation by less than a quarter turn, as images (H, W)."""
    sides = np.array([height, width])
    target = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1) - (sides - 1) / 2
    back = np.array(group.matrix(group.inverse(rotation)))
    source = np.floor(target @ back.T + sides / 2 - 1e-9).astype(np.int64).clip(0, sides - 1)  # nearest; ties go down
    radius = sides.min() / 2
    inside = np.hypot(*np.moveaxis(target, -1, 0)) <= radius
    inside &= np.hypot(*np.moveaxis(source - (sides - 1) / 2, -1, 0)) <= radius
    return torch.from_numpy(source[..., 0] * width + source[..., 1]), torch.from_numpy(inside)


def epoch_indices(seed: int, position: int, count: int, size: int) -> Tensor:
    """Entries position .. position + count - 1 of an endless sequence of seeded permutations of `size` images.

    Every epoch shows every image once. The sequence is a function of its arguments alone.

    Returns:
        (count) int64 indices in 0 .. size - 1.

    Raises:
        ValueError: size < 1.
    """
    if size < 1:
        raise ValueError(f"epoch_indices: size must be >= 1, got {size}")
    pieces: list[Tensor] = []
    while count > 0:
        epoch, start = divmod(position, size)
        piece = _permutation(seed, epoch, size)[start : start + count]
        pieces.append(piece)
        position, count = position + len(piece), count - len(piece)
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)


@_kept(most=2)
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=stream(seed, "epoch", epoch))
