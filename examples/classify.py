"""The rotated-MNIST classifiers of G-CNN, planar against symmetric: `python examples/classify.py`.

Cohen & Welling, Group Equivariant Convolutional Networks, ICML 2016, section 8.1. Published test errors with 12,000
training images: Z2CNN 5.03 %, P4CNN 2.28 %.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import gconv.nn as gnn
from gconv import group_from_name
from sgan.checkpoints import write_atomic
from sgan.data import DIGITS, ImageSet, load_dataset
from sgan.data.digits import ANGLE_LAWS, orient, resample
from sgan.data.split import HELD_OUT_STREAM, ORIENTATION_STREAM, SUBSET_STREAM, stratified_order
from sgan.progress import ProgressBar, duration
from sgan.train import check_device

RESOLUTION = 28
CLASSES = 10
TEST_PER_TRAIN = 50 / 12  # RotMNIST: 12,000 images to train on and 50,000 to test on
DATA_SEED = 0  # a constant: like RotMNIST, the built set is one set, whatever the seeds of training
TEST_BATCH = 500

Row = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """A network of the one family that is compared.

    Attributes:
        group: whose orientations it computes; C1 is the planar network.
        width: channels per orientation.
        filter_size: of every convolution but the last.
    """

    group: str
    width: int
    filter_size: int = 3

    @property
    def name(self) -> str:
        """Its name in the paper, or Z2CNN-<width>."""
        return next((name for name, known in MODELS.items() if known == self), f"Z2CNN-{self.width}")


# Cohen & Welling divide the planar width by sqrt(|G|). P4MCNN, which they train on CIFAR-10 only, and C8CNN, which is
# not theirs, follow that rule. C8's filters are 5 x 5, as SP-GAN's are: 3 x 3 is too small to turn by 45 degrees.
MODELS = {
    "Z2CNN": Architecture("C1", 20),
    "P4CNN": Architecture("C4", 10),
    "P4MCNN": Architecture("D4", 7),
    "C8CNN": Architecture("C8", 7, filter_size=5),
}


class Classifier(nn.Module):
    """Six 3 x 3 convolutions and a 4 x 4 one, without padding: 28 -> 26 -> 24 -> 12 -> 10 -> 8 -> 6 -> 4 -> 1.

    Batch norm and ReLU follow each of the six; 2 x 2 max-pooling the second, dropout the others. The maximum over the
    group makes the logits invariant: f(T_g x) = f(x), exactly for the groups of the pixel grid. The planar network is
    the same code on the trivial group. 5 x 5 filters get padding 1, which leaves all sizes as they are.

    Args:
        architecture: group and widths.
        dropout: probability that a value is zeroed in training.
    """

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        group = group_from_name(architecture.group)
        width, size, padding = architecture.width, architecture.filter_size, (architecture.filter_size - 3) // 2
        lift = gnn.LiftingConv2d(1, width, size, group=group, padding=padding)
        convolutions = [gnn.GroupConv2d(width, width, size, group=group, padding=padding) for _ in range(5)]
        self.convolutions = nn.ModuleList([lift, *convolutions])
        self.norms = nn.ModuleList(gnn.GroupBatchNorm2d(width) for _ in self.convolutions)
        self.top = gnn.GroupConv2d(width, CLASSES, 4, group=group)
        self.pool = gnn.GroupPool(group=group)
        self.dropout = dropout

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, 28, 28) images, pixels in [-1, 1], to (N, 10) logits."""
        x = (images + 1) / 2  # background 0, as the padding is
        for layer, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = F.relu(norm(convolution(x)))
            if layer == 1:
                x = gnn.per_orientation(lambda plane: F.max_pool2d(plane, 2), x)
            else:
                x = F.dropout(x, self.dropout, self.training)
        return self.pool(self.top(x)).flatten(1)


def parameters(architecture: Architecture) -> int:
    """The number of trained values."""
    return sum(parameter.numel() for parameter in Classifier(architecture).parameters())


def planar_twin(architecture: Architecture) -> Architecture:
    """The narrowest planar network that has at least as many parameters."""
    wanted = parameters(architecture)
    return next(twin for width in count(1) if parameters(twin := Architecture("C1", width)) >= wanted)


Twins = dict[Architecture, Architecture | None]


def compared(models: tuple[str, ...]) -> Twins:
    """Each network with its planar twin; a planar network has none."""
    chosen = [MODELS[name] for name in models]
    return {network: None if network.group == "C1" else planar_twin(network) for network in chosen}


class RotatedSet(NamedTuple):
    """What is trained on and tested on, and how it was made, ready for JSON."""

    train: ImageSet
    test: ImageSet
    built: dict[str, object]


def build(name_or_path: str, size: int, validate: bool = False) -> RotatedSet:
    """Build a set of rotated digits in RotMNIST's proportions, 12,000 to 50,000, as far as there are images.

    Args:
        name_or_path: what `sgan.data.load_dataset` takes. Images of files are each rotated by an angle uniform in
            [0, 360) degrees; the embedded sets are taken as they are.
        size: images to train on; all there are, if there are fewer.
        validate: test on images of the training part that are not trained on, instead of the held-out part.

    Raises:
        ValueError: not grey 28 x 28 images of at most ten classes, or no images left to validate on.
    """
    data = load_dataset(name_or_path, seed=DATA_SEED)
    shape = (data.channels, data.resolution)
    if shape != (1, RESOLUTION) or data.num_classes > CLASSES:
        raise ValueError(
            f"build: data must be grey images of {RESOLUTION} x {RESOLUTION} in at most {CLASSES} classes, got "
            f"{shape[0]} x {shape[1]} x {shape[1]} in {data.num_classes}"
        )
    order = stratified_order(data.reference.labels, np.random.default_rng([SUBSET_STREAM, DATA_SEED]))
    train = data.reference.select(order[:size])
    test_size = round(len(train) * TEST_PER_TRAIN)
    test = data.reference.select(order[size : size + test_size]) if validate else first(data.test, test_size, DATA_SEED)
    if not len(test):
        raise ValueError(f"build: size must leave images to validate on, got {size} of {len(data.reference)}")
    if name_or_path not in DIGITS:
        train, test = rotate(train, ORIENTATION_STREAM), rotate(test, HELD_OUT_STREAM)
    built: dict[str, object] = {
        "name": data.name if name_or_path in DIGITS else f"{data.name}, rotated",
        "rotation": data.built.get("rotation", ANGLE_LAWS["uniform"]),
        "data_seed": DATA_SEED,
        "tested_on": "validation" if validate else "held-out",
        "n_train": len(train),
        "n_test": len(test),
        "train_sha256": train.checksum(),
        "test_sha256": test.checksum(),
    }
    return RotatedSet(train, test, built)


def rotate(images: ImageSet, stream: int) -> ImageSet:
    """Rotate each image about its centre by a uniform angle: bicubic, rounded to uint8, background outside."""
    pose = orient(DIGITS["digits-rotated"], len(images), np.random.default_rng([stream, DATA_SEED]))
    pixels = resample(images.images / 255, *pose, RESOLUTION) * 255
    return ImageSet(pixels.round().to(torch.uint8), images.labels)


def first(images: ImageSet, size: int, seed: int) -> ImageSet:
    """So many images, drawn class by class; with one seed, a larger choice contains a smaller one."""
    order = stratified_order(images.labels, np.random.default_rng([SUBSET_STREAM, seed]))
    return images.select(order[:size])


@dataclass(frozen=True)
class Recipe:
    """How every network is trained: Adam, its rate brought to 0 along a cosine, cross entropy."""

    steps: int
    batch: int
    learning_rate: float
    dropout: float


def train(network: Classifier, images: ImageSet, recipe: Recipe, seed: int, report: Callable[[float], None]) -> None:
    """Train for `recipe.steps` batches of shuffled epochs; `report` takes the loss of each."""
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    network.train()
    for indices in batches(len(images), recipe, seed):
        loss = F.cross_entropy(network(images.batch(indices)), images.labels[indices])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(loss.item())


def batches(size: int, recipe: Recipe, seed: int) -> Iterator[Tensor]:
    """The indices of each step's images: one random permutation of all after another, cut into equal batches."""
    generator = torch.Generator().manual_seed(seed)
    epochs = math.ceil(recipe.steps * recipe.batch / size)
    order = torch.cat([torch.randperm(size, generator=generator) for _ in range(epochs)])
    yield from order[: recipe.steps * recipe.batch].split(recipe.batch)


@torch.inference_mode()
def accuracy(network: Classifier, images: ImageSet) -> float:
    """The share of images that are classified correctly."""
    network.eval()
    parts = torch.arange(len(images)).split(TEST_BATCH)
    right = [(network(images.batch(part)).argmax(1) == images.labels[part]).sum().item() for part in parts]
    return sum(right) / len(images)


@dataclass(frozen=True)
class Trial:
    """One training: equal trials give equal numbers, on one machine with one number of threads."""

    architecture: Architecture
    fraction: float
    seed: int
    recipe: Recipe

    def key(self, data: RotatedSet, device: str) -> Row:
        """What tells its row from others, all of it ready for JSON."""
        return asdict(self) | {"data": data.built, "device": device}

    def images(self, data: RotatedSet) -> ImageSet:
        """What it trains on: the same for every network."""
        return first(data.train, max(1, round(self.fraction * len(data.train))), self.seed)

    def run(self, data: RotatedSet, device: str, report: Callable[[float], None]) -> Row:
        """Train and test; the numbers of its row."""
        torch.manual_seed(self.seed)
        network = Classifier(self.architecture, self.recipe.dropout).to(device)
        images = self.images(data).to(device)
        start = time.perf_counter()
        train(network, images, self.recipe, self.seed, report)
        return {
            "name": self.architecture.name,
            "parameters": parameters(self.architecture),
            "n_train": len(images),
            "train_s": round(time.perf_counter() - start, 2),
            "train_accuracy": accuracy(network, images),
            "accuracy": accuracy(network, data.test.to(device)),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }


def run_all(trials: list[Trial], data: RotatedSet, device: str, path: Path, console: Console) -> list[Row]:
    """Run the trials whose rows the file does not hold yet, and return the rows of all, in their order."""
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    keys = [trial.key(data, device) for trial in trials]
    missing = [
        (trial, key) for trial, key in zip(trials, keys, strict=True) if not any(row["key"] == key for row in rows)
    ]
    if len(missing) < len(trials):
        console.print(f"{len(trials) - len(missing)} of {len(trials)} results are in {path}", highlight=False)
    steps, start = count(1), time.perf_counter()

    def report(name: str, loss: float) -> None:
        seen = next(steps) * trials[0].recipe.batch
        bar.update(seen, seen / (time.perf_counter() - start), {f"{name} loss": loss})

    with ProgressBar(console, sum(trial.recipe.steps * trial.recipe.batch for trial, _ in missing), 0) as bar:
        for trial, key in missing:
            row: Row = {"key": key} | trial.run(data, device, partial(report, trial.architecture.name))
            rows.append(row)
            write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())
            console.print(
                f"{row['name']:<8} {row['n_train']:>6,} images, seed {trial.seed}: {row['accuracy']:.2%} right, "
                f"trained in {duration(row['train_s'])}",
                highlight=False,
            )
    return [next(row for row in rows if row["key"] == key) for key in keys]


class Scores(NamedTuple):
    """What one network got on one fraction: an accuracy per seed, in per cent."""

    name: str
    parameters: int
    fraction: float
    n_train: int
    accuracies: list[float]

    @property
    def error(self) -> float:
        """The mean over seeds, in per cent."""
        return 100 - statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """The standard deviation over seeds; 0 of a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    def __str__(self) -> str:
        mean = f"{100 - self.error:.2f}"
        return f"{mean} ± {self.deviation:.2f}" if len(self.accuracies) > 1 else mean

    def beside(self, planar: Scores) -> str:
        """The planar network's error over this one's, and on how many seeds it is larger."""
        ratio = f"{planar.error / self.error:.2f}" if self.error else "inf"
        won = sum(ours > theirs for ours, theirs in zip(self.accuracies, planar.accuracies, strict=True))
        return f"{ratio} ({won}/{len(self.accuracies)})"


Results = dict[Architecture, list[Scores]]  # one per fraction


def gather(trials: list[Trial], rows: list[Row]) -> Results:
    """The scores of every network."""
    scores: dict[tuple[Architecture, float], Scores] = {}
    for trial, row in zip(trials, rows, strict=True):
        none_yet = Scores(row["name"], row["parameters"], trial.fraction, row["n_train"], [])
        scores.setdefault((trial.architecture, trial.fraction), none_yet).accuracies.append(100 * row["accuracy"])
    results: Results = {}
    for (architecture, _), of_one in scores.items():
        results.setdefault(architecture, []).append(of_one)
    return results


def comparison(twins: Twins, results: Results) -> list[tuple[str, ...]]:
    """The cells of the table: headings, a line per network, its planar twin's under it, and one that compares both."""
    sizes = [f"{of_one.n_train:,} ({100 * of_one.fraction:.4g} %)" for of_one in next(iter(results.values()))]
    lines = [("network", "parameters", *sizes)]
    for network, twin in twins.items():
        for which in [network] if twin is None else [network, twin]:
            scores = results[which]
            lines.append((scores[0].name, f"{scores[0].parameters:,}", *map(str, scores)))
        if twin is not None:
            ratios = [ours.beside(planar) for ours, planar in zip(results[network], results[twin], strict=True)]
            lines.append(("ratio of errors", "", *ratios))
    return lines


CAPTION = (
    "Accuracy in per cent, mean ± standard deviation over seeds. Under each symmetric network: the planar one with at "
    "least as many parameters, its error over the symmetric one's, and on how many seeds it is larger."
)


def as_table(lines: list[tuple[str, ...]], title: str) -> Table:
    """The comparison for a terminal."""
    table = Table(*lines[0], title=title, caption=CAPTION)
    for line in lines[1:]:
        table.add_row(*line, end_section=line[0] == "ratio of errors")
    return table


def as_markdown(lines: list[tuple[str, ...]]) -> str:
    """The comparison for a page."""
    rule = ("---",) * len(lines[0])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [lines[0], rule, *lines[1:]]) + f"\n{CAPTION}\n"


def draw(twins: Twins, results: Results, data: RotatedSet, path: Path) -> None:
    """Draw error against training images, mean and deviation; planar twins dashed, in their network's colour."""
    from matplotlib.figure import Figure  # here: slow to import, and only drawing needs it

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, pair in enumerate(twins.items()):
        for network, style in zip(pair, ("o-", "s--"), strict=True):
            if network is None:
                continue
            scores = sorted(results[network], key=lambda of_one: of_one.n_train)
            axes.errorbar(
                [of_one.n_train for of_one in scores],
                [of_one.error for of_one in scores],
                [of_one.deviation for of_one in scores],
                fmt=style,
                color=f"C{index}",
                capsize=3,
                label=f"{scores[0].name}, {scores[0].parameters:,} parameters",
            )
    sizes = sorted({of_one.n_train for scores in results.values() for of_one in scores})
    axes.set(xscale="log", yscale="log", ylabel=f"error, % of {len(data.test):,} images")
    axes.set_xlabel(f"training images of {data.built['name']}")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150, metadata={"Software": None})


def comma_separated(item: click.ParamType[Any]) -> Callable[[click.Context, click.Parameter, str], tuple[Any, ...]]:
    """The callback of an option that takes one or more values with commas or spaces between them."""

    def convert(ctx: click.Context, param: click.Parameter, value: str) -> tuple[Any, ...]:
        parts = re.split(r"[,\s]+", value.strip())
        return tuple(dict.fromkeys(item.convert(part, param, ctx) for part in parts))

    return convert


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    default="digits-rotated",
    show_default=True,
    metavar="NAME|PATH",
    help="Embedded digits, or files of grey 28 x 28 images to rotate: a folder of MNIST's IDX files, a .npz file, or a "
    "folder of images per class.",
)
@click.option(
    "--models",
    callback=comma_separated(click.Choice(list(MODELS))),
    default="Z2CNN,P4CNN,P4MCNN,C8CNN",
    show_default=True,
    metavar="LIST",
    help=f"From {', '.join(MODELS)}; each symmetric one brings its planar network along.",
)
@click.option(
    "--fractions",
    callback=comma_separated(click.FloatRange(0, 1, min_open=True)),
    default="0.01,0.1,1.0",
    show_default=True,
    metavar="LIST",
    help="Of the training images.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    default=12000,
    show_default=True,
    metavar="N",
    help="Training images at fraction 1, or all there are. Tested on 50 for every 12, as far as there are.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Seeds 0 to N-1.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N", help="Of every training."
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=64, show_default=True, metavar="N", help="Images per step."
)
@click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True), default=3e-3, show_default=True, help="Adam's, at the start."
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.3,
    show_default=True,
    help="After five of the layers.",
)
@click.option("--validate", is_flag=True, help="Test on images left over from training: for choosing options.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/classify"),
    show_default=True,
    help="Folder for results.json, table.md and error.png.",
)
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="cpu, cuda, cuda:1, ...")
def main(
    data: str,
    models: tuple[str, ...],
    fractions: tuple[float, ...],
    size: int,
    seeds: int,
    steps: int,
    batch: int,
    lr: float,
    dropout: float,
    validate: bool,
    out: Path,
    device: str,
) -> None:
    """Classify rotated digits with the networks of Cohen & Welling (ICML 2016), symmetric against planar.

    Every symmetric network is compared with the narrowest planar one that has at least as many parameters, on the same
    images, with the same recipe and the same number of steps on every fraction: Adam, cosine decay to 0. A seed draws
    the fraction's images, the initial weights and the batches; the rotated set is always the same.

    Results that the folder holds already are not computed again.

    \b
    Examples:
      python examples/classify.py
      python examples/classify.py --data path/to/mnist --fractions 0.01,0.1 --seeds 3
      python examples/classify.py --data path/to/mnist --models Z2CNN --validate --lr 0.01
    """
    console = Console()
    check_device(device)
    try:
        twins = compared(models)
        images = build(data, size, validate)
        out.mkdir(parents=True, exist_ok=True)
        recipe = Recipe(steps, batch, lr, dropout)
        networks = list(dict.fromkeys(network for pair in twins.items() for network in pair if network is not None))
        trials = [
            Trial(network, fraction, seed, recipe)
            for seed in range(seeds)
            for fraction in fractions
            for network in networks
        ]
        rows = run_all(trials, images, device, out / "results.json", console)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    results = gather(trials, rows)
    lines = comparison(twins, results)
    console.print(as_table(lines, f"{images.built['name']}: accuracy by training images, seeds 0 to {seeds - 1}"))
    (out / "table.md").write_text(as_markdown(lines))
    draw(twins, results, images, out / "error.png")
    click.echo(f"wrote {out / 'results.json'}, {out / 'table.md'} and {out / 'error.png'}")


if __name__ == "__main__":
    main()
