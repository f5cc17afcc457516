"""Metrics over training and seeds, on hand-written run folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sgan.checkpoints import CheckpointError
from sgan.metrics.summary import main, summarise_seeds


def write_run(
    path: Path, seed: int, values: list[float], *, metric: str = "fid_x", floor: float = 1.0, **options: Any
) -> Path:
    path.mkdir()
    lines = [
        {"results": {metric: value}, "kimg": 2 * i, "images": 2000 * i, "n_fake": 100, "features_sha256": "f"}
        for i, value in enumerate(values)
    ]
    (path / f"metric-{metric}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "floor.json").write_text(json.dumps({"results": {metric: floor}, "n_floor": 9, "n_floor_sources": 9}))
    dataset = {"name": "d", "seed": seed, "reference_sha256": f"r{seed}", "test_sha256": f"t{seed}"}
    recorded = {"dataset": dataset, "options": {"seed": seed, "batch": 32, **options}}
    (path / "training_options.json").write_text(json.dumps(recorded))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    curves = ([200.0, 8, 12, 11], [180.0, 6, 5, 7], [90.0, 40, 30, 30])
    return [write_run(tmp_path / f"r{i}", 2 - i, values, floor=1.0 + i) for i, values in enumerate(curves)]


def test_best_median_and_final_over_the_seeds(runs: list[Path]) -> None:
    summary = summarise_seeds(runs, "fid_x")
    assert (summary.metric, summary.seeds, summary.n, summary.features_sha256) == ("fid_x", (0, 1, 2), 100, "f")
    assert summary.best == pytest.approx(((8 + 5 + 30) / 3, 5, 30))  # kimg 0 is left out
    assert summary.median == pytest.approx(((11 + 6 + 30) / 3, 6, 30))
    assert summary.final == pytest.approx(((11 + 7 + 30) / 3, 7, 30))
    assert summary.floors == (2, 1, 3)


def test_the_best_of_a_metric_that_should_be_high_is_its_largest(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{seed}", seed, [0.1, 0.5, 0.4], metric="recall_x") for seed in range(3)]
    assert summarise_seeds(runs, "recall_x").best == pytest.approx((0.5, 0.5, 0.5))


def test_fewer_than_three_seeds_are_refused_unless_asked_for(runs: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="runs must be at least 3, got 2"):
        summarise_seeds(runs[:2], "fid_x")
    assert summarise_seeds(runs[:2], "fid_x", min_seeds=2).seeds == (1, 2)


def test_runs_that_are_no_seeds_of_one_experiment(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="runs must have different seeds, got 0, 1, 1"):
        summarise_seeds([*runs[1:], write_run(tmp_path / "same", 1, [9.0, 9, 9, 9])], "fid_x")
    with pytest.raises(CheckpointError, match="runs must differ in seed only, got batch"):
        summarise_seeds([*runs, write_run(tmp_path / "batch", 7, [9.0, 9, 9, 9], batch=64)], "fid_x")
    with pytest.raises(CheckpointError, match="runs must have one length, got 6 and 4 kimg"):
        summarise_seeds([*runs, write_run(tmp_path / "short", 7, [9.0, 9, 9])], "fid_x")
    (runs[0] / "training_options.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"training_options\.json is missing or damaged"):
        summarise_seeds(runs, "fid_x")


def test_the_command_prints_a_table(runs: list[Path]) -> None:
    arguments = [*map(str, runs), "--metric", "fid_x"]
    result = CliRunner(env={"COLUMNS": "100"}).invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.output.splitlines()]
    assert ["best", "14.333", "5.000", "30.000"] in rows
    assert ["floors", "2.000", "1.000", "3.000"] in rows
    assert "fid_x, 3 seeds, n = 100, features f" in result.output
    refused = CliRunner().invoke(main, arguments[:1] + arguments[3:])
    assert refused.exit_code == 1
    assert "runs must be at least 3, got 1" in refused.output
