"""Curves, grids and the table of runs, on hand-written run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from sgan.report import main, read_curve


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / "eqv", [100.0, 8.0, 10.0]), write_run(tmp_path / "cnn", [100.0, 60.0, 50.0])]


def write_run(path: Path, values: list[float]) -> Path:
    path.mkdir()
    lines = [{"results": {"fid_x": value}, "kimg": 2 * i, "images": 2000 * i} for i, value in enumerate(values)]
    (path / "metric-fid_x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "floor.json").write_text(json.dumps({"results": {"fid_x": 1.5}}))
    for name in ("reals.png", "fakes000000.png", "fakes000004.png"):
        Image.new("L", (60, 60), 255 if name == "fakes000004.png" else 0).save(path / name)
    return path


def test_a_curve_is_read_with_its_floor(runs: list[Path]) -> None:
    curve = read_curve(runs[0], "fid_x")
    assert (curve.name, curve.kimg, curve.values, curve.floor) == ("eqv", [0, 2, 4], [100, 8, 10], 1.5)


def test_the_command_prints_the_table_and_draws_both_pictures(runs: list[Path], tmp_path: Path) -> None:
    arguments = [*map(str, runs), "--metric", "fid_x", "--out", str(tmp_path / "images")]
    result = CliRunner(env={"COLUMNS": "120"}).invoke(main, arguments)
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if "eqv" in line)
    assert row.replace("│", " ").split() == ["eqv", "4", "100.000", "8.000", "10.000", "10.000", "10.0"]
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
