"""Whose turn it is, where the players do not alternate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["LossThreshold"]


class LossThreshold:
    """DeLiGAN's rule: of `UPDATES` per batch each goes to G where its loss is above a threshold, else to D.

    The threshold starts at its largest value and may drift, before each batch: up after a streak of more than three
    updates of G, down after one of more than one of D. The numbers are those of the published script for MNIST
    (Gurumurthy et al., CVPR 2017, arXiv 1706.02071). A non-saturating loss of log 2 = 0.69 means that D tells nothing
    apart. In the script for toy laws, which waits for a surplus of 150 updates of D, it hardly ever drifts: a fixed
    threshold is that script's.

    Args:
        drifts: whether the threshold moves.

    Attributes:
        threshold: of G's loss.
        streak: updates of one player in a row, of G if positive.
    """

    UPDATES = 5
    LOWEST, HIGHEST, STEP = 0.70, 1.0, 0.003

    def __init__(self, *, drifts: bool = True) -> None:
        self.drifts = drifts
        self.threshold = self.HIGHEST
        self.streak = 0

    def begin_batch(self) -> None:
        """Let the threshold drift."""
        if not self.drifts:
            return
        if self.streak > 3:
            self.threshold, self.streak = min(self.threshold + self.STEP, self.HIGHEST), 0
        elif self.streak < -1:
            self.threshold, self.streak = max(self.threshold - self.STEP, self.LOWEST), 0

    def generator_moves(self, generator_loss: float) -> bool:
        """Whether the next update is G's, and count it."""
        moves = generator_loss > self.threshold
        self.streak = max(self.streak, 0) + 1 if moves else min(self.streak, 0) - 1
        return moves

    def state(self) -> dict[str, Tensor]:
        """What `load_state` continues from."""
        return {"threshold": torch.tensor(self.threshold, dtype=torch.float64), "streak": torch.tensor(self.streak)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        self.threshold, self.streak = float(state["threshold"]), int(state["streak"])
