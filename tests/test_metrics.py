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
from click.testing import CliRunner
from torch import Tensor

from sgan.data import Dataset, ImageSet, load_dataset
from sgan.metrics import Evaluator, frechet_distance, load_features, precision_recall
from sgan.metrics.floor import main as print_floor
from sgan.metrics.frechet import gaussian_frechet_distance


@pytest.fixture(scope="module")
def rotated() -> Dataset:
    return load_dataset("digits-rotated")


@pytest.fixture(scope="module")
def evaluator(rotated: Dataset) -> Evaluator:
    return Evaluator(rotated)


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
    far = 1000 + real[:50].double()
    copies = torch.cat([far[i : i + 1] for i in range(50)])  # distances rounded otherwise, on the balls' borders too
    assert precision_recall(far, copies).density == pytest.approx(4 / 3)  # the centre and 3 neighbours
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


# Evaluator


def test_evaluator_orders_generators(evaluator: Evaluator, rotated: Dataset) -> None:
    floor = evaluator.floor()
    names = ("fid", "kid", "precision", "recall", "density", "coverage", "is", "mis", "fid_test", "kid_test")
    assert list(floor) == [*(f"{name}_digits" for name in names), "memorised_pixels"]
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
    assert abs(turned["kid_digits"]) < upright["kid_digits"] < noise["kid_digits"]
    assert 5 < noise["is_digits"] + 4 < floor["is_digits"] < 10
    assert 1 <= floor["mis_digits"] < 2


def test_the_command_prints_the_floor(rotated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgan.metrics.evaluator.MAX_IMAGES", 200)
    result = CliRunner().invoke(print_floor, ["digits-rotated"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert {"features: digits", "n_real: 200", "n_floor: 200"} <= set(lines)
    assert f"fid_digits: {Evaluator(rotated).floor()['fid_digits']:.4g}" in lines
    unknown = CliRunner().invoke(print_floor, ["no-such-set"])
    assert unknown.exit_code == 1
    assert "no-such-set" in unknown.output


def test_the_floor_is_that_of_as_many_images_as_fakes(evaluator: Evaluator, rotated: Dataset) -> None:
    """A quarter of the images alone doubles the Frechet distance: such a floor would lie above a good generator."""
    few = Evaluator(replace(rotated, redraw=None))
    assert few.describe_floor()["n_floor"] == 359
    assert few.floor()["fid_digits"] > 1.7 * evaluator.floor()["fid_digits"]
    assert few.floor()["coverage_digits"] < evaluator.floor()["coverage_digits"]


def test_evaluator_is_deterministic_and_asks_in_proportion(rotated: Dataset) -> None:
    asked: list[Tensor] = []

    def generate(labels: Tensor) -> Tensor:
        asked.append(labels)
        return normal(len(labels), 1, 28, 28, seed=len(asked))

    small = Evaluator(rotated, num_fakes=520)
    first = small.evaluate(generate)
    assert [len(labels) for labels in asked] == [250, 250, 20]
    shares = rotated.reference.labels.bincount() * 520 / 1438
    assert (torch.cat(asked).bincount() - shares).abs().max() < 1
    asked.clear()
    assert small.evaluate(generate) == first
    assert small.describe()["n_fake"] == 520


def test_evaluator_describes_its_values(evaluator: Evaluator) -> None:
    description = evaluator.describe()
    assert description["features"] == "digits"
    assert description["features_sha256"] == load_features("digits").checksum
    assert description["kid"] == "mean over 10 random subsets of at most 1000 images"
    assert (description["n_real"], description["n_fake"]) == (1438, 1438)
    floor = evaluator.describe_floor()
    assert (floor["n_real"], floor["n_floor"], floor["n_floor_sources"]) == (1438, 1436, 359)
    assert "n_fake" not in floor


def test_the_evaluator_takes_the_network_that_it_is_told(rotated: Dataset) -> None:
    small = Evaluator(rotated, "mnist", num_fakes=50)
    values = small.evaluate(replay(rotated.reference))
    assert {name for name in values if not name.endswith("_mnist")} == {"memorised_pixels", "fid_digits"}
    of_digits = Evaluator(rotated, num_fakes=50).evaluate(replay(rotated.reference))
    assert values["fid_digits"] == of_digits["fid_digits"]
    assert small.describe()["features_sha256"] == load_features("mnist").checksum


def test_the_table_of_classes_is_that_of_the_value(rotated: Dataset) -> None:
    small = Evaluator(rotated, num_fakes=300)
    scores = small.modified_inception_score(replay(rotated.reference))
    assert scores.mean == small.evaluate(replay(rotated.reference))["mis_digits"]
    assert len(scores.table(rotated.class_names).splitlines()) == 12
    assert sum(row.images for row in scores.classes) == 300


def test_subset_does_not_change_the_reference(rotated: Dataset) -> None:
    part = Evaluator(load_dataset("digits-rotated", subset=0.1), num_fakes=50)
    assert part.floor() == Evaluator(rotated, num_fakes=50).floor()


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
