"""Inception score and DeLiGAN's modified one, from the class scores of any classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class InceptionScore(NamedTuple):
    """Mean and population standard deviation over the splits; higher is better, from 1 to the number of classes."""

    mean: float
    std: float


class ClassScore(NamedTuple):
    """One row of the modified inception score's table.

    label: the predicted class. images: how many. score: of all of them. mean, std: over the splits (population).
    """

    label: int
    images: int
    score: float
    mean: float
    std: float


@dataclass(frozen=True)
class ModifiedInceptionScore:
    """Higher is better, at least 1; 1 means that all images of a predicted class have one p(y|x).

    Attributes:
        mean, std: of the classes' scores; std is the population's.
        classes: one row per predicted class; a class that no image is predicted to belong to has none.
    """

    mean: float
    std: float
    classes: tuple[ClassScore, ...]

    def table(self, class_names: Sequence[str] | None = None) -> str:
        """Return the rows as text, one line per class and one for the mean; class_names: one per label."""
        names = [str(row.label) if class_names is None else class_names[row.label] for row in self.classes]
        width = max(map(len, [*names, "class", "mean"]))
        lines = [f"{'class':<{width}}  images  m-IS over splits"]
        lines += [
            f"{name:<{width}}  {row.images:>6}  {row.mean:.3f} +- {row.std:.3f}"
            for name, row in zip(names, self.classes, strict=True)
        ]
        total = sum(row.images for row in self.classes)
        return "\n".join([*lines, f"{'mean':<{width}}  {total:>6}  {self.mean:.3f} +- {self.std:.3f}"])


def inception_score(logits: Tensor, *, splits: int = 1) -> InceptionScore:
    """IS = exp(E_x KL(p(y|x) || p(y))), p(y) = E_x p(y|x) (Salimans et al. 2016, arXiv 1606.03498, section 4).

    Args:
        logits: (N, C) class scores, N >= splits; p(y|x) is their softmax.
        splits: the images are cut, in the given order, into so many parts of N / splits images, and every part has a
            score. The score grows with the images per part: compare equal numbers only.

    Returns:
        Mean and standard deviation over the parts, computed in float64 on the CPU.

    Raises:
        ValueError: another shape, too few rows, or a value that is not finite.
    """
    log_p = _log_probabilities("inception_score", logits, splits)
    scores = []
    for part in _parts(log_p, splits):
        log_marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - log_marginal)).sum(1).mean().exp())
    return InceptionScore(*_mean_and_std(torch.stack(scores)))


def modified_inception_score(logits: Tensor, *, splits: int = 10) -> ModifiedInceptionScore:
    """m-IS = exp(E_i E_j KL(p(y|x_i) || p(y|x_j))), x_j of x_i's predicted class (arXiv 1706.02071, section 4).

    As in the authors' code, j runs over all images of the class, i included; a row's mean and std are over `splits`
    parts of the class's images i; and mean and std of the result are over the classes, each with all its images.

    Args:
        logits: (N, C) class scores, N >= 1; p(y|x) is their softmax, and the largest is the predicted class.
        splits: parts of every class; a class of fewer images has one part per image.

    Returns:
        The scores, computed in float64 on the CPU. E_j KL(p_i || p_j) = <p_i, log p_i - E_j log p_j>: N C operations.

    Raises:
        ValueError: another shape, no row, or a value that is not finite.
    """
    log_p = _log_probabilities("modified_inception_score", logits, 1)
    if splits < 1:
        raise ValueError(f"modified_inception_score: splits must be at least 1, got {splits}")
    rows = []
    for label, members in _members(logits.detach().cpu().argmax(1)):
        own = log_p[members]
        divergence = (own.exp() * (own - own.mean(0))).sum(1)
        parts = torch.stack([part.mean().exp() for part in _parts(divergence, min(splits, len(own)))])
        rows.append(ClassScore(label, len(own), float(divergence.mean().exp()), *_mean_and_std(parts)))
    overall = torch.tensor([row.score for row in rows], dtype=torch.float64)
    return ModifiedInceptionScore(*_mean_and_std(overall), tuple(rows))


def _log_probabilities(op: str, logits: Tensor, splits: int) -> Tensor:
    if splits < 1 or logits.ndim != 2 or len(logits) < splits or logits.shape[1] == 0:
        raise ValueError(f"{op}: logits must be (N, C) with N >= splits = {splits} >= 1, got {tuple(logits.shape)}")
    if not logits.isfinite().all():
        raise ValueError(f"{op}: logits must be finite, got NaN or infinity")
    return logits.detach().cpu().to(torch.float64).log_softmax(1)


def _members(predicted: Tensor) -> list[tuple[int, Tensor]]:
    return [(label, (predicted == label).nonzero().flatten()) for label in predicted.unique().tolist()]


def _parts(x: Tensor, splits: int) -> list[Tensor]:
    return [x[i * len(x) // splits : (i + 1) * len(x) // splits] for i in range(splits)]


def _mean_and_std(x: Tensor) -> tuple[float, float]:
    return float(x.mean()), float(x.std(unbiased=False))
