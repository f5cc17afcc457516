"""R1 against a discriminator whose gradient is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgan.penalties import r1


def quadratic_scores(images: Tensor, scale: Tensor) -> Tensor:
    """scale * sum x^2 / 2 per image: its gradient is scale * x."""
    return scale * images.square().sum(dim=(1, 2, 3)) / 2


def test_value_and_gradient_agree_with_hand_calculation() -> None:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 3, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    penalty = r1(quadratic_scores(images, scale), images)
    square_norm = float(images.detach().square().sum(dim=(1, 2, 3)).mean())
    assert penalty.item() == pytest.approx(1.5**2 * square_norm / 2, rel=1e-12)
    (gradient,) = torch.autograd.grad(penalty, scale)
    assert gradient.item() == pytest.approx(1.5 * square_norm, rel=1e-12)


def test_penalty_is_zero_for_a_score_that_is_constant_in_the_image() -> None:
    images = torch.randn(2, 1, 3, 3, requires_grad=True)
    assert r1((0 * images).sum(dim=(1, 2, 3)), images).item() == 0
