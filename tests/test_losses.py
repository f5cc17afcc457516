"""The relativistic average loss against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sgan.losses import relativistic_average_discriminator, relativistic_average_generator


def scores() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(5, generator=rng, dtype=torch.float64), torch.randn(7, generator=rng, dtype=torch.float64)
    return real.requires_grad_(), fake.requires_grad_()


def probabilities(real: Tensor, fake: Tensor) -> tuple[list[float], list[float]]:
    """sigmoid(a_n) for every real score, sigmoid(b_m) for every fake one."""
    a = [1 / (1 + math.exp(-(float(score) - float(fake.mean())))) for score in real]
    b = [1 / (1 + math.exp(-(float(score) - float(real.mean())))) for score in fake]
    return a, b


def test_discriminator_loss_is_the_published_formula() -> None:
    real, fake = scores()
    a, b = probabilities(real.detach(), fake.detach())
    expected = -sum(map(math.log, a)) / len(a) - sum(math.log(1 - value) for value in b) / len(b)
    assert relativistic_average_discriminator(real, fake).item() == pytest.approx(expected, rel=1e-12)


def test_generator_loss_is_the_published_formula() -> None:
    real, fake = scores()
    a, b = probabilities(real.detach(), fake.detach())
    expected = -sum(map(math.log, b)) / len(b) - sum(math.log(1 - value) for value in a) / len(a)
    assert relativistic_average_generator(real, fake).item() == pytest.approx(expected, rel=1e-12)


def test_equal_scores_give_two_log_two() -> None:
    zero = torch.zeros(3)
    assert relativistic_average_discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))


def test_gradients_agree_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(relativistic_average_discriminator, scores())
    assert torch.autograd.gradcheck(relativistic_average_generator, scores())


def test_generator_has_a_gradient_through_both_scores() -> None:
    real, fake = scores()
    relativistic_average_generator(real, fake).backward()
    for scores_grad in (real.grad, fake.grad):
        assert scores_grad is not None
        assert scores_grad.abs().min() > 0


def test_extreme_scores_stay_finite() -> None:
    real, fake = torch.tensor([1e4], requires_grad=True), torch.tensor([-1e4], requires_grad=True)
    loss = relativistic_average_generator(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(4e4)
    assert real.grad is not None
    assert real.grad.isfinite().all()
