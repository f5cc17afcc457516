"""Batch normalisation whose statistics, and so whose map, are the same for every orientation."""

from __future__ import annotations

from torch import Tensor, nn


class GroupBatchNorm2d(nn.BatchNorm3d):
    """Batch normalisation of (N, C, |G|, H, W) with statistics shared over the group, hence equivariant.

    This is torch's BatchNorm3d on that layout; its arguments and running statistics are torch's
    (``momentum`` is the weight of the new value: the 0.1 of Keras is 0.9 here).
    """


class GroupConditionalBatchNorm2d(nn.Module):
    """y = (1 + gamma(c)) * BN(x) + beta(c): one scale and shift per channel, shared by all orientations.

    The condition c is an invariant vector (a label embedding, a latent), so the layer is equivariant
    (Dumoulin et al. 2017; as used by Dey et al. 2021, arXiv 2005.01683).

    Args:
        num_features: C.
        condition_features: length of the condition vector.
        eps, momentum: as in torch.nn.BatchNorm3d.

    Attributes:
        gamma, beta: torch.nn.Linear(condition_features, C).
    """

    def __init__(self, num_features: int, condition_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.norm = GroupBatchNorm2d(num_features, eps=eps, momentum=momentum, affine=False)
        self.gamma = nn.Linear(condition_features, num_features)
        self.beta = nn.Linear(condition_features, num_features)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (N, C, |G|, H, W), condition: (N, condition_features) -> (N, C, |G|, H, W)."""
        scale = 1 + self.gamma(condition)[:, :, None, None, None]
        shift = self.beta(condition)[:, :, None, None, None]
        return scale * self.norm(x) + shift
