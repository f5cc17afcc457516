"""What samples can be: labelled images, points of the plane, or images made from images. `KINDS` has a row of each.

A row says what the players are conditioned on, how samples are measured and how they are drawn. All else is the same
for every kind: the trainer's step, the run folder, the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sgan.architectures import DISCRIMINATORS, GENERATORS
from sgan.config import Options
from sgan.data import Dataset, ImageSet
from sgan.grids import class_rows, first_of_each, save_grid
from sgan.metrics import Evaluator, Measurement, PairEvaluator, PointEvaluator, choose_features
from sgan.scatter import POINTS_SHOWN, save_scatter

__all__ = ["GRID_COLUMNS", "KINDS", "Kind", "Measures", "Picture", "blind_players", "kind_of", "sees_labels"]

GRID_COLUMNS = 10
PAIRS_SHOWN = 4


class Measures(Protocol):
    """What every evaluator does; `sgan.metrics.Evaluator` says how."""

    num_fakes: int

    def measure(self, generate: Callable[[Tensor], Tensor]) -> Measurement: ...
    def measure_floor(self) -> Measurement: ...
    def describe(self) -> dict[str, object]: ...
    def describe_floor(self) -> dict[str, object]: ...


class Picture(NamedTuple):
    """The picture that a run draws at every tick.

    condition: what its samples are made from. real: real samples in their place. draw: writes samples to a PNG file.
    """

    condition: Tensor
    real: Tensor
    draw: Callable[[Tensor, Path], None]


@dataclass(frozen=True)
class Kind:
    """One kind of samples.

    Attributes:
        data: what a data set of this kind is called.
        fits: whether a data set is one.
        condition: what both players are given beside latents and samples, of the set's samples at these indices.
        evaluator: (data set, feature network or None to let the data choose, device) to the metrics.
        picture: of a data set, and whether the generator sees its labels.
        fixed: options that mean nothing to the networks of this kind, and the values that they must keep.
    """

    data: str
    fits: Callable[[Dataset], bool]
    condition: Callable[[ImageSet, Tensor], Tensor]
    evaluator: Callable[[Dataset, str | None, str], Measures]
    picture: Callable[[Dataset, bool], Picture]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def check(self, options: Options, dataset: Dataset) -> None:
        """Refuse a data set of another kind, and options that mean nothing to this one.

        Raises:
            ValueError: either of these.
        """
        if not self.fits(dataset):
            raise ValueError(f"train: data must be {self.data} for generator {options.generator}, got {dataset.name}")
        for name, value in self.fixed.items():
            if getattr(options, name) != value:
                raise ValueError(
                    f"train: {name} must be {value} for generator {options.generator}, got {getattr(options, name)}"
                )


def kind_of(options: Options) -> Kind:
    """The kind of samples that the options' networks make and take.

    Raises:
        ValueError: the discriminator takes others than the generator makes.
    """
    kind = GENERATORS[options.generator].kind
    if DISCRIMINATORS[options.discriminator].kind != kind:
        raise ValueError(
            f"train: discriminator must take {kind}, as generator {options.generator} makes, "
            f"got {options.discriminator}"
        )
    return KINDS[kind]


def _labels(part: ImageSet, indices: Tensor) -> Tensor:
    return part.labels[indices]


def _sources(part: ImageSet, indices: Tensor) -> Tensor:
    return part.paired_batch(indices)


def sees_labels(options: Options, num_classes: int) -> bool:
    """Whether the generator is told the class of a sample: of several, and if its row asks for it."""
    return GENERATORS[options.generator].conditional and num_classes > 1


def blind_players(options: Options) -> list[str]:
    """The players whose networks see no labels, as their rows are."""
    rows = {"generator": GENERATORS[options.generator], "discriminator": DISCRIMINATORS[options.discriminator]}
    return [player for player, row in rows.items() if not row.conditional]


def _grid(dataset: Dataset, by_class: bool) -> Picture:
    """One class per row, with its name; of a generator without labels a square of samples, and as many real images."""
    if not by_class:
        count = min(GRID_COLUMNS**2, len(dataset.train))
        spread = torch.arange(count) * len(dataset.train) // count  # over the files' order, which may be by class
        condition = torch.zeros(GRID_COLUMNS**2, dtype=torch.int64)
        return Picture(condition, dataset.train.batch(spread), partial(save_grid, columns=GRID_COLUMNS))
    first = first_of_each(dataset.train.labels, dataset.num_classes, GRID_COLUMNS)
    condition = class_rows(dataset.num_classes, GRID_COLUMNS)
    draw = partial(save_grid, columns=GRID_COLUMNS, row_names=dataset.class_names)
    return Picture(condition, dataset.train.batch(first), draw)


def _scatter(dataset: Dataset, by_class: bool) -> Picture:
    """Samples, or held-out points in their place, over training points in grey."""
    condition = torch.zeros(POINTS_SHOWN, dtype=torch.int64)
    behind = dataset.train.batch(slice(POINTS_SHOWN))
    return Picture(condition, dataset.test.batch(slice(POINTS_SHOWN)), partial(save_scatter, behind=behind))


def _translations(dataset: Dataset, by_class: bool) -> Picture:
    """A held-out pair per row: source, sample, target."""
    sources, targets = dataset.test.paired_batch(slice(PAIRS_SHOWN)), dataset.test.batch(slice(PAIRS_SHOWN))

    def draw(samples: Tensor, path: Path) -> None:
        save_grid(torch.stack([sources, samples.cpu(), targets], dim=1).flatten(0, 1), path, columns=3)

    return Picture(sources, targets, draw)


KINDS: dict[str, Kind] = {
    "images": Kind(
        data="images",
        fits=lambda dataset: dataset.law is None,
        condition=_labels,
        evaluator=lambda dataset, features, device: Evaluator(
            dataset, features or choose_features(dataset), device=device
        ),
        picture=_grid,
        fixed={"l1_weight": 0.0},
    ),
    "points": Kind(
        data="points",
        fits=lambda dataset: dataset.law is not None,
        condition=_labels,
        evaluator=lambda dataset, features, device: PointEvaluator(dataset),
        picture=_scatter,
        fixed={"l1_weight": 0.0, "projected": False, "faithful": False, "label_dim": None},
    ),
    "pairs": Kind(
        data="pairs of images",
        fits=lambda dataset: dataset.train.paired is not None,
        condition=_sources,
        evaluator=lambda dataset, features, device: PairEvaluator(
            dataset, features or choose_features(dataset), device=device
        ),
        picture=_translations,
        fixed={
            "augment": "C1",
            "components": 1,
            "head": "score",
            "latent_dim": None,
            "label_dim": None,
            "latent_weight": 0.0,
            "projected": False,
            "faithful": False,
            "score_bias": None,
        },
    ),
}
