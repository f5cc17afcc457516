"""Run folders: what a run writes, and that it resumes, extends and refuses as it should. Networks are tiny."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options
from sgan.presets import PRESETS
from sgan.runs import ChangedOptions, RunFolder, read_json_lines
from sgan.session import Interrupted, train
from sgan.train import main
from sgan.trainer import Trainer


@pytest.fixture(scope="module")
def finished(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 kimg, not to be written to."""
    return train(tiny, tmp_path_factory.mktemp("run") / "finished").path


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return checkpoints.read(run / "training-state.safetensors")[0]


def assert_same_run(actual: Path, expected: Path) -> None:
    """Equal states bit for bit, equal snapshots, grids and metrics."""
    mine, theirs = tensors_of(actual), tensors_of(expected)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    for name in ("network-snapshot-000002.safetensors", "fakes000002.png"):
        assert (actual / name).read_bytes() == (expected / name).read_bytes()
    assert read_json_lines(actual / "metric-fid_digits.jsonl") == read_json_lines(expected / "metric-fid_digits.jsonl")


def copied(run: Path, to: Path) -> Path:
    """A copy that a test may change."""
    to.mkdir()
    for file in run.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_run_writes_every_file(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    kinds = (
        "fid",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "is",
        "mis",
        "fid_test",
        "kid_test",
        "per_class",
    )
    metrics = {f"metric-{kind}_digits.jsonl" for kind in kinds} | {"metric-memorised_pixels.jsonl"}
    grids = {"reals.png", *(f"fakes{kimg:06d}.png" for kimg in range(3))}
    snapshots = {f"network-snapshot-{kimg:06d}.safetensors" for kimg in range(3)}
    states = {"training-state.safetensors", "training-state-previous.safetensors"}
    others = {"training_options.json", "log.txt", "stats.jsonl", "floor.json", *states}
    assert names == metrics | grids | snapshots | others


def test_json_files_hold_what_they_promise(tiny: Options, finished: Path) -> None:
    recorded = json.loads((finished / "training_options.json").read_text())
    assert recorded["options"]["preset"] == "digits-c4"
    assert recorded["options"]["generator_width"] == tiny.generator_width
    assert recorded["dataset"]["n_train"] == 26
    assert recorded["generator"]["parameters"] > 0
    metric = read_json_lines(finished / "metric-fid_digits.jsonl")
    assert [line["kimg"] for line in metric] == [0, 1, 2]
    for line in metric:
        assert line["metric"] == "fid_digits"
        assert line["results"]["fid_digits"] > 0
        assert {"features", "features_sha256", "n_real", "n_fake", "resize_rule", "snapshot"} <= line.keys()
        assert (finished / line["snapshot"]).exists()
    stats = read_json_lines(finished / "stats.jsonl")
    assert [line["images"] for line in stats] == [0, 1000, 2000]
    assert {"loss_generator", "loss_discriminator", "penalty", "images_per_s", "elapsed_s"} <= stats[1].keys()
    floor = json.loads((finished / "floor.json").read_text())
    assert 0 < floor["results"]["fid_digits"] < metric[0]["results"]["fid_digits"]


def test_grids_have_one_class_per_row(finished: Path) -> None:
    for name in ("reals.png", "fakes000000.png", "fakes000002.png"):
        with Image.open(finished / name) as image:
            assert image.height == 10 * 56
            assert 0 < image.width - 10 * 56 < 56  # the margin of the names
    assert (finished / "fakes000000.png").read_bytes() != (finished / "fakes000002.png").read_bytes()


def test_the_log_is_plain_text_with_a_line_per_tick(finished: Path) -> None:
    log = (finished / "log.txt").read_text()
    assert "\x1b" not in log
    assert [line.split()[1] for line in log.splitlines() if line.startswith("kimg ")] == ["0/2", "1/2", "2/2"]


def test_a_shorter_run_extended_is_the_longer_run_bit_for_bit(tiny: Options, finished: Path, tmp_path: Path) -> None:
    train(replace(tiny, kimg=1), tmp_path / "run")
    train(tiny, tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)
    assert json.loads((tmp_path / "run" / "training_options.json").read_text())["options"]["kimg"] == 2


def test_a_stopped_run_resumes_bit_for_bit(
    tiny: Options, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT in the middle of a tick: the step is finished, the state saved, and nothing is trained twice."""
    original = Trainer.step

    def stopping(self: Trainer) -> dict[str, torch.Tensor]:
        if self.images_seen == 1250:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(Interrupted, match=r"stopped at 1\.4 kimg"):
        train(tiny, tmp_path / "run")
    monkeypatch.undo()
    assert int(tensors_of(tmp_path / "run")["images_seen"]) == 1375
    train(tiny, tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)


def test_a_killed_run_repeats_its_last_tick(
    tiny: Options, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the metrics of kimg 2 were written, before the state: their lines are written once all the same."""
    original = RunFolder.write_state

    def failing(self: RunFolder, tensors: dict[str, torch.Tensor], elapsed_s: float) -> None:
        if int(tensors["images_seen"]) == 2000:
            raise OSError("disk full")
        original(self, tensors, elapsed_s)

    monkeypatch.setattr(RunFolder, "write_state", failing)
    with pytest.raises(OSError, match="disk full"):
        train(tiny, tmp_path / "run")
    monkeypatch.undo()
    with open(tmp_path / "run" / "stats.jsonl", "a") as file:
        file.write('{"kimg": 2, "ima')
    train(tiny, tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)
    assert [line["kimg"] for line in read_json_lines(tmp_path / "run" / "stats.jsonl")] == [0, 1, 2]


def test_a_finished_run_is_left_alone(tiny: Options, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    train(tiny, finished)
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "--seed was 0, now 1"),
        ({"data": "digits"}, "--data was .*few.npz, now digits, and the held-out"),
        ({"subset": None}, r"--subset was 0\.8, now not set"),
        ({"kimg": 1}, "--kimg was 2, now 1"),
        (
            {"preset": "digits-cnn", "generator_group": "C1"},
            "--preset was digits-c4, now digits-cnn; generator_group",
        ),
    ],
)
def test_other_options_are_refused_by_name(
    tiny: Options, finished: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ChangedOptions, match=message):
        train(replace(tiny, **changes), finished)  # type: ignore[arg-type]  # any option


def test_other_data_is_refused(tiny: Options, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    recorded = json.loads((run / "training_options.json").read_text())
    recorded["dataset"]["train_sha256"] = "0" * 16
    (run / "training_options.json").write_text(json.dumps(recorded))
    with pytest.raises(ChangedOptions, match="training images have changed"):
        train(replace(tiny, kimg=3), run)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_damaged_state_is_named_and_the_one_before_is_used(
    tiny: Options, finished: Path, tmp_path: Path, kept: int
) -> None:
    """Cut short after the run had finished: what came after the state before it is repeated, bit for bit."""
    run = copied(finished, tmp_path / "run")
    state = run / "training-state.safetensors"
    state.write_bytes(state.read_bytes()[:kept])
    console = Console(file=io.StringIO(), width=1000)
    train(tiny, run, console)
    said = rf"warning: {state} is damaged or incomplete .* training-state-previous\.safetensors, at 1\.0 kimg"
    for text in (console.file.getvalue(), (run / "log.txt").read_text()):  # type: ignore[attr-defined]  # a StringIO
        assert re.search(said, text)
    assert_same_run(run, finished)
    assert [line["kimg"] for line in read_json_lines(run / "stats.jsonl")] == [0, 1, 2]


def test_the_state_before_takes_the_place_of_an_altered_one(tiny: Options, finished: Path, tmp_path: Path) -> None:
    """An altered one is never kept as the one before."""
    run = copied(finished, tmp_path / "run")
    (run / "training-state.safetensors").write_bytes(b"")
    folder = RunFolder(run)
    state = folder.read_state()
    assert state is not None
    folder.continue_from(state)
    folder.write_state(state.tensors, 0.0)
    checkpoints.read(folder.state_path)
    checkpoints.read(folder.previous_path)
    assert [line["kimg"] for line in read_json_lines(run / "metric-fid_digits.jsonl")] == [0, 1]


def test_a_run_killed_between_the_renames_of_its_states_has_one(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    (run / "training-state.safetensors").rename(run / "training-state-previous.safetensors")
    state = RunFolder(run).read_state()
    assert state is not None
    assert state.images_seen == 2000
    assert "training-state.safetensors does not exist" in state.faults[0]


def test_two_damaged_states_are_named(tiny: Options, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    for name in ("training-state", "training-state-previous"):
        (run / f"{name}.safetensors").write_bytes(b"nothing")
    both = r"training-state\.safetensors is damaged .*training-state-previous\.safetensors is damaged"
    with pytest.raises(CheckpointError, match=both):
        train(tiny, run)


def test_a_state_without_its_options_is_not_continued(tiny: Options, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    (run / "training_options.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"training_options\.json"):
        train(tiny, run)


def test_a_full_disk_names_the_file_and_costs_nothing(
    tiny: Options, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No space for any of the files of the last tick, in turn; then there is space again."""
    fsync = os.fsync
    train(replace(tiny, kimg=1), tmp_path / "one")
    for name in ("fakes000002.png", "network-snapshot-000002.safetensors", "training-state.safetensors"):
        run = copied(tmp_path / "one", tmp_path / name)
        wanted = run / f".{name}.tmp"

        def full(file: int, wanted: Path = wanted) -> None:
            if wanted.exists() and os.path.samestat(os.fstat(file), os.stat(wanted)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(file)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=rf"No space left on device: '{run / name}'"):
                train(tiny, run)
        assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []
        train(tiny, run)
        assert_same_run(run, finished)


def test_a_state_of_other_networks_is_named(tiny: Options, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    state = tensors_of(run)
    del state["generator.lift.bias"]
    checkpoints.write(run / "training-state.safetensors", state, {})
    with pytest.raises(CheckpointError, match=r"does not fit this version's networks.*lift\.bias"):
        train(replace(tiny, kimg=3), run)


def test_divergence_is_an_error(tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = {name: torch.tensor(float("nan")) for name in ("loss_generator", "loss_discriminator", "penalty")}

    def diverging(self: Trainer) -> dict[str, torch.Tensor]:
        self.images_seen += 1000
        return nan

    monkeypatch.setattr(Trainer, "step", diverging)
    with pytest.raises(FloatingPointError, match=r"diverged before 1\.0 kimg"):
        train(tiny, tmp_path / "run")
    assert int(tensors_of(tmp_path / "run")["images_seen"]) == 0


def test_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sgan.session.estimate", lambda trainer: "estimated cost: stub")
    result = CliRunner().invoke(main, ["--dry-run", "--kimg", "7"])
    assert result.exit_code == 0, result.output
    assert "estimated cost" in result.output
    assert "parameters" in result.output
    assert list(tmp_path.iterdir()) == []


def test_list_prints_the_presets() -> None:
    result = CliRunner().invoke(main, ["--list"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == ["preset", *PRESETS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "digits-c3"], "is not one of"),
        (["--kimg", "0"], "--kimg"),
        (["--data", "no/such/folder"], "no such file or folder"),
        (["--subset", "2"], "subset must be a fraction"),
        (["--device", "nowhere"], "--device"),
        (["--backend", "fastest"], "--backend"),
    ],
)
def test_bad_arguments_give_one_line_and_no_folder(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
