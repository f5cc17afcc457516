"""The classifier example: networks, the rotated set, training, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import classify
import numpy as np
import pytest
import torch
from classify import MODELS, Architecture, Classifier, Recipe, Scores, build, parameters, planar_twin
from click.testing import CliRunner, Result
from PIL import Image
from test_data import write_mnist

from gconv import group_from_name, steerable_basis
from sgan.data import load_dataset

PUBLISHED = {"Z2CNN": 21_750, "P4CNN": 24_680, "P4MCNN": 26_799}
SYMMETRIC = ["P4CNN", "P4MCNN", "C8CNN"]
TINY = ["--size", "120", "--fractions", "0.1,1", "--steps", "2", "--batch", "8"]


def command(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(classify.main, [*TINY, *arguments])


# Networks


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_and_parameter_counts_are_the_papers(name: str) -> None:
    width, order = MODELS[name].width, group_from_name(MODELS[name].group).order
    weights = 9 * width + 5 * 9 * order * width**2 + 16 * order * width * 10
    biases, norms = 6 * width + 10, 2 * 6 * width
    assert parameters(MODELS[name]) == PUBLISHED[name] == weights + biases + norms
    network = Classifier(MODELS[name]).eval()
    sizes: list[int] = []
    for layer in [*network.convolutions, network.top]:
        layer.register_forward_hook(lambda module, inputs, out: sizes.append(out.shape[-1]))
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert sizes == [26, 24, 10, 8, 6, 4, 1]


def test_c8_counts_the_coefficients_of_its_steerable_filters() -> None:
    of_5x5, of_4x4 = (sum(1 + 2 * ring.max_frequency for ring in steerable_basis(size)) for size in (5, 4))
    weights = 7 * of_5x5 + 5 * 8 * 7**2 * of_5x5 + 8 * 7 * 10 * of_4x4
    assert parameters(MODELS["C8CNN"]) == 26_253 == weights + 6 * 7 + 10 + 2 * 6 * 7


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_planar_twin_is_the_narrowest_with_as_many_parameters(name: str) -> None:
    twin = planar_twin(MODELS[name])
    assert twin.group == "C1"
    narrower = replace(twin, width=twin.width - 1)
    assert parameters(narrower) < parameters(MODELS[name]) <= parameters(twin)


def test_names() -> None:
    assert [architecture.name for architecture in MODELS.values()] == list(MODELS)
    assert Architecture("C1", 22).name == "Z2CNN-22"


@torch.no_grad()
def change_of_logits(name: str, group_name: str) -> float:
    """The largest change that an element of the group makes to the logits, over their deviation, in float64."""
    network, group = Classifier(MODELS[name]).double(), group_from_name(group_name)
    x = torch.rand(8, 1, 28, 28, dtype=torch.float64) * 2 - 1
    for norm in network.norms:
        norm.momentum = 1.0
    network(x)  # gives the batch norms statistics of their own
    network.eval()
    moved = torch.stack([network(group.act(x, element)) for element in group.elements])
    return float((moved - moved[0]).abs().max() / moved[0].std(0).mean())


@pytest.mark.parametrize("name", SYMMETRIC)
def test_logits_are_invariant_under_the_groups_rotations_and_flips_of_the_grid(name: str) -> None:
    assert change_of_logits(name, group_from_name(MODELS[name].group).lattice.name) < 1e-11


@pytest.mark.parametrize(("name", "group"), [("Z2CNN", "C4"), ("P4CNN", "D1")])
def test_logits_change_under_other_groups(name: str, group: str) -> None:
    assert change_of_logits(name, group) > 0.1


def test_dropout_acts_in_training_only() -> None:
    network, x = Classifier(MODELS["P4CNN"], dropout=0.5), torch.rand(4, 1, 28, 28)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


# Data


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder of random 28 x 28 images in three classes: 60 to train on and 40 held out."""
    folder = tmp_path / "files"
    folder.mkdir()
    for prefix, size in (("train", 60), ("t10k", 40)):
        write_mnist(folder, prefix, size, size=28)
    return folder


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of three kinds
def test_images_are_turned_about_the_centre_by_uniform_angles_and_keep_their_labels(tmp_path: Path) -> None:
    labels = np.arange(300) % 3
    row, column = np.meshgrid(np.arange(28) - 13.5, np.arange(28) - 13.5, indexing="ij")
    distance = 3 + 2 * labels[:, None, None]  # of a spot to the right of the centre
    np.savez(tmp_path / "a.npz", x=(255 * np.exp(-(row**2 + (column - distance) ** 2) / 4)).astype(np.uint8), y=labels)
    data = build(str(tmp_path / "a.npz"), 12_000)
    assert data.built["rotation"] == "uniform in [0, 360) degrees per image"
    for part in (data.train, data.test):
        ink = part.images[:, 0].double()
        down, right = ((ink * torch.from_numpy(axis)).sum((1, 2)) / ink.sum((1, 2)) for axis in (row, column))
        torch.testing.assert_close(torch.hypot(down, right), 3 + 2 * part.labels.double(), rtol=0, atol=0.1)
    counts = torch.histc(torch.atan2(down, right), 8, -math.pi, math.pi)
    assert ((counts - len(right) / 8) ** 2 / (len(right) / 8)).sum() < 24.3  # chi-squared, 7 degrees, p = 0.001


def test_a_quarter_turn_is_rot90(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load_dataset("digits").test
    quarter = torch.full((len(digits),), math.pi / 2, dtype=torch.float64)
    monkeypatch.setattr(classify, "orient", lambda law, count, rng: (quarter, torch.zeros(count, dtype=torch.bool)))
    assert torch.equal(classify.rotate(digits, 0).images, torch.rot90(digits.images, 1, (2, 3)))


def test_a_built_set_is_one_set(mnist: Path) -> None:
    first, again = build(str(mnist), 60), build(str(mnist), 60)
    assert first.built == again.built
    assert torch.equal(first.train.images, again.train.images)
    smaller = build(str(mnist), 24)
    assert torch.equal(smaller.train.images, first.train.images[:24])
    assert torch.equal(smaller.test.images, first.test.images)


def test_sizes_are_rotmnists_as_far_as_there_are_images(mnist: Path) -> None:
    def sizes(name: str, size: int) -> tuple[int, int]:
        data = build(name, size)
        return len(data.train), len(data.test)

    assert sizes(str(mnist), 6) == (6, 25)
    assert sizes(str(mnist), 12_000) == (60, 40)
    assert sizes("digits-rotated", 12_000) == (1438, 359)
    data = build(str(mnist), 30)
    assert torch.equal(data.train.labels.bincount(), torch.full((3,), 10))


def test_the_embedded_digits_are_taken_as_they_are() -> None:
    data, digits = build("digits-rotated", 2000), load_dataset("digits-rotated")
    assert torch.equal(data.train.images.sum(0), digits.train.images.sum(0))
    assert torch.equal(data.test.images.sum(0), digits.test.images.sum(0))


def test_validation_images_are_neither_trained_on_nor_held_out() -> None:
    data, digits = build("digits", 200, validate=True), load_dataset("digits")
    pixels = [{bytes(image.numpy()) for image in part.images} for part in (data.train, data.test, digits.test)]
    assert [len(part) for part in pixels[:2]] == [200, 833]
    assert not pixels[1] & (pixels[0] | pixels[2])
    with pytest.raises(ValueError, match="build: size must leave images to validate on, got 5000 of 1438"):
        build("digits", 5000, validate=True)


def test_other_images_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 30, size=6)
    with pytest.raises(ValueError, match=r"build: data must be grey images of 28 x 28 .*, got 1 x 6 x 6 in 3"):
        build(str(tmp_path), 20)


# Training


def test_batches_are_shuffled_epochs() -> None:
    order = list(classify.batches(10, Recipe(5, 4, 1e-3, 0.0), seed=0))
    assert [len(batch) for batch in order] == [4] * 5
    both = torch.cat(order).view(2, 10)
    assert all(torch.equal(epoch.sort().values, torch.arange(10)) for epoch in both)
    assert not torch.equal(*both)
    assert not torch.equal(order[0], next(classify.batches(10, Recipe(5, 4, 1e-3, 0.0), seed=1)))


def test_training_learns() -> None:
    data = build("digits-rotated", 200)
    network, losses = Classifier(MODELS["P4CNN"]), []
    classify.train(network, data.train, Recipe(60, 32, 1e-2, 0.0), 0, losses.append)
    assert len(losses) == 60
    assert classify.accuracy(network, data.train) > 0.8
    assert classify.accuracy(network, data.test) > 0.5


# The command


def test_the_command_writes_results_table_and_plot_and_computes_nothing_twice(tmp_path: Path) -> None:
    first = command("--models", "P4CNN", "--out", str(tmp_path / "a"))
    assert first.exit_code == 0, first.output
    path = tmp_path / "a" / "results.json"
    rows = json.loads(path.read_text())
    assert [(row["name"], row["n_train"]) for row in rows] == [
        ("P4CNN", 12),
        ("Z2CNN-22", 12),
        ("P4CNN", 120),
        ("Z2CNN-22", 120),
    ]
    assert all(0 <= row["accuracy"] <= 1 and row["key"]["recipe"]["steps"] == 2 for row in rows)
    table = (tmp_path / "a" / "table.md").read_text().splitlines()
    assert table[0] == "| network | parameters | 12 (10 %) | 120 (100 %) |"
    assert [line.split(" | ")[0] for line in table[2:5]] == ["| P4CNN", "| Z2CNN-22", "| ratio of errors"]
    with Image.open(tmp_path / "a" / "error.png") as image:
        assert image.width > 500

    again = command("--models", "P4CNN", "--out", str(tmp_path / "a"))
    assert f"4 of 4 results are in {path}" in again.output
    assert json.loads(path.read_text()) == rows
    assert (tmp_path / "a" / "table.md").read_text().splitlines() == table

    more = command("--models", "P4CNN", "--seeds", "2", "--out", str(tmp_path / "a"))
    assert f"4 of 8 results are in {path}" in more.output
    assert json.loads(path.read_text())[:4] == rows


def test_results_are_a_function_of_the_options(tmp_path: Path) -> None:
    def accuracies(folder: str, *options: str) -> list[tuple[float, float]]:
        result = command("--models", "Z2CNN", "--out", str(tmp_path / folder), *options)
        assert result.exit_code == 0, result.output
        rows = json.loads((tmp_path / folder / "results.json").read_text())
        return [(row["train_accuracy"], row["accuracy"]) for row in rows]

    once = accuracies("a", "--dropout", "0.3")
    assert accuracies("b", "--dropout", "0.3") == once
    assert accuracies("b", "--dropout", "0.3", "--seeds", "2")[2:] != once  # another seed
    assert len(accuracies("b", "--lr", "0.01")) == 6  # another recipe


def test_the_table_sets_each_network_beside_its_twin() -> None:
    planar, twin, network = Architecture("C1", 20), Architecture("C1", 22), MODELS["P4CNN"]
    results = {
        planar: [Scores("Z2CNN", 5, 0.01, 120, [50.0, 60.0])],
        network: [Scores("P4CNN", 7, 0.01, 120, [90.0, 80.0])],
        twin: [Scores("Z2CNN-22", 8000, 0.01, 120, [40.0, 80.0])],
    }
    assert classify.comparison({planar: None, network: twin}, results) == [
        ("network", "parameters", "120 (1 %)"),
        ("Z2CNN", "5", "55.00 ± 7.07"),
        ("P4CNN", "7", "85.00 ± 7.07"),
        ("Z2CNN-22", "8,000", "60.00 ± 28.28"),
        ("ratio of errors", "", "2.67 (1/2)"),
    ]
    alone, perfect = Scores("P4CNN", 7, 0.01, 120, [50.0]), Scores("P4CNN", 7, 0.01, 120, [100.0])
    assert str(alone) == "50.00"
    assert perfect.beside(alone) == "inf (1/1)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", "P5CNN"], "'P5CNN' is not one of"),
        (["--fractions", "0.1,2"], "2.0 is not in the range 0<x<=1"),
        (["--data", "nowhere"], "no such file or folder"),
        (["--device", "abacus"], "abacus"),
        (["--size", "1438", "--validate"], "build: size must leave images to validate on"),
    ],
)
def test_options_are_checked(options: list[str], message: str, tmp_path: Path) -> None:
    result = command(*options, "--out", str(tmp_path / "a"))
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "a").exists()


def test_lists_take_commas_and_spaces() -> None:
    option = classify.click.Option(["--numbers"])
    numbers = partial(classify.comma_separated(classify.click.FLOAT), classify.click.Context(classify.main), option)
    assert numbers("0.01, 0.1 1") == (0.01, 0.1, 1.0)
    assert numbers("1,1") == (1.0,)
