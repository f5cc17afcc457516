"""Every loss against its formula, and its SAN form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sgan.heads import SanHead, SanScores
from sgan.losses import (
    LOSSES,
    Loss,
    alpha_loss,
    loss_from_name,
    relativistic_average_discriminator,
    relativistic_average_generator,
    san_discriminator,
)


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


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


# name -> terms of L_D per real and per fake score, and of L_G per fake score
FORMULAS: dict[str, tuple[Callable[[float], float], ...]] = {
    "non-saturating": (
        lambda r: -math.log(sigmoid(r)),
        lambda f: -math.log(1 - sigmoid(f)),
        lambda f: -math.log(sigmoid(f)),
    ),
    "saturating": (
        lambda r: -math.log(sigmoid(r)),
        lambda f: -math.log(1 - sigmoid(f)),
        lambda f: math.log(1 - sigmoid(f)),
    ),
    "wasserstein": (lambda r: -r, lambda f: f, lambda f: -f),
    "hinge": (lambda r: max(0, 1 - r), lambda f: max(0, 1 + f), lambda f: -f),
    "alpha2": (lambda r: -r, lambda f: max(0, f) ** 2 / 2 + 0.5, lambda f: -(max(0, f) ** 2) / 2 - 0.5),
    "alpha1.5": (
        lambda r: -r,
        lambda f: 0.5**3 / 1.5 * max(0, f) ** 3 + 4 / 3,
        lambda f: -(0.5**3) / 1.5 * max(0, f) ** 3 - 4 / 3,
    ),
}
SAN_LOSSES = [loss for loss in LOSSES.values() if loss.san_log_weight is not None]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_loss_is_its_formula(name: str) -> None:
    loss, (real_term, fake_term, generator_term) = loss_from_name(name), FORMULAS[name]
    real, fake = scores()
    of_real, of_fake = real.tolist(), fake.tolist()
    expected = mean([real_term(r) for r in of_real]) + mean([fake_term(f) for f in of_fake])
    assert loss.discriminator(real, fake).item() == pytest.approx(expected, rel=1e-12)
    assert loss.generator(None, fake).item() == pytest.approx(mean([generator_term(f) for f in of_fake]), rel=1e-12)
    assert loss.generator(real, fake).item() == loss.generator(None, fake).item()
    assert not loss.generator_reads_real
    assert loss.name == name


@pytest.mark.parametrize("name", [*LOSSES, "alpha2", "alpha3"])
def test_every_loss_is_finite_with_its_gradients_for_extreme_scores(name: str) -> None:
    loss = loss_from_name(name)
    for size in (-1e4, 0.0, 1e4):
        real, fake = (torch.full((3,), s, requires_grad=True) for s in (size, -size))
        total = loss.discriminator(real, fake) + loss.generator(real, fake)
        for grad in torch.autograd.grad(total, (real, fake)):
            assert grad.isfinite().all()
        assert total.isfinite()


def test_the_relativistic_generator_wants_real_scores() -> None:
    loss = LOSSES["ra"]
    real, fake = scores()
    assert loss.generator_reads_real
    assert loss.generator(real, fake) == relativistic_average_generator(real, fake)
    with pytest.raises(ValueError, match="relativistic_average_generator: real_scores must be"):
        loss.generator(None, fake)


def test_the_original_gan_on_gaussians() -> None:
    """D* = p / (p + q) attains C(G) = -log 4 + 2 JS(p || q), no other D more (Goodfellow et al. 2014, theorem 1)."""
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    p, q = (torch.softmax(-(((grid - m) / s) ** 2) / 2, 0) for m, s in ((1, 1), (-0.5, 1.3)))

    def value(score: Tensor) -> float:
        """V(D, G) by quadrature: the loss is a mean of one term per sample, so one sample at a time."""
        loss = LOSSES["saturating"].discriminator
        terms = torch.func.vmap(lambda s: torch.stack([loss(s, s.new_tensor(-1e3)), loss(s.new_tensor(1e3), s)]))(score)
        return -float((p * terms[:, 0] + q * terms[:, 1]).sum())

    optimal = (p / (p + q)).logit()
    middle = (p + q) / 2
    js = float((p * (p / middle).log() + q * (q / middle).log()).sum()) / 2
    assert value(optimal) == pytest.approx(-math.log(4) + 2 * js, rel=1e-12)
    for other in (0.9 * optimal, optimal + 0.1, optimal + 0.3 * (2 * grid).sin()):
        assert value(other) < value(optimal) - 1e-4


def test_names() -> None:
    assert list(LOSSES) == ["ra", "non-saturating", "saturating", "wasserstein", "hinge"]
    assert loss_from_name("hinge") is LOSSES["hinge"]
    for name in ("lsgan", "alpha1", "alpha", "alphatwo"):
        with pytest.raises(ValueError, match=r"loss_from_name: name must be one of ra, .* got '" + name):
            loss_from_name(name)
    with pytest.raises(ValueError, match="alpha must be finite and > 1"):
        alpha_loss(0.5)


@pytest.mark.parametrize("loss", SAN_LOSSES, ids=lambda loss: loss.name)
def test_the_san_weight_is_the_slope_of_the_generators_loss(loss: Loss) -> None:
    """L_G = -E R_J(f), r_J = R_J'; the weight is r_J up to a factor."""
    assert loss.san_log_weight is not None
    _, fake = scores()
    (slope,) = torch.autograd.grad(-loss.generator(None, fake), fake)
    torch.testing.assert_close(loss.san_log_weight(fake).softmax(0), slope / slope.sum())


def san_scores(head: SanHead, real: Tensor, fake: Tensor) -> tuple[SanScores, SanScores]:
    real_scores, fake_scores = head(real, split=True), head(fake, split=True)
    assert isinstance(real_scores, SanScores)
    assert isinstance(fake_scores, SanScores)
    return real_scores, fake_scores


@pytest.mark.parametrize("loss", SAN_LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("dir_weight", [1.0, 0.3])
def test_san_trains_features_by_the_loss_and_the_direction_by_the_gap(loss: Loss, dir_weight: float) -> None:
    """Fails if fun and dir are exchanged: by hand, h gets V's gradient, omega the re-weighted difference of means."""
    head = SanHead(4, None).to(torch.float64)
    real, fake = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    total = san_discriminator(loss, *san_scores(head, real, fake), dir_weight=dir_weight)
    h_grads = torch.autograd.grad(total, (real, fake), retain_graph=True)
    (weight_grad,) = torch.autograd.grad(total, head.score.weight)

    weight = head.score.weight.detach()[0]
    real_f, fake_f = ((h.detach() @ weight).requires_grad_() for h in (real, fake))
    slopes = torch.autograd.grad(loss.discriminator(real_f, fake_f), (real_f, fake_f))
    for grad, slope in zip(h_grads, slopes, strict=True):
        torch.testing.assert_close(grad, slope[:, None] * weight)

    omega = weight / weight.norm()
    tangential = weight_grad[0] - (weight_grad[0] @ omega) * omega
    (r, f) = (torch.autograd.grad(-loss.generator(None, scores), scores)[0] for scores in (real_f, fake_f))
    gap = (r / r.sum()) @ real.detach() - (f / f.sum()) @ fake.detach()
    torch.testing.assert_close(tangential, -dir_weight * (gap - (gap @ omega) * omega))
    radial = slopes[0] @ real.detach() + slopes[1] @ fake.detach()  # of the loss alone: ||w|| belongs to the features
    torch.testing.assert_close(weight_grad[0] @ omega, radial @ omega)


def test_hinge_san_is_the_published_loss() -> None:
    """L_D = E relu(1 - fun_r) - E dir_r + E relu(1 + fun_f) + E dir_f."""
    real = SanScores(torch.tensor([0.5, 2.0]), torch.tensor([0.5, 2.0]))
    fake = SanScores(torch.tensor([-3.0, 0.25]), torch.tensor([-3.0, 0.25]))
    expected = (0.5 + 0) / 2 - (0.5 + 2) / 2 + (0 + 1.25) / 2 + (-3 + 0.25) / 2
    assert san_discriminator(LOSSES["hinge"], real, fake).item() == pytest.approx(expected)


def test_san_weights_may_underflow() -> None:
    far = torch.tensor([-1e4, -1e4 + 1], requires_grad=True)
    value = san_discriminator(LOSSES["saturating"], SanScores(far, far), SanScores(far, far))
    assert value.isfinite()


@pytest.mark.parametrize("loss", [LOSSES["ra"], alpha_loss(2)], ids=lambda loss: loss.name)
def test_san_refuses_losses_it_is_not_defined_for(loss: Loss) -> None:
    one = SanScores(torch.zeros(2), torch.zeros(2))
    message = "loss must be one of non-saturating, saturating, wasserstein, hinge, got " + loss.name
    with pytest.raises(ValueError, match=message):
        san_discriminator(loss, one, one)


@pytest.mark.parametrize("alpha", [1.5, 2, 3])
def test_alpha_gives_fakes_with_negative_scores_no_gradient(alpha: float) -> None:
    """The trap that `ScoreHead(initial_bias=...)` is for."""
    loss = alpha_loss(alpha)
    fake = torch.tensor([-2.0, -0.1, 0.5], requires_grad=True)
    for value in (loss.discriminator(torch.zeros(3), fake), loss.generator(None, fake)):
        (grad,) = torch.autograd.grad(value, fake)
        assert (grad != 0).tolist() == [False, False, True]
