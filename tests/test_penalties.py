"""Penalties against hand calculation and finite differences, on points and images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sgan.penalties import clip_weights, interpolate, one_sided, r1, two_sided

Penalty = Callable[[Tensor, Tensor], Tensor]

# The penalty's value as a function of each input's gradient norm.
OF_NORMS: dict[Penalty, Callable[[Tensor], Tensor]] = {
    r1: lambda norms: norms.square().mean() / 2,
    two_sided: lambda norms: (norms - 1).square().mean(),
    one_sided: lambda norms: (norms.square() - 1).clamp(min=0).mean(),
}
every_penalty = pytest.mark.parametrize("penalty", OF_NORMS, ids=lambda penalty: penalty.__name__)
every_shape = pytest.mark.parametrize("shape", [(4, 2), (4, 2, 3, 3)], ids=["points", "images"])


def quadratic_scores(inputs: Tensor, scale: Tensor) -> Tensor:
    """scale * sum x^2 / 2 per input: its gradient is scale * x."""
    return scale * inputs.square().flatten(1).sum(dim=1) / 2


@every_penalty
@every_shape
def test_value_and_gradient_agree_with_hand_calculation(penalty: Penalty, shape: tuple[int, ...]) -> None:
    norms = torch.tensor([0.5, 1.2, 2, 3], dtype=torch.float64)  # on both sides of one_sided's bend
    directions = torch.nn.functional.normalize(torch.randn(shape, dtype=torch.float64).flatten(1), dim=1)
    inputs = (norms[:, None] * directions).view(shape).requires_grad_()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    expected = OF_NORMS[penalty](scale * norms)
    value = penalty(quadratic_scores(inputs, scale), inputs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, scale) for v in (value, expected)))


def build(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 2:
        return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).to(torch.float64)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)).to(torch.float64)


def norms_by_differences(network: nn.Module, inputs: Tensor, step: float = 1e-5) -> Tensor:
    """||grad_x D|| of every input from central differences of the score."""
    flat = inputs.detach().flatten(1)
    columns = []
    for entry in range(flat.shape[1]):
        moved = step * torch.eye(flat.shape[1], dtype=flat.dtype)[entry]
        up, down = (network((flat + sign * moved).view_as(inputs)).squeeze(1) for sign in (1, -1))
        columns.append((up - down) / (2 * step))
    return torch.stack(columns, 1).norm(dim=1)


@every_penalty
@every_shape
def test_value_and_second_derivatives_agree_with_finite_differences(penalty: Penalty, shape: tuple[int, ...]) -> None:
    network = build(shape)
    inputs = (3 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    names, parameters = zip(*network.named_parameters(), strict=True)

    def value(*values: Tensor) -> Tensor:
        scores = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (inputs,))
        return penalty(scores.squeeze(1), inputs)

    for parameter in parameters:
        parameter.data.mul_(3)
    expected = OF_NORMS[penalty](norms_by_differences(network, inputs))
    torch.testing.assert_close(value(*parameters), expected, rtol=1e-7, atol=1e-8)
    assert expected > 1e-2
    assert torch.autograd.gradcheck(value, parameters)


@every_penalty
def test_a_constant_score_has_no_slope_and_no_nan(penalty: Penalty) -> None:
    inputs = torch.randn(2, 1, 3, 3, requires_grad=True)
    scale = torch.zeros((), requires_grad=True)
    value = penalty(quadratic_scores(inputs, scale), inputs)
    assert value.item() == (1 if penalty is two_sided else 0)
    (gradient,) = torch.autograd.grad(value, scale)
    assert gradient.item() == 0


def test_the_norm_is_of_one_input_and_not_of_the_batch() -> None:
    """Two gradients of norm 0.8: their joint norm is above 1."""
    inputs = torch.full((2, 1), 0.8, requires_grad=True)
    assert one_sided(quadratic_scores(inputs, torch.ones(())), inputs).item() == 0


@every_shape
def test_interpolates_lie_between(shape: tuple[int, ...]) -> None:
    real, fake = torch.randn(shape), torch.randn(shape, requires_grad=True)
    weights = torch.tensor([0.0, 1.0, 0.25, 0.5])
    between = interpolate(real, fake, weights)
    expected = [fake[0], real[1], 0.25 * real[2] + 0.75 * fake[2], (real[3] + fake[3]) / 2]
    torch.testing.assert_close(between, torch.stack(expected).detach())
    assert between.requires_grad
    assert between.is_leaf
    with pytest.raises(ValueError, match="interpolate: real, fake and weights must be"):
        interpolate(real, fake[:2], weights)


def test_clipping_leaves_no_weight_outside() -> None:
    network = build((4, 2))
    before = [parameter.clone() for parameter in network.parameters()]
    clip_weights(network, 0.1)
    for parameter, old in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old.clamp(-0.1, 0.1))
        assert parameter.requires_grad
    assert any((old.abs() > 0.1).any() for old in before)
    with pytest.raises(ValueError, match="clip_weights: limit must be > 0, got 0"):
        clip_weights(network, 0)
