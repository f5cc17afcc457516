"""Everything random in training: streams derived from (seed, purpose, position), latents, and group elements.

No stream outlives the batch it was opened for, so there is no random state to save: a resumed run opens the same
streams at the same positions and draws the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gconv import PlanarGroup

__all__ = ["Latents", "act_per_sample", "epoch_indices", "sample_latents", "stream"]


class Latents(NamedTuple):
    """What a generator is fed: one Gaussian vector, one class and one group element per sample.

    z: (N, latent_dim) standard Gaussian. labels: (N) int64 classes. elements: (N) int64 element indices of the group.
    """

    z: Tensor
    labels: Tensor
    elements: Tensor

    def to(self, device: torch.device | str) -> Latents:
        """The same latents on `device`."""
        return Latents(self.z.to(device), self.labels.to(device), self.elements.to(device))


def stream(seed: int, purpose: str, position: int = 0) -> torch.Generator:
    """Open the CPU random stream that belongs to (seed, purpose, position), position counting images seen.

    Raises:
        ValueError: seed or position is negative.
    """
    if seed < 0 or position < 0:
        raise ValueError(f"stream: seed and position must be >= 0, got {seed} and {position}")
    entropy = np.random.SeedSequence([seed, int.from_bytes(purpose.encode(), "big"), position])
    return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))


def sample_latents(labels: Tensor, *, latent_dim: int, group: PlanarGroup, rng: torch.Generator) -> Latents:
    """Draw z ~ N(0, 1) and a uniform group element for every label.

    Args:
        labels: (N) int64 classes, on the CPU.
        latent_dim: entries of z.
        group: the elements are uniform in 0 .. group.order - 1.
        rng: a CPU stream; z is drawn first, so it does not depend on the group.

    Returns:
        Latents on the CPU, float32 and int64.
    """
    z = torch.randn(len(labels), latent_dim, generator=rng)
    elements = torch.randint(group.order, (len(labels),), generator=rng)
    return Latents(z, labels, elements)


def act_per_sample(x: Tensor, elements: Tensor, group: PlanarGroup) -> Tensor:
    """Apply to every sample its own group element: y_n = T_{g_n} x_n, exact for lattice groups.

    Args:
        x: (N, C, H, W) maps.
        elements: (N) int64 element indices.
        group: the group that acts; H == W if it turns the grid by 90 degrees.

    Returns:
        (N, C, H, W), the dtype of x. Differentiable: a permutation of pixels.
    """
    height, width = x.shape[-2:]
    pixels = torch.arange(height * width, dtype=torch.float64, device=x.device).view(1, 1, height, width)
    sources = torch.stack([group.act(pixels, element).flatten() for element in range(group.order)]).long()
    index = sources[elements][:, None, :].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view(x.shape)


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
        piece = torch.randperm(size, generator=stream(seed, "epoch", epoch))[start : start + count]
        pieces.append(piece)
        position, count = position + len(piece), count - len(piece)
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int64)
