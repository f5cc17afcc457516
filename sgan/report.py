"""Compare runs: `python -m sgan.report RUN... --out docs/images` draws curves and grids, and prints a table."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import click
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from sgan.checkpoints import CheckpointError
from sgan.files import write_atomic
from sgan.grids import write_png
from sgan.metrics.evaluator import FEWER
from sgan.runs import read_json_lines

__all__ = ["Curve", "Floor", "common_metric", "draw_curves", "draw_grids", "main", "read_curve"]

GAP = 24  # pixels between grids placed side by side
LABEL_HEIGHT = 40
HOW = ("resize_rule", "conditions")  # facts of every value, which older versions wrote otherwise or not at all
TEST = "fid_test_"  # distances from the held-out images


class Floor(NamedTuple):
    """What held-out real images of one data set get in place of fakes.

    data: the set and its seed. n, sources: so many images, drawn from so many different held-out ones. checksums: of
    the reference and the held-out images, which tell data sets apart whatever their names.
    """

    value: float
    data: str
    n: int
    sources: int
    checksums: tuple[str, str]

    @property
    def name(self) -> str:
        of = "" if self.sources == self.n else f" of {self.sources:,}"
        return f"held-out real, {self.data}, n = {self.n:,}{of}"


@dataclass(frozen=True)
class Curve:
    """One metric of one run.

    Attributes:
        run: the run folder.
        kimg, values: one entry per tick, the first at kimg 0.
        n: fakes that every value was measured on.
        features_sha256: of the feature network.
        how: what else every value was measured by: the rule that brings images to the network, and the conditions.
        floor: the metric of held-out real images.
    """

    run: Path
    kimg: list[float]
    values: list[float]
    n: int
    features_sha256: str
    how: str
    floor: Floor

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @property
    def trained(self) -> list[float]:
        """The values after kimg 0, at which nothing has been trained; all of a run that has no others."""
        return self.values[1:] if len(self.values) > 1 else self.values


def read_curve(run: Path, metric: str) -> Curve:
    """Read one metric of a run folder.

    Raises:
        CheckpointError: the folder has no such metric, or a damaged one.
    """
    path = run / f"metric-{metric}.jsonl"
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: is {run} a run folder with this metric?")
    lines = read_json_lines(path)
    if not lines:
        raise CheckpointError(f"{path} holds no value yet")
    try:
        kimg, values = [line["images"] / 1000 for line in lines], [line["results"][metric] for line in lines]
        how = "; ".join(str(lines[-1][name]) for name in HOW if name in lines[-1])
        first = lines[0]
        return Curve(run, kimg, values, first["n_fake"], first["features_sha256"], how, read_floor(run, metric))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{run} is damaged, or was written by another version ({error!r})") from error


def read_floor(run: Path, metric: str) -> Floor:
    """Read the floor of one metric of a run folder, and which data it belongs to."""
    floor = json.loads((run / "floor.json").read_text())
    data = json.loads((run / "training_options.json").read_text())["dataset"]
    name = f"{data['name']} (seed {data['seed']})"
    checksums = (data["reference_sha256"], data["test_sha256"])
    return Floor(floor["results"][metric], name, floor["n_floor"], floor["n_floor_sources"], checksums)


def common_metric(runs: Sequence[Path]) -> str:
    """The Frechet distance that all runs have: of imagenet's features before those of digits.

    Raises:
        CheckpointError: there is none.
    """
    found = [
        {name for path in run.glob("metric-fid_*.jsonl") if not (name := path.stem[len("metric-") :]).startswith(TEST)}
        for run in runs
    ]
    common = sorted(set.intersection(*found), key=lambda name: (name != "fid_imagenet", name))
    if not common:
        has = "; ".join(
            f"{run} has {', '.join(sorted(names)) or 'none'}" for run, names in zip(runs, found, strict=True)
        )
        raise CheckpointError(f"no Frechet distance is common to all runs, so --metric must name a metric: {has}")
    return common[0]


def distinct_floors(curves: list[Curve]) -> list[Floor]:
    """One floor per data set, in the order of the runs."""
    return list({curve.floor.checksums: curve.floor for curve in curves}.values())


def check_comparable(curves: list[Curve], metric: str) -> None:
    """Raise unless all runs were measured alike.

    Raises:
        CheckpointError: with different feature networks, resize rules or conditions, or on different numbers of fakes.
    """
    for what in ("features_sha256", "n", "how"):
        seen = {getattr(curve, what): curve.name for curve in curves}
        if len(seen) > 1:
            each = ", ".join(f"{value} in {name}" for value, name in seen.items())
            raise CheckpointError(f"values of {metric} cannot be compared: {what} is {each}")


def draw_curves(curves: list[Curve], metric: str, path: Path) -> None:
    """Draw metric against kimg, one line per run, and one dashed line per data set for its floor."""
    from matplotlib.figure import Figure  # here: slow to import, and only drawing needs it

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        axes.plot(curve.kimg, curve.values, marker="o", markersize=3, label=curve.name)
    for floor, dashes in zip(distinct_floors(curves), cycle(["--", ":", "-."]), strict=False):
        axes.axhline(floor.value, color="grey", linestyle=dashes, linewidth=1, label=floor.name)
    axes.set_xlabel("thousands of real images shown")
    axes.set_ylabel(f"{metric} (n = {curves[0].n:,})")
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    write_atomic(path, content.getvalue())


def draw_grids(runs: list[Path], path: Path) -> None:
    """Place the real images of the first run and the last samples of every run side by side, with their names.

    Raises:
        CheckpointError: a run has no grid.
    """
    pictures = [("real", runs[0] / "reals.png")] + [(run.resolve().name, last_grid(run)) for run in runs]
    opened = [Image.open(picture) for _, picture in pictures]
    mode = "L" if all(image.mode == "L" for image in opened) else "RGB"
    images = [image.convert(mode) for image in opened]
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    height = max(image.height for image in images) + LABEL_HEIGHT
    sheet = Image.new(mode, (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=22)
    left = 0
    for (name, _), image in zip(pictures, images, strict=True):
        sheet.paste(image, (left, LABEL_HEIGHT))
        draw.text((left + image.width // 2, LABEL_HEIGHT // 2), name, fill="black", font=font, anchor="mm")
        left += image.width + GAP
    write_png(path, sheet)


def last_grid(run: Path) -> Path:
    """The newest fakesNNNNNN.png of a run."""
    grids = sorted(run.glob("fakes*.png"))
    if not grids:
        raise CheckpointError(f"{run} holds no fakesNNNNNN.png: is it a run folder?")
    return grids[-1]


def print_table(curves: list[Curve], metric: str, console: Console) -> None:
    """Start, minimum, median and final value of every run; minimum and median are of the ticks after kimg 0."""
    table = Table("run", "kimg", "n", "start", "min", "median", "final", "start / final", title=metric)
    for curve in curves:
        start, final = curve.values[0], curve.values[-1]
        values = [start, min(curve.trained), statistics.median(curve.trained), final]
        shown = [f"{value:.3f}" for value in values]
        table.add_row(curve.name, f"{curve.kimg[-1]:.0f}", f"{curve.n:,}", *shown, f"{start / final:.1f}")
    for floor in distinct_floors(curves):
        table.add_row(floor.name, "", f"{floor.n:,}", "", "", "", f"{floor.value:.3f}", "")
    if any(floor.n < FEWER * curves[0].n for floor in distinct_floors(curves)):
        table.caption = f"a floor of fewer images than the {curves[0].n:,} fakes: too high a fid, too low a coverage"
    console.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the pictures; without it only the table is printed.",
)
@click.option("--metric", help="[default: the runs' fid_<features>]")
def main(runs: tuple[Path, ...], out: Path | None, metric: str | None) -> None:
    """Compare runs: start, minimum, median and final value of a metric; its curves, and the last grids side by side.

    Minimum and median are of the ticks after kimg 0. Values of one table have one feature network and one number of
    fakes, else it is refused. Every data set has a row of its own with its floor: what held-out real images get.
    """
    try:
        metric = metric or common_metric(runs)
        curves = [read_curve(run, metric) for run in runs]
        check_comparable(curves, metric)
        print_table(curves, metric, Console())
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            draw_curves(curves, metric, out / f"{metric}.png")
            draw_grids(list(runs), out / "grids.png")
            click.echo(f"wrote {out / f'{metric}.png'} and {out / 'grids.png'}")
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
