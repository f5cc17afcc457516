"""The last layer of every discriminator: invariant features in, scores out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import normalize

import gconv.nn as gnn

__all__ = ["SanHead", "SanScores", "ScoreHead"]


class SanScores(NamedTuple):
    """One value, the score f = <omega, ||w|| h>, with its gradient in two parts, as `sgan.losses.san` needs it.

    Attributes:
        fun: (N) f with omega held fixed: its gradient trains the features h and the length ||w||.
        dir: (N) f with ||w|| h held fixed: its gradient trains the direction omega alone.
    """

    fun: Tensor
    dir: Tensor


class ScoreHead(nn.Module):
    """f(h, y) = <w, h> + b + <h, e_y>, the projection head; without classes <w, h> + b.

    Source: Miyato and Koyama, ICLR 2018 (arXiv 1802.05637). The embedding's rows e_y are not normalised.

    Args:
        width: entries of h.
        num_classes: classes, None for an unconditional head.
        spectral_norm: divide w by its norm.
        initial_bias: b at the start, None for torch's random one. D_alpha needs scores that start positive.
    """

    def __init__(
        self,
        width: int,
        num_classes: int | None,
        *,
        spectral_norm: bool = True,
        initial_bias: float | None = None,
    ) -> None:
        super().__init__()
        score = nn.Linear(width, 1)
        if initial_bias is not None:
            nn.init.constant_(score.bias, initial_bias)
        self.score = gnn.spectral_norm(score) if spectral_norm else score
        self.embed = None if num_classes is None else nn.Embedding(num_classes, width)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score features, higher is more real.

        Args:
            features: (N, width).
            labels: (N) int64 classes; an unconditional head ignores them.

        Returns:
            (N) scores, unbounded.

        Raises:
            ValueError: no labels for a conditional head.
        """
        scores = self.score(features).squeeze(1)
        if self.embed is None:
            return scores
        return scores + (features * self.embed(_given(labels))).sum(dim=1)


class SanHead(nn.Module):
    """f(h, y) = <omega_y, ||w_y|| h>, omega_y = w_y / ||w_y||, w_y = w + e_y; without classes w_y = w.

    The slicing adversarial network's head (Takida et al., ICLR 2024, arXiv 2301.12811): the direction omega
    learns to separate the features of real and generated images, and only the features learn from the GAN's loss. The
    length ||w_y|| counts as part of the features, as published.

    Args:
        width: entries of h.
        num_classes: classes, None for an unconditional head.
    """

    def __init__(self, width: int, num_classes: int | None) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)
        self.embed = None if num_classes is None else nn.Embedding(num_classes, width)

    def forward(self, features: Tensor, labels: Tensor | None = None, *, split: bool = False) -> Tensor | SanScores:
        """Score features, higher is more real.

        Args:
            features: (N, width).
            labels: (N) int64 classes; an unconditional head ignores them.
            split: True in the discriminator's own step, whose loss treats features and direction differently.

        Returns:
            (N) scores f, unbounded; SanScores if split.

        Raises:
            ValueError: no labels for a conditional head.
        """
        weight = self.score.weight if self.embed is None else self.score.weight + self.embed(_given(labels))
        if not split:
            return (features * weight).sum(dim=1)
        direction = normalize(weight, dim=1)
        scaled = features * weight.norm(dim=1, keepdim=True)
        return SanScores(fun=(scaled * direction.detach()).sum(dim=1), dir=(scaled.detach() * direction).sum(dim=1))


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("head: labels must be (N) classes for a conditional head, got None")
    return labels
