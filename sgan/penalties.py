"""Penalties on the discriminator's gradient with respect to its input, and weight clipping.

Inputs have any shape (N, ...): images, points. Norms are Euclidean, over one whole input. Each score must be a function
of its own input alone (no batch statistics).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = ["clip_weights", "interpolate", "one_sided", "r1", "two_sided"]


def r1(real_scores: Tensor, real_images: Tensor) -> Tensor:
    """R1 = 1/2 E ||grad_x D(x_r)||^2, the squared norm summed over a whole image.

    Source: Mescheder et al., ICML 2018 (arXiv 1801.04406). The half is part of the penalty; its weight is the caller's.

    Args:
        real_scores: (N) scores of real_images.
        real_images: (N, ...) leaf that requires gradients.

    Returns:
        Scalar, differentiable with respect to the discriminator's parameters.
    """
    return _square_norms(real_scores, real_images).mean() / 2


def interpolate(real: Tensor, fake: Tensor, weights: Tensor) -> Tensor:
    """x_hat = u x_r + (1 - u) x_f, one u per pair.

    Args:
        real: (N, ...) real inputs.
        fake: (N, ...) generated inputs, of the same labels.
        weights: (N) u, uniform in [0, 1].

    Returns:
        (N, ...) new leaf that requires gradients.

    Raises:
        ValueError: shapes do not match.
    """
    if real.shape != fake.shape or weights.shape != real.shape[:1]:
        shapes = f"{tuple(real.shape)}, {tuple(fake.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"interpolate: real, fake and weights must be (N, ...), (N, ...) and (N), got {shapes}")
    weights = weights.view(-1, *[1] * (real.dim() - 1))
    return (weights * real + (1 - weights) * fake).detach().requires_grad_()


def two_sided(scores: Tensor, inputs: Tensor) -> Tensor:
    """E (||grad_x D(x)|| - 1)^2: Gulrajani et al., NeurIPS 2017 (arXiv 1704.00028), whose weight is 10.

    Args:
        scores: (N) scores of inputs.
        inputs: (N, ...) leaf that requires gradients, from `interpolate`.

    Returns:
        Scalar, differentiable with respect to the discriminator's parameters; also where a gradient is 0, where the
        norm has none and 0 is used.
    """
    squares = _square_norms(scores, inputs)
    norms = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
    return (norms - 1).square().mean()


def one_sided(scores: Tensor, inputs: Tensor) -> Tensor:
    """E max(0, ||grad_x D(x)||^2 - 1): SP-GAN's, of the squared norm, with weight 10 (arXiv 2202.01129, as coded).

    Args and Returns: as in `two_sided`.
    """
    return relu(_square_norms(scores, inputs) - 1).mean()


@torch.no_grad()
def clip_weights(module: nn.Module, limit: float) -> None:
    """Clamp every parameter to [-limit, limit], in place, after each step of the discriminator.

    Source: Arjovsky et al., ICML 2017 (arXiv 1701.07875), with limit 0.01. A parametrised weight is clipped where it is
    stored, which bounds a spectrally normalised layer no further.

    Raises:
        ValueError: limit <= 0.
    """
    if not limit > 0:
        raise ValueError(f"clip_weights: limit must be > 0, got {limit}")
    for parameter in module.parameters():
        parameter.clamp_(-limit, limit)


def _square_norms(scores: Tensor, inputs: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(scores.sum(), inputs, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1)
