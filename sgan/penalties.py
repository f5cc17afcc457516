"""Penalties on the discriminator's gradient with respect to its input."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["r1"]


def r1(real_scores: Tensor, real_images: Tensor) -> Tensor:
    """R1 = 1/2 E ||grad_x D(x_r)||^2, the squared norm summed over a whole image.

    Source: Mescheder et al., ICML 2018 (arXiv 1801.04406). The half is part of the penalty; its weight is the caller's.

    Args:
        real_scores: (N) scores of real_images, each a function of its own image alone (no batch statistics).
        real_images: (N, C, H, W) leaf that requires gradients.

    Returns:
        Scalar, differentiable with respect to the discriminator's parameters.
    """
    (gradient,) = torch.autograd.grad(real_scores.sum(), real_images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2
