"""One metric over training and over seeds, from the metric-*.jsonl files of run folders.

    python -m sgan.metrics.summary RUN RUN RUN --metric fid_digits

The runs differ in their seeds only. Of each the best, median and final value after kimg 0 is taken, and of these the
mean over the seeds, with the smallest and the largest.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from sgan.checkpoints import CheckpointError
from sgan.report import Curve, check_comparable, common_metric, read_curve

LOWER_IS_BETTER = ("fid", "kid", "energy", "l1", "memorised")
MIN_SEEDS = 3


class Training(NamedTuple):
    """One metric over one run's training: best is the smallest value where lower is better, else the largest."""

    best: float
    median: float
    final: float


class OverSeeds(NamedTuple):
    """One number over the seeds: mean, smallest and largest."""

    mean: float
    low: float
    high: float


class SeedSummary(NamedTuple):
    """One metric over training and seeds.

    metric: its name. seeds: in increasing order. n, features_sha256: fakes and feature network of every value. best,
    median, final: over the seeds. floors: of held-out real images; with the seed the data's orientations may differ.
    """

    metric: str
    seeds: tuple[int, ...]
    n: int
    features_sha256: str
    best: OverSeeds
    median: OverSeeds
    final: OverSeeds
    floors: OverSeeds


def over_training(curve: Curve, metric: str) -> Training:
    """Return best, median and final value of the ticks after kimg 0."""
    best = min if metric.split("_")[0] in LOWER_IS_BETTER else max
    return Training(best(curve.trained), statistics.median(curve.trained), curve.values[-1])


def summarise_seeds(runs: Sequence[Path], metric: str, *, min_seeds: int = MIN_SEEDS) -> SeedSummary:
    """Summarise runs that differ in their seeds only.

    Args:
        runs: run folders.
        metric: such as fid_digits.
        min_seeds: fewer seeds are refused; the field's tables have at least three.

    Raises:
        CheckpointError: too few runs, a seed that comes twice, runs of other options, lengths, networks or numbers of
            fakes, or a folder without the metric.
    """
    if len(runs) < max(1, min_seeds):
        raise CheckpointError(f"summarise_seeds: runs must be at least {max(1, min_seeds)}, got {len(runs)}")
    by_seed = sorted(((_options(run), read_curve(run, metric)) for run in runs), key=lambda item: item[0]["seed"])
    curves = [curve for _, curve in by_seed]
    seeds = tuple(options["seed"] for options, _ in by_seed)
    if len(set(seeds)) < len(seeds):
        raise CheckpointError(f"summarise_seeds: runs must have different seeds, got {', '.join(map(str, seeds))}")
    _check_equal([{**options, "seed": None} for options, _ in by_seed], curves)
    check_comparable(curves, metric)
    trainings = [over_training(curve, metric) for curve in curves]
    best, median, final = (_over_seeds(values) for values in zip(*trainings, strict=True))
    floors = _over_seeds([curve.floor.value for curve in curves])
    return SeedSummary(metric, seeds, curves[0].n, curves[0].features_sha256, best, median, final, floors)


def _over_seeds(values: Sequence[float]) -> OverSeeds:
    return OverSeeds(statistics.fmean(values), min(values), max(values))


def _options(run: Path) -> dict[str, Any]:
    path = run / "training_options.json"
    try:
        options = dict(json.loads(path.read_text())["options"])
        return {**options, "seed": int(options["seed"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error!r})") from error


def _check_equal(options: list[dict[str, Any]], curves: list[Curve]) -> None:
    first = options[0]
    for other, curve in zip(options[1:], curves[1:], strict=True):
        changed = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if changed:
            raise CheckpointError(f"summarise_seeds: runs must differ in seed only, got {', '.join(changed)}")
        if curve.kimg != curves[0].kimg:
            raise CheckpointError(
                f"summarise_seeds: runs must have one length, got {curves[0].kimg[-1]:g} and {curve.kimg[-1]:g} kimg"
            )


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--metric", help="[default: the runs' fid_<features>]")
@click.option("--min-seeds", default=MIN_SEEDS, show_default=True, type=click.IntRange(1))
def main(runs: tuple[Path, ...], metric: str | None, min_seeds: int) -> None:
    try:
        metric = metric or common_metric(runs)
        summary = summarise_seeds(runs, metric, min_seeds=min_seeds)
    except CheckpointError as error:
        raise click.ClickException(str(error)) from error
    title = f"{metric}, {len(summary.seeds)} seeds, n = {summary.n:,}, features {summary.features_sha256}"
    table = Table("over training", "mean", "smallest", "largest", title=title)
    for name in ("best", "median", "final", "floors"):
        table.add_row(name, *(f"{value:.3f}" for value in getattr(summary, name)))
    Console().print(table)


if __name__ == "__main__":
    main()
