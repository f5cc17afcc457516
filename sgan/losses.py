"""Adversarial losses as functions of the discriminator's scores, one row of `LOSSES` each.

Both players minimise. f stands for a score, s for the sigmoid, E_r and E_f for means over real and generated images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu, softplus

from sgan.divergences import AlphaDivergence
from sgan.heads import SanScores

__all__ = [
    "LOSSES",
    "Loss",
    "alpha_loss",
    "loss_from_name",
    "relativistic_average_discriminator",
    "relativistic_average_generator",
    "san_discriminator",
]

DiscriminatorLoss = Callable[[Tensor, Tensor], Tensor]
GeneratorLoss = Callable[[Tensor | None, Tensor], Tensor]
Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """What each player minimises.

    Attributes:
        name: key in `LOSSES`.
        discriminator: ((N) real scores, (M) fake scores) -> scalar.
        generator: (real scores or None, (M) fake scores) -> scalar.
        generator_reads_real: whether the generator's loss needs real scores; otherwise None may be given.
        san_log_weight: log r_J, where the generator's loss is -E_f R_J(f) and r_J = R_J' > 0: (N) scores -> (N), up to
            a constant. None where SAN is not defined.
    """

    name: str
    discriminator: DiscriminatorLoss
    generator: GeneratorLoss
    generator_reads_real: bool = False
    san_log_weight: Elementwise | None = None


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


def relativistic_average_generator(real_scores: Tensor | None, fake_scores: Tensor) -> Tensor:
    """L_G = -E log s(b) - E log(1 - s(a)): the discriminator's loss with real and generated exchanged.

    Args:
        real_scores: (N) scores of real images.
        fake_scores: (M) scores of generated images.

    Returns:
        Scalar to be minimised by the generator.

    Raises:
        ValueError: real_scores is None.
    """
    if real_scores is None:
        raise ValueError("relativistic_average_generator: real_scores must be (N) scores, got None")
    return relativistic_average_discriminator(fake_scores, real_scores)


def _minimax_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = -E_r log s(f) - E_f log(1 - s(f)): Goodfellow et al., NeurIPS 2014 (arXiv 1406.2661), equation 1."""
    return softplus(-real_scores).mean() + softplus(fake_scores).mean()


def _saturating_generator(_: Tensor | None, fake_scores: Tensor) -> Tensor:
    """L_G = E_f log(1 - s(f)): the same game, whose gradient vanishes where f is very negative."""
    return -softplus(fake_scores).mean()


def _non_saturating_generator(_: Tensor | None, fake_scores: Tensor) -> Tensor:
    """L_G = -E_f log s(f): Goodfellow et al. 2014, end of section 3."""
    return softplus(-fake_scores).mean()


def _wasserstein_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = E_f f - E_r f: Arjovsky et al., ICML 2017 (arXiv 1701.07875). Needs a Lipschitz bound on f."""
    return fake_scores.mean() - real_scores.mean()


def _mean_score_generator(_: Tensor | None, fake_scores: Tensor) -> Tensor:
    """L_G = -E_f f, of the Wasserstein and hinge losses."""
    return -fake_scores.mean()


def _hinge_discriminator(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """L_D = E_r relu(1 - f) + E_f relu(1 + f): Lim and Ye 2017 (arXiv 1705.02894)."""
    return relu(1 - real_scores).mean() + relu(1 + fake_scores).mean()


def _log_one_minus_sigmoid(scores: Tensor) -> Tensor:
    return logsigmoid(-scores)


def _alpha_discriminator(conjugate: Elementwise, real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    return conjugate(fake_scores).mean() - real_scores.mean()


def _alpha_generator(conjugate: Elementwise, _: Tensor | None, fake_scores: Tensor) -> Tensor:
    return -conjugate(fake_scores).mean()


def alpha_loss(alpha: float) -> Loss:
    """D_alpha^Gamma: L_D = E_f f*(f) - E_r f, L_G = -E_f f*(f), with f* = `AlphaDivergence(alpha).conjugate`.

    Source: SP-GAN (arXiv 2202.01129), with nu = 0 as in its code; alpha = 2 there. Needs a Lipschitz penalty, such as
    `penalties.one_sided`. A fake whose score is negative gives no gradient to either player: start the scores positive
    (`ScoreHead(initial_bias=...)`).

    Raises:
        ValueError: alpha <= 1.
    """
    conjugate = AlphaDivergence(alpha).conjugate
    return Loss(f"alpha{alpha:g}", partial(_alpha_discriminator, conjugate), partial(_alpha_generator, conjugate))


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("ra", relativistic_average_discriminator, relativistic_average_generator, generator_reads_real=True),
        Loss(
            "non-saturating", _minimax_discriminator, _non_saturating_generator, san_log_weight=_log_one_minus_sigmoid
        ),
        Loss("saturating", _minimax_discriminator, _saturating_generator, san_log_weight=logsigmoid),
        Loss("wasserstein", _wasserstein_discriminator, _mean_score_generator, san_log_weight=torch.zeros_like),
        Loss("hinge", _hinge_discriminator, _mean_score_generator, san_log_weight=torch.zeros_like),
    )
}


def loss_from_name(name: str) -> Loss:
    """A row of `LOSSES`, or D_alpha^Gamma from "alpha2", "alpha1.5" and the like.

    Raises:
        ValueError: no such loss, or alpha <= 1.
    """
    if name in LOSSES:
        return LOSSES[name]
    try:
        return alpha_loss(float(name.removeprefix("alpha") if name.startswith("alpha") else "none"))
    except ValueError:
        raise ValueError(
            f"loss_from_name: name must be one of {', '.join(LOSSES)}, or alphaA with a number A > 1, got {name!r}"
        ) from None


def san_discriminator(loss: Loss, real: SanScores, fake: SanScores, *, dir_weight: float = 1.0) -> Tensor:
    """L_D = L(fun_r, fun_f) - dir_weight (E~_r dir - E~_f dir): the slicing adversarial network's loss of any GAN.

    E~ are means under the laws re-weighted by r_J(f) and normalised again, the weights held fixed. The generator's loss
    is unchanged. Source: Takida et al., ICLR 2024 (arXiv 2301.12811).

    Args:
        loss: the GAN's loss.
        real: (N) scores of real images, from `SanHead(..., split=True)`.
        fake: (M) scores of generated images.
        dir_weight: lambda, 1 in the paper.

    Returns:
        Scalar to be minimised by the discriminator.

    Raises:
        ValueError: SAN is not defined for the loss.
    """
    if loss.san_log_weight is None:
        defined = ", ".join(other.name for other in LOSSES.values() if other.san_log_weight)
        raise ValueError(f"san_discriminator: loss must be one of {defined}, got {loss.name}")
    gap = _reweighted_mean(real, loss.san_log_weight) - _reweighted_mean(fake, loss.san_log_weight)
    return loss.discriminator(real.fun, fake.fun) - dir_weight * gap


def _reweighted_mean(scores: SanScores, log_weight: Elementwise) -> Tensor:
    """E[r dir] / E[r], log r = log_weight(f); a softmax, so that r may underflow."""
    return (log_weight(scores.dir.detach()).softmax(dim=0) * scores.dir).sum()
