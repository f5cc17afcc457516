"""Data sets of points: what is drawn, what depends on the seed, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.stats import energy_distance
from torch import Tensor

from sgan.data import TOY2D, PointSet, load_dataset
from sgan.data.toy2d import Mixture2d
from sgan.metrics import PointEvaluator


@pytest.mark.parametrize("name", TOY2D)
def test_every_law_is_a_data_set(name: str) -> None:
    dataset = load_dataset(name, seed=1)
    assert dataset.name == name
    assert dataset.law == TOY2D[name]
    assert isinstance(dataset.train, PointSet)
    assert (dataset.channels, dataset.resolution, dataset.class_names) == (2, 1, ("point",))
    assert len(dataset.train) == (400 if name.startswith("deligan") else 2000)
    batch = dataset.train.batch(torch.tensor([3, 0]))
    assert torch.equal(batch, dataset.train.images[[3, 0]])
    assert batch.dtype == torch.float32
    assert dataset.train.labels.count_nonzero() == 0
    assert isinstance(dataset.test.to("cpu").select(slice(3)), PointSet)


def test_the_seed_draws_the_training_points_and_not_the_held_out_ones() -> None:
    first, again, other = (load_dataset("toy-c4", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert torch.equal(first.test.images, other.test.images)
    assert first.built["train_sha256"] != other.built["train_sha256"]


def test_both_clusters_of_deligan_have_200_points() -> None:
    points = load_dataset("deligan-bimodal").train.images
    assert (points.sum(1) > 0).sum() == 200


def test_a_subset_of_points() -> None:
    small, whole = load_dataset("toy-c4", subset=0.1), load_dataset("toy-c4")
    assert (len(small.train), len(small.reference)) == (200, 2000)
    assert (small.train.images[:, None] == whole.train.images).all(2).any(1).all()


def test_points_have_no_resolution_and_are_not_turned() -> None:
    with pytest.raises(ValueError, match="resolution must be None for points, got 28"):
        load_dataset("toy-c4", resolution=28)
    with pytest.raises(ValueError, match="no such file or folder"):
        load_dataset("rotated:toy-c4")


def of_law(law: Mixture2d) -> Callable[[Tensor], Tensor]:
    return lambda labels: law.sample(len(labels), seed=5)


@pytest.fixture(scope="module")
def evaluator() -> PointEvaluator:
    return PointEvaluator(load_dataset("toy-c4"))


def test_the_law_itself_gets_the_floor(evaluator: PointEvaluator) -> None:
    results, floor = evaluator.evaluate(of_law(TOY2D["toy-c4"])), evaluator.floor()
    assert results.keys() == floor.keys()
    assert results.keys() == {"energy_points", "precision_points", "recall_points", "symmetry_p_points"}
    for values in (results, floor):
        assert 0 < values["energy_points"] < 0.01
        assert values["precision_points"] == pytest.approx(0.95, abs=0.02)
        assert values["recall_points"] > 0.95
        assert values["symmetry_p_points"] > 0.05


def test_a_law_that_misses_modes_is_seen_by_every_metric(evaluator: PointEvaluator) -> None:
    law = TOY2D["toy-c4"]
    results = evaluator.evaluate(of_law(Mixture2d(law.centres[:2], law.scale)))
    assert results["energy_points"] > 100 * evaluator.floor()["energy_points"]
    assert results["recall_points"] == pytest.approx(0.5, abs=0.01)
    assert results["precision_points"] > 0.93
    assert results["symmetry_p_points"] == pytest.approx(3 / 201)


def test_a_symmetric_law_that_is_the_wrong_one_keeps_its_p_value(evaluator: PointEvaluator) -> None:
    results = evaluator.evaluate(of_law(Mixture2d(((0.0, 0.0),), 1.0)))
    assert results["symmetry_p_points"] > 0.05
    assert results["precision_points"] < 0.6
    assert results["energy_points"] > 10 * evaluator.floor()["energy_points"]


def test_the_energy_distance_is_scipys_on_a_line() -> None:
    """With all points on one axis the plane's distance is the line's, which scipy has (as its square root)."""
    dataset = load_dataset("toy-c4")
    on_axis = dataset.test.images * torch.tensor([1.0, 0.0])
    flat = replace(dataset, test=replace(dataset.test, images=on_axis))
    fakes = torch.stack([torch.linspace(-1, 2, 2000), torch.zeros(2000)], dim=1)
    value = PointEvaluator(flat).evaluate(lambda labels: fakes)["energy_points"]
    assert value == pytest.approx(energy_distance(fakes[:, 0], on_axis[:2000, 0]) ** 2, rel=1e-6)


def test_values_carry_what_they_were_measured_on(evaluator: PointEvaluator) -> None:
    facts = {"n_real": 2000, "symmetry_group": "C4", "features_sha256": "none"}
    assert evaluator.describe().items() >= {**facts, "n_fake": 2000}.items()
    assert evaluator.describe_floor().items() >= {**facts, "n_floor": 2000, "n_floor_sources": 2000}.items()


def test_bad_generators_are_refused(evaluator: PointEvaluator) -> None:
    with pytest.raises(ValueError, match=r"must return points \(2000, 2\), got \(2000, 3\)"):
        evaluator.evaluate(lambda labels: torch.zeros(len(labels), 3))
    with pytest.raises(FloatingPointError, match="must return finite points"):
        evaluator.evaluate(lambda labels: torch.full((len(labels), 2), torch.nan))
    with pytest.raises(ValueError, match="must be drawn from a known law, got digits"):
        PointEvaluator(load_dataset("digits"))
