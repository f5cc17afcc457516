"""The table of presets that `python -m sgan.train --list` prints. It loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sgan.config import Options
from sgan.presets import PRESETS, Preset, gflop_per_kimg, gflop_text
from sgan.sizes import fitting_sides

__all__ = ["print_presets"]

TITLES = {
    "name": "preset",
    "system": "system",
    "summary": "what it is",
    "data": "data",
    "sides": "sides",
    "networks": "networks",
    "loss": "loss",
    "steps": "steps",
    "cost": "GFLOP per kimg",
    "published": "published",
}
WHOLE_COST_TITLE = "GFLOP per kimg, group-Fourier"  # where no note explains it
NUMBERS = ("steps", "cost")
WRAPPED = ("summary", "published")  # where a terminal is too narrow; titles may wrap anywhere
NOTES = (
    "sides: of the square images that the networks fit, in pixels; --resolution brings images to one of them.",
    "steps: updates of G until the preset's own kimg; with DeLiGAN's thresholds, batches of five updates of G or D.",
    "GFLOP per kimg: 10^9 floating-point operations of training on 1,000 real images, in convolutions and matrix "
    "products, group convolutions in group-Fourier form. --dry-run measures how long they take.",
)

WIDER = "A terminal of 170 columns, or a pipe, shows besides what each preset is."

Row = dict[str, str]


class Layout(NamedTuple):
    """For a terminal of `width` columns or more: what is said of presets in common, and what in each one's line.

    Columns are `gap` apart.
    """

    width: int
    gap: int
    heading: str
    columns: tuple[str, ...]


LAYOUTS = (
    Layout(
        170,
        2,
        "{system}, data {data}, sides {sides}",
        ("name", "summary", "networks", "loss", "steps", "cost", "published"),
    ),
    Layout(110, 2, "{system}, data {data}, sides {sides}", ("name", "networks", "loss", "steps", "cost", "published")),
    Layout(
        0,
        1,
        "{system}, data {data}, sides {sides}, networks {networks}",
        ("name", "loss", "steps", "cost", "published"),
    ),
)


def print_presets(console: Console) -> None:
    """Print every preset: in a terminal under what it shares with others, elsewhere a line of every field for each."""
    costs = gflop_per_kimg()
    rows = [_row(name, preset, costs[name]) for name, preset in PRESETS.items()]
    if not console.is_terminal:
        for line in _lines([{**TITLES, "cost": WHOLE_COST_TITLE}, *rows]):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    layout = next(layout for layout in LAYOUTS if console.width >= layout.width)
    widths = _widths(rows, layout, console.width)
    console.print(_table([TITLES], widths, layout.gap, style="bold"))
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(layout.heading.format_map(row), []).append(row)
    for heading, block in blocks.items():
        console.print(f"\n{heading}", style="bold", highlight=False, markup=False)
        console.print(_table(block, widths, layout.gap))
    for note in ("", *NOTES, *(() if "summary" in layout.columns else (WIDER,))):
        console.print(note, highlight=False, markup=False)


def _row(name: str, preset: Preset, gflop: float) -> Row:
    options = Options(preset=name, **preset.changes)
    return {
        "name": name,
        "system": preset.system,
        "summary": preset.summary,
        "data": options.data,
        "sides": fitting_sides(options.generator, options.discriminator),
        "networks": " + ".join(dict.fromkeys((options.generator, options.discriminator))),
        "loss": options.loss if options.head == "score" else f"{options.loss}, {options.head}",
        "steps": f"{options.steps:,}",
        "cost": gflop_text(gflop),
        "published": preset.published,
    }


def _lines(rows: list[Row]) -> Iterator[str]:
    """Every field of each row in columns as wide as their longest cell."""
    widths = {field: max(len(row[field]) for row in rows) for field in TITLES}
    for row in rows:
        cells = (f"{row[field]:{'>' if field in NUMBERS else '<'}{width}}" for field, width in widths.items())
        yield "  ".join(cells).rstrip()


def _widths(rows: list[Row], layout: Layout, total: int) -> dict[str, int]:
    """Of each column: its longest cell, but those that wrap share what is left, the last one first."""
    columns = layout.columns
    widths = {field: max(len(row[field]) for row in rows) for field in columns} | {"cost": len("per kimg")}
    left = (
        total - layout.gap * (len(columns) - 1) - sum(width for field, width in widths.items() if field not in WRAPPED)
    )
    for field in reversed(columns):
        if field in WRAPPED:
            widths[field] = min(widths[field], left)
            left -= widths[field]
    return widths


def _table(rows: list[Row], widths: dict[str, int], gap: int, style: str = "") -> Table:
    table = Table(box=None, show_header=False, padding=(0, gap, 0, 0), pad_edge=False, style=style)
    for field, width in widths.items():
        table.add_column(width=width, justify="right" if field in NUMBERS else "left")
    for row in rows:
        table.add_row(*(Text(row[field]) for field in widths))
    return table
