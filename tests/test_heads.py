"""Score heads: the published formulas, and which gradient reaches which half of a SAN head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgan.heads import SanHead, SanScores, ScoreHead

WIDTH, CLASSES = 5, 3


def features() -> Tensor:
    return torch.randn(4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


LABELS = torch.tensor([2, 0, 1, 2])


@pytest.mark.parametrize("spectral_norm", [True, False])
@pytest.mark.parametrize("classes", [None, CLASSES])
def test_the_projection_head_is_its_formula(spectral_norm: bool, classes: int | None) -> None:
    head = ScoreHead(WIDTH, classes, spectral_norm=spectral_norm).to(torch.float64).eval()
    h, weight = features(), head.score.weight[0]
    assert weight.norm().item() == pytest.approx(1, abs=1e-6) or not spectral_norm
    for n, label in enumerate(LABELS.tolist()):
        expected = weight @ h[n] + head.score.bias[0]
        if head.embed is not None:
            expected = expected + h[n] @ head.embed.weight[label]
        torch.testing.assert_close(head(h, LABELS)[n], expected)


def test_the_state_has_the_names_of_earlier_snapshots() -> None:
    names = set(ScoreHead(WIDTH, CLASSES).state_dict())
    assert {"embed.weight", "score.bias", "score.parametrizations.weight.original"} <= names
    assert set(ScoreHead(WIDTH, None, spectral_norm=False).state_dict()) == {"score.weight", "score.bias"}


def test_scores_can_start_positive() -> None:
    head = ScoreHead(WIDTH, None, initial_bias=3.0)
    assert head(torch.zeros(2, WIDTH)).tolist() == [3, 3]


def test_a_conditional_head_wants_labels_and_an_unconditional_one_ignores_them() -> None:
    for head in (ScoreHead(WIDTH, CLASSES), SanHead(WIDTH, CLASSES)):
        with pytest.raises(ValueError, match=r"head: labels must be \(N\) classes"):
            head(torch.zeros(4, WIDTH))
    for head in (ScoreHead(WIDTH, None).eval(), SanHead(WIDTH, None)):
        h = features().float()
        torch.testing.assert_close(head(h, LABELS), head(h))


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_san_scores_agree_and_share_the_gradient_out(classes: int | None) -> None:
    """With w = scale * omega: d fun = omega d(scale h), d dir = scale h d omega, and together they are d f."""
    head = SanHead(WIDTH, classes).to(torch.float64)
    h = features()
    parameters = [h, *head.parameters()]
    scores = head(h, LABELS)
    fun, direction = head(h, LABELS, split=True)
    torch.testing.assert_close(fun, scores)
    torch.testing.assert_close(direction, scores)
    upstream = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    total = torch.autograd.grad(scores, parameters, upstream, retain_graph=True)
    of_fun = torch.autograd.grad(fun, parameters, upstream, retain_graph=True)
    of_dir = torch.autograd.grad(direction, parameters, upstream, materialize_grads=True)
    torch.testing.assert_close([a + b for a, b in zip(of_fun, of_dir, strict=True)], list(total))


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_fun_trains_features_and_dir_trains_the_direction(classes: int | None) -> None:
    head = SanHead(WIDTH, classes).to(torch.float64)
    h = features()[:1]
    scores = head(h, LABELS[:1], split=True)
    assert isinstance(scores, SanScores)
    weight = head.score.weight if head.embed is None else head.score.weight + head.embed.weight[LABELS[:1]]
    direction, length = weight[0] / weight.norm(), weight.norm()
    h_fun, w_fun = torch.autograd.grad(scores.fun, [h, head.score.weight], retain_graph=True)
    h_dir, w_dir = torch.autograd.grad(scores.dir, [h, head.score.weight], materialize_grads=True)
    torch.testing.assert_close(h_fun[0], length * direction)
    torch.testing.assert_close(w_fun[0], (h[0] @ direction) * direction)  # radial: only the length
    assert h_dir.abs().max() == 0
    torch.testing.assert_close(w_dir[0], h[0] - (h[0] @ direction) * direction)  # tangential: only the direction
    assert w_dir.abs().max() > 0.1
