"""Metrics against closed forms, other implementations and brute force."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import prdc
import pytest
import scipy.linalg
import torch
from torch import Tensor

from sgan.data import DIGITS, Dataset, ImageSet, load_dataset
from sgan.metrics import (
    Evaluator,
    FeatureExtractor,
    frechet_distance,
    load_features,
    precision_recall,
    symmetry_tests,
    two_sample_test,
)
from sgan.metrics.features import to_grey_28
from sgan.metrics.frechet import gaussian_frechet_distance
from sgan.metrics.train_features import accuracy, augment, train


@pytest.fixture(scope="module")
def rotated() -> Dataset:
    return load_dataset("digits-rotated")


@pytest.fixture(scope="module")
def evaluator(rotated: Dataset) -> Evaluator:
    return Evaluator(rotated)


@pytest.fixture(scope="module")
def features() -> FeatureExtractor:
    return load_features()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def replay(images: ImageSet) -> Callable[[Tensor], Tensor]:
    """A generator that hands out the images of each class in turn."""
    members = [(images.labels == label).nonzero().flatten() for label in range(10)]
    used = [0] * 10

    def generate(labels: Tensor) -> Tensor:
        chosen = []
        for label in labels.tolist():
            chosen.append(members[label][used[label] % len(members[label])])
            used[label] += 1
        return images.batch(torch.stack(chosen))

    return generate


# Frechet distance


def test_frechet_agrees_with_scipy() -> None:
    mixing = normal(16, 16, seed=1)
    x, y = normal(100, 16) @ mixing, normal(80, 16, seed=2) + 0.3
    a, b = x.double().numpy(), y.double().numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_gaussians_has_a_closed_form() -> None:
    basis = torch.linalg.qr(normal(8, 8).double()).Q
    a, b = torch.linspace(0, 2, 8).double(), torch.linspace(3, 0, 8).double()  # commuting, both singular
    mean = torch.arange(8.0).double()
    got = gaussian_frechet_distance(mean, basis * a @ basis.T, 2 * mean, basis * b @ basis.T)
    assert got == pytest.approx(float(mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()), rel=1e-6)


def test_frechet_of_shifted_and_scaled_sets() -> None:
    x = normal(50, 6)
    variance = float(x.double().var(0, unbiased=True).sum())
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 3) == pytest.approx(6 * 9, rel=1e-6)
    centred = x.double() - x.double().mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * variance, rel=1e-9)


def test_frechet_of_singular_covariances() -> None:
    x, y = normal(5, 64), torch.ones(5, 64)
    expected = float((x.double().mean(0) - 1).square().sum() + x.double().var(0).sum())
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, y) == 0
    assert frechet_distance(x, x) < 1e-9


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), r"real_features must be \(N, D\) with N >= 2, got \(1, 4\)"),
        (torch.zeros(5, 4), torch.zeros(5), r"fake_features must be \(N, D\)"),
        (torch.zeros(5, 4), torch.zeros(5, 3), "one feature dimension D, got 4 and 3"),
        (torch.zeros(5, 4), torch.full((5, 4), math.nan), "fake_features must be finite"),
    ],
)
def test_frechet_of_bad_features(real: Tensor, fake: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"frechet_distance: .*{message}"):
        frechet_distance(real, fake)


# Precision and recall


@pytest.mark.parametrize(("n", "m", "dim", "k"), [(200, 150, 8, 3), (90, 120, 64, 5), (40, 300, 2, 1)])
def test_precision_recall_agrees_with_prdc(n: int, m: int, dim: int, k: int) -> None:
    real, fake = normal(n, dim).double(), (0.8 * normal(m, dim, seed=1) + 0.2).double()
    expected = prdc.compute_prdc(real.numpy(), fake.numpy(), k)
    assert precision_recall(real, fake, k=k)._asdict() == pytest.approx(expected, abs=1e-12)


def brute_force(real: list[list[int]], fake: list[list[int]], k: int) -> tuple[float, ...]:
    def squared(a: list[int], b: list[int]) -> int:
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    def radius(points: list[list[int]], index: int) -> int:
        return sorted(squared(points[index], other) for i, other in enumerate(points) if i != index)[k - 1]

    inside_real = [[squared(f, r) <= radius(real, i) for i, r in enumerate(real)] for f in fake]
    inside_fake = [[squared(f, r) <= radius(fake, i) for i, f in enumerate(fake)] for r in real]
    return (
        sum(any(row) for row in inside_real) / len(fake),
        sum(any(row) for row in inside_fake) / len(real),
        sum(map(sum, inside_real)) / (k * len(fake)),
        sum(any(column) for column in zip(*inside_real, strict=True)) / len(real),
    )


@pytest.mark.parametrize("seed", range(20))
def test_precision_recall_by_hand_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.integers(4, size=(7, 2)).tolist(), rng.integers(1, 5, size=(9, 2)).tolist()
    k = 1 + seed % 3
    got = precision_recall(torch.tensor(real).double(), torch.tensor(fake).double(), k=k)
    assert tuple(got) == pytest.approx(brute_force(real, fake, k), abs=1e-12)


def test_precision_recall_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(50, 4), normal(61, 4, seed=1)
    whole = precision_recall(real, fake)
    monkeypatch.setattr(sys.modules["sgan.metrics.precision_recall"], "CHUNK", 7)  # the package exports a namesake
    assert precision_recall(real, fake) == whole


def test_precision_recall_of_collapse_and_of_equal_sets() -> None:
    real = normal(200, 8)
    assert precision_recall(real, real)[:2] == (1, 1)
    collapsed = precision_recall(real, real[:1].expand(200, 8))
    assert collapsed.precision == 1
    assert collapsed.recall < 0.02
    assert collapsed.coverage < 0.1


@pytest.mark.parametrize(
    ("real", "fake", "k"),
    [
        (torch.zeros(3, 2), torch.zeros(9, 2), 3),
        (torch.zeros(9, 2), torch.zeros(9, 3), 3),
        (torch.zeros(9, 2), torch.zeros(9, 2), 0),
    ],
)
def test_precision_recall_of_bad_features(real: Tensor, fake: Tensor, k: int) -> None:
    with pytest.raises(ValueError, match="precision_recall: "):
        precision_recall(real, fake, k=k)


# Symmetry


def test_energy_distance_by_hand() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [5.0]])
    # between: mean of 2, 5, 1, 4 = 3; within x: 1; within y: 3.
    assert two_sample_test(x, y).distance == pytest.approx(2 * 3 - 1 - 3)


def test_p_values_of_equal_laws_are_uniform() -> None:
    p = [
        two_sample_test(normal(20, 2, seed=i), normal(25, 2, seed=1000 + i), permutations=99).p_value
        for i in range(200)
    ]
    counts = torch.histc(torch.tensor(p) - 0.005, 10, 0, 1)
    assert ((counts - 20) ** 2 / 20).sum() < 27.9  # chi-squared, 9 degrees of freedom, p = 0.001


def test_different_laws_are_told_apart() -> None:
    x = normal(60, 3)
    for y in (normal(60, 3, seed=1) + 1, 3 * normal(60, 3, seed=1)):
        result = two_sample_test(x, y)
        assert result.p_value == 1 / 501
        assert result.distance > 0
    assert two_sample_test(x, normal(60, 3, seed=1), seed=5) == two_sample_test(x, normal(60, 3, seed=1), seed=5)


def test_a_constant_law_equals_itself() -> None:
    assert two_sample_test(torch.full((8, 3), 0.1), torch.full((9, 3), 0.1)) == (0, 1)


def test_bad_samples() -> None:
    with pytest.raises(ValueError, match="x and y must be"):
        two_sample_test(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="must be finite"):
        two_sample_test(torch.zeros(5, 2), torch.full((5, 2), math.inf))
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        two_sample_test(torch.zeros(5, 2), torch.ones(5, 2), permutations=0)
    with pytest.raises(ValueError, match=r"symmetry_tests: samples must be \(N >= 4"):
        symmetry_tests(torch.zeros(3, 2), {})


def test_rotated_digits_are_symmetric_and_upright_ones_are_not(rotated: Dataset) -> None:
    turns = {f"r{k}": lambda x, k=k: torch.rot90(x, k, (2, 3)) for k in range(1, 4)}
    chosen = torch.randperm(1438, generator=torch.Generator().manual_seed(0))[:600]
    symmetric = symmetry_tests(rotated.train.batch(chosen), turns, permutations=200)
    assert list(symmetric) == ["r1", "r2", "r3"]
    assert min(result.p_value for result in symmetric.values()) > 0.01
    broken = symmetry_tests(load_dataset("digits").train.batch(chosen), turns, permutations=200)
    assert max(result.p_value for result in broken.values()) < 0.01


# Features


def test_shipped_accuracies_are_the_recorded_ones(features: FeatureExtractor) -> None:
    assert features.name == "digits"
    assert len(features.checksum) == 16
    for name in DIGITS:
        test = load_dataset(name).test
        correct = float((features.logits(test.batch(slice(None))).argmax(1) == test.labels).double().mean())
        assert correct == pytest.approx(float(features.metadata[f"accuracy {name}"]), abs=0.006)  # two images
        assert correct > 0.96


def test_no_feature_is_dead(features: FeatureExtractor, rotated: Dataset) -> None:
    spread = features(rotated.test.batch(slice(None))).std(0)
    assert spread.shape == (features.dim,)
    assert spread.min() > 0.05


def test_features_do_not_depend_on_the_batch(features: FeatureExtractor, rotated: Dataset) -> None:
    images = rotated.test.batch(slice(0, 300))
    got = features(images)
    assert got.dtype == torch.float32
    assert got.shape == (300, 64)
    assert not got.requires_grad
    torch.testing.assert_close(features(images[290:]), got[290:], rtol=1e-4, atol=1e-5)
    assert features(images[:0]).shape == (0, 64)
    assert features.logits(images[:0]).shape == (0, 10)


def test_resize_rule(features: FeatureExtractor) -> None:
    grey = normal(2, 1, 28, 28).clamp(-1, 1)
    assert to_grey_28(grey) is grey
    torch.testing.assert_close(to_grey_28(grey.expand(2, 3, 28, 28)), grey, rtol=0, atol=1e-6)
    torch.testing.assert_close(to_grey_28(torch.full((1, 3, 64, 64), 0.5)), torch.full((1, 1, 28, 28), 0.5))
    checkerboard = (torch.arange(56) % 2).expand(56, 56).float().view(1, 1, 56, 56)
    assert (to_grey_28(checkerboard)[..., 1:-1] - 0.5).abs().max() < 0.01
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 28, 28)
    assert to_grey_28(red).mean() == pytest.approx(0.299)
    assert features(normal(2, 3, 40, 40)).shape == (2, 64)


def test_bad_names_and_images(features: FeatureExtractor) -> None:
    with pytest.raises(ValueError, match="load_features: name must be one of digits, got 'inception'"):
        load_features("inception")
    with pytest.raises(ValueError, match=r"images must be \(N, 1 or 3, H, W\), got \(2, 2, 28, 28\)"):
        features(torch.zeros(2, 2, 28, 28))


def test_training_repeats_itself() -> None:
    first, again = train(3, seed=1), train(3, seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert 0 <= accuracy(first, "digits") <= 1


def test_augmented_digits_are_images() -> None:
    images, pose = augment(torch.rand(30, 1, 8, 8), np.random.default_rng(0))
    assert images.shape == (30, 1, 28, 28)
    assert images.min() >= -1
    assert images.max() <= 1
    torch.testing.assert_close(pose[:, :2].square().sum(1), torch.ones(30))
    assert pose[:, 2].unique().tolist() == [-1, 1]


# Evaluator


def test_evaluator_orders_generators(evaluator: Evaluator, rotated: Dataset) -> None:
    floor = evaluator.floor()
    keys = [f"{name}_digits" for name in ("fid", "precision", "recall", "density", "coverage")]
    assert list(floor) == keys
    same = evaluator.evaluate(replay(rotated.reference))
    turned = evaluator.evaluate(replay(load_dataset("digits-rotated", seed=1).reference))
    upright = evaluator.evaluate(replay(load_dataset("digits").reference))
    noise = evaluator.evaluate(lambda labels: normal(len(labels), 1, 28, 28).clamp(-1, 1))
    fid = [values["fid_digits"] for values in (same, turned, floor, upright, noise)]
    assert fid == sorted(fid)
    assert fid[3] > 5 * fid[2]
    assert fid[4] > 5 * fid[3]
    assert same["precision_digits"] == 1
    assert floor["precision_digits"] > 0.8
    assert noise["precision_digits"] < 0.05
    assert upright["recall_digits"] < 0.5 * turned["recall_digits"]


def test_the_floor_is_that_of_as_many_images_as_fakes(evaluator: Evaluator, rotated: Dataset) -> None:
    """A quarter of the images alone doubles the Frechet distance: such a floor would lie above a good generator."""
    few = Evaluator(replace(rotated, redraw=None))
    assert few.describe_floor()["n_floor"] == 359
    assert few.floor()["fid_digits"] > 1.7 * evaluator.floor()["fid_digits"]
    assert few.floor()["coverage_digits"] < evaluator.floor()["coverage_digits"]


def test_evaluator_is_deterministic_and_balanced(rotated: Dataset) -> None:
    asked: list[Tensor] = []

    def generate(labels: Tensor) -> Tensor:
        asked.append(labels)
        return normal(len(labels), 1, 28, 28, seed=len(asked))

    small = Evaluator(rotated, num_fakes=520)
    first = small.evaluate(generate)
    assert [len(labels) for labels in asked] == [250, 250, 20]
    assert torch.cat(asked).bincount().tolist() == [52] * 10
    asked.clear()
    assert small.evaluate(generate) == first
    assert small.describe()["n_fake"] == 520


def test_evaluator_describes_its_values(evaluator: Evaluator, features: FeatureExtractor) -> None:
    description = evaluator.describe()
    assert description["features"] == "digits"
    assert description["features_sha256"] == features.checksum
    assert (description["n_real"], description["n_fake"]) == (1438, 1438)
    floor = evaluator.describe_floor()
    assert (floor["n_real"], floor["n_floor"], floor["n_floor_sources"]) == (1438, 1436, 359)
    assert "n_fake" not in floor


def test_subset_does_not_change_the_reference(evaluator: Evaluator) -> None:
    assert Evaluator(load_dataset("digits-rotated", subset=0.1)).floor() == evaluator.floor()


def test_large_sets_are_cut_class_by_class(rotated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgan.metrics.evaluator.MAX_IMAGES", 200)
    small = Evaluator(rotated)
    assert (small.describe()["n_real"], small.describe()["n_fake"]) == (200, 200)
    assert (small.describe_floor()["n_floor"], small.describe_floor()["n_floor_sources"]) == (200, 200)


def test_evaluator_refuses_bad_generators(evaluator: Evaluator, rotated: Dataset) -> None:
    with pytest.raises(ValueError, match=r"generate must return images \(250, 1, 28, 28\), got \(250, 1, 32, 32\)"):
        evaluator.evaluate(lambda labels: torch.zeros(len(labels), 1, 32, 32))
    with pytest.raises(FloatingPointError, match="generate must return finite pixels"):
        evaluator.evaluate(lambda labels: torch.full((len(labels), 1, 28, 28), math.nan))
    with pytest.raises(ValueError, match="num_fakes must be more than k = 3, got 3"):
        Evaluator(rotated, num_fakes=3)
