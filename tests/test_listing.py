"""The table of presets: what each line says, in terminals of any width and where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sgan.listing import TITLES, print_presets
from sgan.presets import PRESETS, gflop_per_kimg, gflop_text


def printed(width: int | None) -> list[str]:
    """The lines in a terminal of so many columns, or for None in a file."""
    file = io.StringIO()
    terminal = {"force_terminal": True, "color_system": None, "width": width}
    print_presets(Console(file=file, **(terminal if width else {})))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_without_a_terminal_every_preset_has_one_line_with_every_field() -> None:
    header, *lines = printed(None)
    starts = [header.index(title) for title in TITLES.values() if title not in ("steps", "GFLOP per kimg")]
    assert "GFLOP per kimg, group-Fourier" in header
    assert len(lines) == len(PRESETS)
    for line, (name, preset) in zip(lines, PRESETS.items(), strict=True):
        cells = [line[start:].split("  ")[0] for start in starts]
        assert cells[:3] == [name, preset.system, preset.summary]
        assert cells[-1] == preset.published
        assert gflop_text(gflop_per_kimg()[name]) in line.split()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_gets_a_line_for_every_preset_that_fits(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    of_presets = [line for line in lines if line.split(" ")[0] in PRESETS]
    assert sorted(line.split()[0] for line in of_presets) == sorted(PRESETS)
    for line in of_presets:
        assert gflop_text(gflop_per_kimg()[line.split()[0]]) in line.split()
    headings = [line for line in lines if ", data " in line]
    assert len(headings) == len(set(headings))
    assert all(("networks" in heading) == (width < 110) for heading in headings)


def test_terminals_from_120_columns_break_two_presets_lines() -> None:
    for width in (120, 200):
        broken = [line for line in printed(width) if line.startswith(" ")]
        assert len(broken) == 1 + 2, broken  # and the titles'


def test_steps_are_those_of_the_publication() -> None:
    """SP-GAN trains G for 20,000 steps, two of D to one of G; a threshold's step is one batch; the last may be less."""
    steps = {line.split()[0]: line.split() for line in printed(120) if line.split(" ")[0] in PRESETS}
    assert "20,000" in steps["rotmnist-c4"]  # 2,560 kimg in batches of 64
    assert "64,000" in steps["toy-deligan"]  # 8,000 epochs of 400 points in batches of 50
    assert "23,438" in steps["mnist-gan"]  # 3,000 kimg in batches of 128: 23,437.5


@pytest.mark.parametrize(
    ("gflop", "text"),
    [(0.0, "0"), (0.0011741, "0.00117"), (35.18, "35.2"), (999.96, "1,000"), (12_345.0, "12,300"), (9.996, "10.0")],
)
def test_gflop_in_three_digits(gflop: float, text: str) -> None:
    assert gflop_text(gflop) == text
