"""Curves, grids and the table of runs, on hand-written run folders and on a real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from sgan.config import Options
from sgan.report import main, read_curve
from sgan.session import train


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "eqv", [100.0, 8.0, 12.0, 10.0]),
        write_run(tmp_path / "cnn", [100.0, 60.0, 55.0, 50.0]),
    ]


def write_run(
    path: Path, values: list[float], *, floor: float = 1.5, data: str = "a", n: int = 100, features: str = "f"
) -> Path:
    path.mkdir()
    facts = {"n_fake": n, "features_sha256": features}
    lines = [
        {"results": {"fid_x": value}, "kimg": 2 * i, "images": 2000 * i, **facts} for i, value in enumerate(values)
    ]
    (path / "metric-fid_x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "floor.json").write_text(json.dumps({"results": {"fid_x": floor}, "n_floor": 96, "n_floor_sources": 24}))
    dataset = {"name": data, "seed": 0, "reference_sha256": f"reference {data}", "test_sha256": f"test {data}"}
    (path / "training_options.json").write_text(json.dumps({"dataset": dataset}))
    for name in ("reals.png", "fakes000000.png", "fakes000006.png"):
        Image.new("L", (60, 60), 255 if name == "fakes000006.png" else 0).save(path / name)
    return path


def table_of(runs: list[Path]) -> list[list[str]]:
    """The cells of every row that the command prints."""
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, [*map(str, runs), "--metric", "fid_x"])
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.output.splitlines()]
    return [row for row in rows if len(row) == 8]


def test_a_curve_is_read_with_its_floor(runs: list[Path]) -> None:
    curve = read_curve(runs[0], "fid_x")
    assert (curve.name, curve.kimg, curve.values, curve.n) == ("eqv", [0, 2, 4, 6], [100, 8, 12, 10], 100)
    assert (curve.floor.value, curve.floor.n, curve.floor.sources) == (1.5, 96, 24)


def test_the_table_leaves_kimg_0_out_of_minimum_and_median(runs: list[Path]) -> None:
    floor = "held-out real, a (seed 0), n = 96 of 24"
    assert table_of(runs) == [
        ["eqv", "6", "100", "100.000", "8.000", "10.000", "10.000", "10.0"],
        ["cnn", "6", "100", "100.000", "50.000", "55.000", "50.000", "2.0"],
        [floor, "", "96", "", "", "", "1.500", ""],
    ]


def test_a_run_that_has_only_started_has_a_row(tmp_path: Path) -> None:
    row = table_of([write_run(tmp_path / "new", [100.0])])[0]
    assert row == ["new", "0", "100", *["100.000"] * 4, "1.0"]


def test_every_data_set_has_a_floor_of_its_own(runs: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "d4", [100.0, 9.0], floor=2.5, data="b")
    floors = [row for row in table_of([*runs, other]) if row[0].startswith("held-out")]
    assert [(row[0], row[6]) for row in floors] == [
        ("held-out real, a (seed 0), n = 96 of 24", "1.500"),
        ("held-out real, b (seed 0), n = 96 of 24", "2.500"),
    ]


@pytest.mark.parametrize(
    ("changes", "what"), [({"n": 50}, "n is 100 in cnn, 50 in d4"), ({"features": "g"}, "features")]
)
def test_values_that_were_measured_differently_are_refused(
    runs: list[Path], tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    other = write_run(tmp_path / "d4", [100.0, 9.0], **changes)
    result = CliRunner().invoke(main, [*map(str, runs), str(other), "--metric", "fid_x"])
    assert result.exit_code == 1
    assert f"values of fid_x cannot be compared: {what}" in result.output


def test_a_record_of_another_version_is_named(runs: list[Path]) -> None:
    (runs[0] / "floor.json").write_text(json.dumps({"results": {"fid_x": 1.5}}))
    result = CliRunner().invoke(main, [str(runs[0]), "--metric", "fid_x"])
    assert result.exit_code == 1
    assert "was written by another version (KeyError('n_floor'))" in " ".join(result.output.split())


def test_the_command_draws_both_pictures(runs: list[Path], tmp_path: Path) -> None:
    arguments = [*map(str, runs), "--metric", "fid_x", "--out", str(tmp_path / "images")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "images" / "fid_x.png") as image:
        assert image.width > 500
    with Image.open(tmp_path / "images" / "grids.png") as image:
        assert image.width == 3 * 60 + 2 * 24
        assert image.getpixel((30, image.height - 1)) == 0  # real
        assert image.getpixel((30 + 84, image.height - 1)) == 255  # the newest grid of the first run


def test_without_out_nothing_is_drawn(runs: list[Path], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert CliRunner().invoke(main, [str(runs[0]), "--metric", "fid_x"]).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_the_metric_is_named(runs: list[Path]) -> None:
    result = CliRunner().invoke(main, [str(runs[0]), "--metric", "fid_y"])
    assert result.exit_code == 1
    assert "metric-fid_y.jsonl does not exist" in result.output


def test_a_real_run_is_read(tiny: Options, tmp_path: Path) -> None:
    train(replace(tiny, kimg=1), tmp_path / "run")
    curve = read_curve(tmp_path / "run", "fid_digits")
    assert curve.kimg == [0, 1]
    assert (curve.n, curve.floor.n, curve.floor.sources) == (32, 8, 8)
    assert curve.floor.name == "held-out real, few.npz (seed 0), n = 8"
