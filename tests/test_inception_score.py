"""Inception scores against torchmetrics, scipy's relative entropy and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore as TorchmetricsInceptionScore

from sgan.metrics import inception_score, modified_inception_score


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("splits", [1, 5])
@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save:UserWarning")
def test_inception_score_agrees_with_torchmetrics(splits: int) -> None:
    scores = logits(60, 7)
    theirs = TorchmetricsInceptionScore(feature=nn.Identity(), splits=splits)
    theirs.update(scores)
    torch.manual_seed(3)
    order = torch.randperm(60)  # torchmetrics shuffles before it splits
    torch.manual_seed(3)
    if splits == 1:
        with pytest.warns(UserWarning, match="degrees of freedom"):
            mean, _ = theirs.compute()
        assert inception_score(scores) == pytest.approx((float(mean), 0), rel=1e-12)
    else:
        mean, std = theirs.compute()
        got = inception_score(scores[order], splits=splits)
        assert got.mean == pytest.approx(float(mean), rel=1e-12)
        assert got.std == pytest.approx(float(std) * math.sqrt((splits - 1) / splits), rel=1e-9)  # population's


def test_inception_score_of_certain_and_of_equal_predictions() -> None:
    certain = 1000 * torch.eye(6).repeat(4, 1)
    assert inception_score(certain) == pytest.approx((6, 0), abs=1e-12)
    assert inception_score(certain[:6], splits=6) == pytest.approx((1, 0), abs=1e-12)
    assert inception_score(logits(1, 6).expand(9, 6)) == pytest.approx((1, 0), abs=1e-12)
    two_of_six = certain[[0, 1]]
    assert inception_score(two_of_six).mean == pytest.approx(2)  # four classes have p(y) = 0 after rounding


def brute_force(scores: Tensor, splits: int) -> dict[int, tuple[int, float, float, float]]:
    """Loops over pairs: KL(p_i || p_j), x_j any image of the predicted class of x_i."""
    p = scipy.special.softmax(scores.numpy(), axis=1)
    rows = {}
    for label in sorted(set(p.argmax(1).tolist())):
        own = p[p.argmax(1) == label]
        divergence = np.array([np.mean([scipy.special.rel_entr(a, b).sum() for b in own]) for a in own])
        parts = min(splits, len(own))
        cuts = [len(own) * i // parts for i in range(parts + 1)]
        over_parts = [np.exp(divergence[a:b].mean()) for a, b in pairwise(cuts)]
        rows[label] = (len(own), np.exp(divergence.mean()), np.mean(over_parts), np.std(over_parts))
    return rows


@pytest.mark.parametrize("splits", [1, 3, 10])
def test_modified_inception_score_by_hand(splits: int) -> None:
    scores = logits(70, 4, seed=1)
    expected = brute_force(scores, splits)
    got = modified_inception_score(scores, splits=splits)
    assert {row.label: pytest.approx(tuple(row[1:]), rel=1e-10) for row in got.classes} == expected
    overall = [row[1] for row in expected.values()]
    assert (got.mean, got.std) == pytest.approx((np.mean(overall), np.std(overall)), rel=1e-10)


def test_modified_inception_score_has_a_closed_form_for_two_predictions() -> None:
    # p and q in equal parts of one class: E_i E_j KL = (KL(p || q) + KL(q || p)) / 4.
    pair = torch.tensor([[2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    p, q = pair.softmax(1)
    jeffreys = float(((p - q) * (p.log() - q.log())).sum())
    got = modified_inception_score(pair.repeat(8, 1), splits=4)
    assert got.mean == pytest.approx(math.exp(jeffreys / 4), rel=1e-12)
    assert got.std == 0
    assert got.classes[0].std == pytest.approx(0, abs=1e-12)


def test_one_prediction_per_class_has_no_diversity() -> None:
    got = modified_inception_score(5 * torch.eye(3).repeat(4, 1))
    assert (got.mean, got.std) == pytest.approx((1, 0), abs=1e-12)
    assert [(row.label, row.images) for row in got.classes] == [(0, 4), (1, 4), (2, 4)]


def test_the_table_names_only_predicted_classes() -> None:
    scores = torch.tensor([[4.0, 0, 0], [3.0, 0, 0], [0.0, 0, 2]])
    lines = modified_inception_score(scores).table(["left", "middle", "right"]).splitlines()
    assert lines[0] == "class  images  m-IS over splits"
    assert [line.split()[:2] for line in lines[1:]] == [["left", "2"], ["right", "1"], ["mean", "3"]]
    assert lines[2].endswith("1.000 +- 0.000")


@pytest.mark.parametrize("scores", [torch.zeros(3), torch.zeros(0, 3), torch.full((3, 2), math.nan)])
def test_bad_logits(scores: Tensor) -> None:
    with pytest.raises(ValueError, match="inception_score: logits must be"):
        inception_score(scores)
    with pytest.raises(ValueError, match="modified_inception_score: logits must be"):
        modified_inception_score(scores)


def test_bad_splits() -> None:
    with pytest.raises(ValueError, match=r"N >= splits = 5 >= 1, got \(4, 2\)"):
        inception_score(logits(4, 2), splits=5)
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        modified_inception_score(logits(4, 2), splits=0)
