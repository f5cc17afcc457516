"""What a metric must not be fooled by: the mix of classes, copies, few images, images that are all one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sgan.data import Dataset, DataWarning, ImageSet, load_dataset
from sgan.metrics import Evaluator, Memorisation, frechet_distance, kernel_distance, precision_recall
from sgan.metrics.evaluator import BATCH
from sgan.metrics.memorised import thumbnails

COUNTS = (170, 60, 12)


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The digits 0, 1 and 2, 170 : 60 : 12."""
    digits = load_dataset("digits")
    images = torch.cat([digits.train.images, digits.test.images])
    labels = torch.cat([digits.train.labels, digits.test.labels])
    rows = torch.cat([(labels == label).nonzero().flatten()[:count] for label, count in enumerate(COUNTS)])
    path = tmp_path_factory.mktemp("data") / "three.npz"
    np.savez(path, x=images[rows, 0].numpy(), y=labels[rows].numpy())
    return load_dataset(path)


def perfect(images: ImageSet, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """The law of the images given the class: a random image of the class asked for."""
    rng = torch.Generator().manual_seed(seed)
    members = [(images.labels == label).nonzero().flatten() for label in range(int(images.labels.max()) + 1)]

    def generate(labels: Tensor) -> Tensor:
        chosen = [members[label][torch.randint(len(members[label]), (1,), generator=rng)] for label in labels.tolist()]
        return images.batch(torch.cat(chosen))

    return generate


def in_turn(images: Tensor) -> Callable[[Tensor], Tensor]:
    """A generator that hands out these images whatever it is asked for."""
    batches: Iterator[Tensor] = iter(images.split(BATCH))
    return lambda labels: next(batches)


def file_of(path: Path, images: np.ndarray, classes: int = 1) -> Dataset:
    np.savez(path, x=images, y=np.arange(len(images)) % classes)
    return load_dataset(path)


# The mix of classes


def test_a_perfect_generator_of_unbalanced_classes_is_at_the_floor(unbalanced: Dataset) -> None:
    evaluator = Evaluator(unbalanced)
    values, floor = evaluator.evaluate(perfect(unbalanced.reference)), evaluator.floor()
    assert values["fid_digits"] < floor["fid_digits"]  # whose images are a quarter as many
    assert values["coverage_digits"] > 0.9
    assert abs(values["kid_digits"]) < 0.1


@pytest.mark.parametrize("num_fakes", [None, 5, 20, 100, 500])
def test_labels_have_the_proportions_of_the_reference(unbalanced: Dataset, num_fakes: int | None) -> None:
    asked: list[Tensor] = []

    def generate(labels: Tensor) -> Tensor:
        asked.append(labels)
        return torch.zeros(len(labels), 1, 28, 28)

    evaluator = Evaluator(unbalanced, num_fakes=num_fakes)
    evaluator.evaluate(generate)
    labels, shares = torch.cat(asked), unbalanced.reference.labels.bincount() / len(unbalanced.reference)
    assert len(labels) == evaluator.num_fakes
    assert ((labels.bincount(minlength=3) - len(labels) * shares).abs() < 1).all()
    if num_fakes is None:
        assert torch.equal(labels.bincount(), unbalanced.reference.labels.bincount())
    assert (labels[:-1] != labels[1:]).any()  # not class by class: a part of the fakes has the mix as well


def test_every_class_has_values_of_its_own(unbalanced: Dataset) -> None:
    """A generator that fails one class: seen there and nowhere else."""
    reference = unbalanced.reference
    good = perfect(reference)

    def fails_at_1(labels: Tensor) -> Tensor:
        return torch.where((labels == 1).view(-1, 1, 1, 1), torch.zeros(()), good(labels))

    measured = Evaluator(unbalanced).measure(fails_at_1).per_class
    assert list(measured) == list(unbalanced.class_names)
    zero, one, two = measured.values()
    assert [values["n_real"] for values in measured.values()] == reference.labels.bincount().tolist()
    assert [values["n_fake"] for values in measured.values()] == reference.labels.bincount().tolist()
    assert one["precision"] == 0
    assert min(zero["precision"], two["precision"]) > 0.9
    assert one["fid"] > 20 * zero["fid"]
    assert one["kid"] > 20 * abs(zero["kid"])


def test_values_of_a_class_are_those_of_its_images_alone(unbalanced: Dataset) -> None:
    evaluator = Evaluator(unbalanced)
    measured = evaluator.measure_floor().per_class[unbalanced.class_names[0]]
    real, held_out = (
        evaluator._extract(part.select(part.labels == 0).batch(slice(None)))
        for part in (unbalanced.reference, unbalanced.test)
    )
    assert measured["fid"] == pytest.approx(frechet_distance(real, held_out), rel=1e-4)
    assert measured["recall"] == precision_recall(real, held_out).recall


def test_a_class_of_few_images_has_its_numbers_alone(unbalanced: Dataset) -> None:
    measured = Evaluator(unbalanced).measure_floor().per_class
    assert measured[unbalanced.class_names[2]].keys() == {"n_real", "n_fake"}
    assert measured[unbalanced.class_names[2]]["n_fake"] <= 3


# Copies


def test_a_memoriser_is_unmasked() -> None:
    """It returns its training images: as near to them as can be, and no nearer to held-out ones than real ones are."""
    dataset = load_dataset("digits-rotated")
    evaluator = Evaluator(dataset)
    floor = evaluator.floor()
    assert floor["memorised_pixels"] == pytest.approx(0.05, abs=0.002)
    assert floor["fid_test_digits"] == pytest.approx(floor["fid_digits"])
    copies = evaluator.evaluate(in_turn(dataset.train.batch(slice(None))))
    assert copies["fid_digits"] < 1e-9
    assert copies["memorised_pixels"] == 1
    assert copies["fid_test_digits"] == pytest.approx(floor["fid_test_digits"])
    others = evaluator.evaluate(in_turn(load_dataset("digits-rotated", seed=1).train.batch(slice(None))))
    assert others["memorised_pixels"] < 0.2
    assert others["fid_test_digits"] < 1.5 * floor["fid_test_digits"]


def test_memorised_is_the_share_of_copies() -> None:
    digits = load_dataset("digits")
    memorisation = Memorisation(digits.train, digits.test)
    assert memorisation.floor == pytest.approx(18 / 359)
    held_out = digits.test.batch(slice(100))
    copies = digits.train.batch(slice(100)) + 0.001
    for count in (0, 30, 100):
        mixed = memorisation.share(thumbnails(torch.cat([copies[:count], held_out[count:]])))
        assert count / 100 <= mixed <= count / 100 + 0.1
    half = digits.train.select(slice(0, 700))
    assert Memorisation(half, digits.test).share(thumbnails(digits.train.batch(slice(700, None)))) < 0.15


def test_distances_to_training_images_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgan.metrics.memorised.CHUNK", 7)
    images = torch.randint(0, 256, (30, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    train, held_out = ImageSet(images[:20], torch.zeros(20).long()), ImageSet(images[20:], torch.zeros(10).long())
    x, y = thumbnails(held_out.batch(slice(None))), thumbnails(train.batch(slice(None)))
    assert x.shape == (10, 3 * 16 * 16)
    nearest = torch.stack([(y - one).square().sum(1).min() for one in x])
    memorisation = Memorisation(train, held_out)
    assert memorisation.threshold == pytest.approx(float(nearest.min()), rel=1e-5)
    assert memorisation.floor == 0.1  # one of ten is the smallest share of at least 5 %
    assert memorisation.share(x) == 0.1
    assert memorisation.share(y) == 1


def test_duplicates_in_both_parts_do_not_hide_copies() -> None:
    digits = load_dataset("digits")
    both = torch.cat([digits.test.images[:300], digits.train.images[:50]])
    held_out = ImageSet(both, torch.zeros(350).long())
    memorisation = Memorisation(digits.train, held_out)
    assert memorisation.floor == pytest.approx(50 / 350)  # what the held-out images themselves get is said
    assert memorisation.share(thumbnails(digits.train.batch(slice(500)) + 0.001)) == 1
    assert memorisation.share(thumbnails(digits.test.batch(slice(300, None)))) == 0


def test_the_subset_trained_on_is_what_can_be_copied() -> None:
    dataset = load_dataset("digits", subset=0.1)
    evaluator = Evaluator(dataset)
    assert evaluator.describe()["n_train_searched"] == len(dataset.train)
    rows = torch.arange(1438) % len(dataset.train)
    assert evaluator.evaluate(in_turn(dataset.train.batch(rows)))["memorised_pixels"] == 1
    assert evaluator.evaluate(in_turn(dataset.reference.batch(slice(None))))["memorised_pixels"] < 0.3


# Few images, and images that are all one


@pytest.mark.parametrize("count", [18, 20, 25])
def test_few_images_have_values(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    dataset = file_of(tmp_path / "few.npz", rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8))
    evaluator = Evaluator(dataset)
    for values in (evaluator.floor(), evaluator.evaluate(in_turn(dataset.train.batch(slice(None))))):
        assert all(np.isfinite(value) for value in values.values())
    assert values["fid_digits"] < 1e-6
    assert (values["precision_digits"], values["recall_digits"], values["memorised_pixels"]) == (1, 1, 1)


@pytest.mark.parametrize("count", [5, 10, 17])
def test_too_few_images_are_refused_in_words_of_the_data(tmp_path: Path, count: int) -> None:
    dataset = file_of(tmp_path / "few.npz", np.random.default_rng(0).integers(0, 256, (count, 12, 12), dtype=np.uint8))
    held_out = round(count / 5)
    expected = f"few.npz must have .* got {count - held_out} to train on and {held_out} held out.* 18 images or more"
    with pytest.raises(ValueError, match=expected):
        Evaluator(dataset)


def test_images_that_are_all_one_are_equal_to_each_other(tmp_path: Path) -> None:
    """In any batch: 120 real ones, 30 held-out ones, and fakes in batches of another size."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 28, 28), dtype=np.uint8).repeat(150, 0)
    with pytest.warns(DataWarning, match="30 of 30 held-out images are among the training images"):
        dataset = file_of(tmp_path / "same.npz", pixels, classes=2)
    evaluator = Evaluator(dataset, num_fakes=260)
    same = evaluator.evaluate(lambda labels: dataset.train.batch(slice(1)).expand(len(labels), 1, 28, 28))
    for values in (same, evaluator.floor()):
        assert values["fid_digits"] < 1e-9
        assert values["fid_test_digits"] < 1e-9
        assert abs(values["kid_digits"]) < 1e-4
        assert (values["precision_digits"], values["recall_digits"], values["coverage_digits"]) == (1, 1, 1)
        assert values["density_digits"] == 120 / 3  # every real ball, of radius 0, holds every fake
        assert (values["is_digits"], values["mis_digits"]) == pytest.approx((1, 1))
        assert values["memorised_pixels"] == 1
    black = evaluator.evaluate(lambda labels: torch.full((len(labels), 1, 28, 28), -1.0))
    assert (black["precision_digits"], black["recall_digits"], black["memorised_pixels"]) == (0, 0, 0)
    mean, other = (evaluator._extract(x) for x in (dataset.train.batch(slice(1)), torch.full((1, 1, 28, 28), -1.0)))
    assert black["fid_digits"] == pytest.approx(float((mean - other).square().sum()), rel=1e-4)


def test_fewer_images_than_features_have_the_distance_of_their_moments() -> None:
    """10 of one side, 100 of the other, in 64 dimensions: against the definition through S1 S2."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 64, generator=rng).double(), 0.5 * torch.randn(100, 64, generator=rng).double() + 0.1
    eigenvalues = torch.linalg.eigvals(torch.cov(x.T) @ torch.cov(y.T)).real.clamp(min=0)
    root = eigenvalues[eigenvalues > 1e-12].sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * root
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(y, x) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(x, x) < 1e-9


def test_copies_are_ties_in_float32_too() -> None:
    """Float32 features of one image differ by their rounding from batch to batch; the fourth ball holds the copy."""
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(200, 64, generator=rng)
    copies = real * (1 + 1e-7 * torch.randn(200, 64, generator=rng))
    values = precision_recall(real, copies)
    assert values[:2] == (1, 1)
    assert values.density == pytest.approx(4 / 3)
    assert values.coverage == 1
    assert kernel_distance(real, copies).mean < 1e-3


def test_the_values_say_how_they_were_measured(unbalanced: Dataset) -> None:
    facts = Evaluator(unbalanced).describe()
    assert (facts["n_real"], facts["n_fake"], facts["n_test"], facts["n_test_sources"]) == (194, 194, 48, 48)
    assert "proportions" in str(facts["conditions"])
    assert "nearer to a training image than 95% of the held-out ones" in str(facts["memorised"])
    one_class = replace(unbalanced, class_names=("all",))
    assert Evaluator(one_class).measure_floor().per_class == {}
