"""Adversarial losses as functions of the discriminator's scores."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["relativistic_average_discriminator", "relativistic_average_generator"]


def relativistic_average_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = -E log s(a) - E log(1 - s(b)), a = D(x_r) - mean D(x_f), b = D(x_f) - mean D(x_r), s the sigmoid.

    Source: Jolicoeur-Martineau, ICLR 2019 (arXiv 1807.00734), the loss of SP-GAN (arXiv 2202.01129). Written with
    log s(x) and log(1 - s(x)) = log s(-x), so it is finite for every finite score.

    Args:
        real_scores: (N) scores of real images.
        fake_scores: (M) scores of generated images.

    Returns:
        Scalar to be minimised by the discriminator; 2 log 2 when the scores tell nothing apart.
    """
    real_advantage = real_scores - fake_scores.mean()
    fake_advantage = fake_scores - real_scores.mean()
    return -logsigmoid(real_advantage).mean() - logsigmoid(-fake_advantage).mean()


def relativistic_average_generator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_G = -E log s(b) - E log(1 - s(a)): the discriminator's loss with real and generated exchanged.

    Args:
        real_scores: (N) scores of real images.
        fake_scores: (M) scores of generated images.

    Returns:
        Scalar to be minimised by the generator.
    """
    return relativistic_average_discriminator(fake_scores, real_scores)
