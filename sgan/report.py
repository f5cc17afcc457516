"""Compare runs: `python -m sgan.report RUN... --out docs/images` draws curves and grids, and prints a table."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from sgan.checkpoints import CheckpointError
from sgan.runs import read_json_lines

__all__ = ["Curve", "draw_curves", "draw_grids", "main", "read_curve"]

GAP = 24  # pixels between grids placed side by side
LABEL_HEIGHT = 40


@dataclass(frozen=True)
class Curve:
    """One metric of one run.

    Attributes:
        run: the run folder.
        kimg, values: one entry per tick.
        floor: the metric of held-out real images.
    """

    run: Path
    kimg: list[float]
    values: list[float]
    floor: float

    @property
    def name(self) -> str:
        return self.run.resolve().name


def read_curve(run: Path, metric: str) -> Curve:
    """Read one metric of a run folder.

    Raises:
        CheckpointError: the folder has no such metric, or a damaged one.
    """
    path = run / f"metric-{metric}.jsonl"
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: is {run} a run folder with this metric?")
    lines = read_json_lines(path)
    floor = json.loads((run / "floor.json").read_text())["results"][metric]
    return Curve(run, [line["images"] / 1000 for line in lines], [line["results"][metric] for line in lines], floor)


def draw_curves(curves: list[Curve], metric: str, path: Path) -> None:
    """Draw metric against kimg, one line per run, and the first run's floor as a dashed line."""
    from matplotlib.figure import Figure  # here: slow to import, and only drawing needs it

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        axes.plot(curve.kimg, curve.values, marker="o", markersize=3, label=curve.name)
    axes.axhline(curves[0].floor, color="grey", linestyle="--", linewidth=1, label="real against held-out real")
    axes.set_xlabel("thousands of real images shown")
    axes.set_ylabel(metric)
    axes.set_yscale("log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=150, metadata={"Software": None})


def draw_grids(runs: list[Path], path: Path) -> None:
    """Place the real images of the first run and the last samples of every run side by side, with their names.

    Raises:
        CheckpointError: a run has no grid.
    """
    pictures = [("real", runs[0] / "reals.png")] + [(run.resolve().name, last_grid(run)) for run in runs]
    images = [Image.open(picture).convert("L") for _, picture in pictures]
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    height = max(image.height for image in images) + LABEL_HEIGHT
    sheet = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=22)
    left = 0
    for (name, _), image in zip(pictures, images, strict=True):
        sheet.paste(image, (left, LABEL_HEIGHT))
        draw.text((left + image.width // 2, LABEL_HEIGHT // 2), name, fill=0, font=font, anchor="mm")
        left += image.width + GAP
    sheet.save(path)


def last_grid(run: Path) -> Path:
    """The newest fakesNNNNNN.png of a run."""
    grids = sorted(run.glob("fakes*.png"))
    if not grids:
        raise CheckpointError(f"{run} holds no fakesNNNNNN.png: is it a run folder?")
    return grids[-1]


def print_table(curves: list[Curve], metric: str, console: Console) -> None:
    """Start, minimum, median and final value of every run."""
    table = Table("run", "kimg", "start", "min", "median", "final", "start / final", title=metric)
    for curve in curves:
        start, final = curve.values[0], curve.values[-1]
        values = [start, min(curve.values), statistics.median(curve.values), final]
        shown = [f"{value:.3f}" for value in values]
        table.add_row(curve.name, f"{curve.kimg[-1]:.0f}", *shown, f"{start / final:.1f}")
    floor = f"{curves[0].floor:.3f}"
    table.add_row("real against held-out real", "", "", floor, floor, floor, "")
    console.print(table)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the pictures; without it only the table is printed.",
)
@click.option("--metric", default="fid_digits", show_default=True)
def main(runs: tuple[Path, ...], out: Path | None, metric: str) -> None:
    """Compare runs: start, minimum, median and final value of a metric; its curves, and the last grids side by side."""
    try:
        curves = [read_curve(run, metric) for run in runs]
        print_table(curves, metric, Console())
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            draw_curves(curves, metric, out / f"{metric}.png")
            draw_grids(list(runs), out / "grids.png")
            click.echo(f"wrote {out / f'{metric}.png'} and {out / 'grids.png'}")
    except (CheckpointError, OSError, KeyError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
