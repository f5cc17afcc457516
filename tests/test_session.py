"""The session around a trainer: what it does when it is killed, stopped or fed nonsense. Networks are tiny."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from sgan.config import Options
from sgan.cost import flop_per_kimg
from sgan.data import load_dataset
from sgan.presets import gflop_text
from sgan.progress import ProgressBar
from sgan.runs import ChangedOptions, RunFolder, read_json_lines
from sgan.session import Interrupted, Session, estimate, train
from sgan.train import main
from sgan.trainer import Trainer


def kimg_lines(run: Path) -> dict[str, list[int]]:
    """The kimg of every line of every .jsonl file."""
    return {path.name: [line["kimg"] for line in read_json_lines(path)] for path in run.glob("*.jsonl")}


def kill_in_step(self: Trainer) -> dict[str, torch.Tensor]:
    raise OSError("killed")


def kill_in_write_state(self: RunFolder, *arguments: object) -> None:
    raise OSError("killed")


@pytest.mark.parametrize("where", ["before its first state", "after its first state"])
@pytest.mark.parametrize("cut", [0, 30])
def test_a_killed_run_leaves_no_line_twice(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, cut: int
) -> None:
    """Killed at kimg 0 and run again: every file has kimg 0 and 1 once, even if its last line was half written."""
    options = replace(tiny, kimg=1)
    if where == "before its first state":
        monkeypatch.setattr(RunFolder, "write_state", kill_in_write_state)
    else:
        monkeypatch.setattr(Trainer, "step", kill_in_step)
    with pytest.raises(OSError, match="killed"):
        train(options, tmp_path)
    monkeypatch.undo()
    for path in tmp_path.glob("*.jsonl"):
        with open(path, "a") as file:
            file.write(path.read_text()[:cut])
    train(options, tmp_path)
    lines = kimg_lines(tmp_path)
    assert len(lines) == 13
    assert all(kimg == [0, 1] for kimg in lines.values()), lines


def stub_step(do: Callable[[Trainer], None], loss: float = 1.0) -> Callable[[Trainer], dict[str, torch.Tensor]]:
    """A step that trains nothing, gives this loss, and does something first."""

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        do(self)
        self.images_seen += self.options.images_per_step
        return dict.fromkeys(("loss_generator", "loss_discriminator", "penalty"), torch.tensor(loss))

    return step


def stop(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def stop_with_a_bad_parameter(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.discriminator.parameters()).view(-1)[0] = torch.inf
    stop(trainer)


@pytest.mark.parametrize(
    ("do", "loss", "message"),
    [
        (stop, float("nan"), r"training diverged before 0\.1 kimg: .*'loss_generator': nan"),
        (stop_with_a_bad_parameter, 1.0, r"training diverged before 0\.1 kimg: .* tensors of the state are not finite"),
    ],
)
def test_a_stop_never_replaces_a_good_state_by_a_diverged_one(
    tiny: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    do: Callable[[Trainer], None],
    loss: float,
    message: str,
) -> None:
    monkeypatch.setattr(Trainer, "step", stub_step(do, loss))
    with pytest.raises(FloatingPointError, match=message):
        train(tiny, tmp_path)
    saved = RunFolder(tmp_path).read_state()
    assert saved is not None
    assert saved.images_seen == 0
    assert all(tensor.isfinite().all() for tensor in saved.tensors.values())


def test_samples_that_are_not_finite_are_a_divergence(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights can be finite and overflow on the way to the image."""
    monkeypatch.setattr(
        Trainer, "sampler", lambda self, purpose: lambda labels: torch.full((len(labels), 1, 14, 14), torch.nan)
    )
    with pytest.raises(FloatingPointError, match=r"training diverged before 0\.0 kimg: .*finite pixels"):
        train(tiny, tmp_path)


def test_elapsed_time_includes_what_came_after_the_last_tick(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def later(trainer: Trainer) -> None:
        nonlocal now
        now += 10
        if trainer.images_seen == 1250:
            stop(trainer)

    monkeypatch.setattr("sgan.session.time.monotonic", lambda: now)
    monkeypatch.setattr(Trainer, "step", stub_step(later))
    with pytest.raises(Interrupted):
        train(tiny, tmp_path)
    train(tiny, tmp_path)
    assert [line["elapsed_s"] for line in read_json_lines(tmp_path / "stats.jsonl")] == [0, 80, 160]


def start_and_stop(options: Options, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped after one step."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stub_step(stop))
        with pytest.raises(Interrupted):
            train(options, run)


def edit_record(run: Path, section: str, **changes: object) -> None:
    path = run / "training_options.json"
    recorded = json.loads(path.read_text())
    recorded[section] |= changes
    path.write_text(json.dumps(recorded))


def test_another_environment_is_warned_of_once(tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_and_stop(tiny, tmp_path, monkeypatch)
    recorded = json.loads((tmp_path / "training_options.json").read_text())
    assert recorded["environment"] == {"torch": torch.__version__, "threads": 1}
    edit_record(tmp_path, "environment", torch="1.0", threads=64)
    start_and_stop(tiny, tmp_path, monkeypatch)
    start_and_stop(tiny, tmp_path, monkeypatch)
    warnings = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert f"torch was 1.0, now {torch.__version__}; threads was 64, now 1: " in warnings[0]


def test_a_change_that_the_subset_hides_is_refused(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel of an image outside the subset, and one of a held-out image."""
    with np.load(tiny.data) as arrays:
        x, y = arrays["x"], arrays["y"]
    options = replace(tiny, data=str(tmp_path / "few.npz"), subset=0.5)
    np.savez(options.data, x=x, y=y)
    start_and_stop(options, tmp_path / "run", monkeypatch)
    before = load_dataset(options.data, subset=0.5)
    for part in ("reference", "test"):
        images = getattr(before, part).images
        hidden = next(image for image in images if not (image == before.train.images).flatten(1).all(1).any())
        changed = x.copy()
        changed[(x == hidden[0].numpy()).all((1, 2)), 0, 0] ^= 1
        np.savez(options.data, x=changed, y=y)
        name = {"reference": "reference", "test": "held-out"}[part]
        with pytest.raises(ChangedOptions, match=f"the {name} images have changed"):
            train(options, tmp_path / "run")


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
def test_a_class_without_images_is_refused_before_anything_is_written(tmp_path: Path, arguments: list[str]) -> None:
    np.savez(tmp_path / "gap.npz", x=np.zeros((30, 8, 8), np.uint8), y=np.repeat([0, 1, 3], 10))
    result = CliRunner().invoke(
        main, ["--data", str(tmp_path / "gap.npz"), "--outdir", str(tmp_path / "run"), *arguments]
    )
    assert result.exit_code == 1
    assert "gap.npz must have an image, got none of 2" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_stops_with_130_and_says_how_to_go_on(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(Trainer, "step", stub_step(lambda trainer: os.kill(os.getpid(), number)))
    before = signal.getsignal(number)
    result = CliRunner().invoke(main, ["--data", tiny.data, "--kimg", "1", "--outdir", str(tmp_path / "run")])
    assert result.exit_code == 130, result.output
    assert "kimg. Run the same command again to resume." in result.output
    assert signal.getsignal(number) is before
    saved = RunFolder(tmp_path / "run").read_state()
    assert saved is not None
    assert saved.images_seen > 0


def test_the_estimate_counts_steps_and_ticks(tiny: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a step takes 1 s and an evaluation 5 s: 8 steps and the ticks of kimg 0, 1 and 2."""
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    options = replace(tiny, d_steps=2)
    trainer = Trainer(options, load_dataset(options.data, subset=options.subset))
    monkeypatch.setattr("sgan.session.time.monotonic", lambda: now)
    monkeypatch.setattr(Trainer, "step", stub_step(lambda trainer: pass_time(1)))
    monkeypatch.setattr("sgan.metrics.Evaluator.measure", lambda self, generate: pass_time(5))
    text = estimate(trainer)
    assert text.startswith("estimated cost: 8 steps of 1000 ms (250 images/s) and 3 ticks of 5.0 s: 0m 23s")
    fourier, dense = (flop / 1e9 for flop in flop_per_kimg(trainer, *trainer.next_real_batch()))
    assert f"counted cost: {gflop_text(fourier)} GFLOP per kimg" in text
    assert f"{gflop_text(fourier / 4)} GFLOP/s" in text  # 250 images of a thousand
    assert text.endswith(f"{gflop_text(dense)} GFLOP per kimg as dense filter banks")


def test_losses_are_read_at_ticks_alone_where_nobody_watches(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading one waits for a device that works behind the host's back."""

    def fail(self: Session) -> dict[str, float]:
        raise AssertionError("a loss was read")

    monkeypatch.setattr(Session, "latest_losses", fail)
    monkeypatch.setattr(Trainer, "step", stub_step(lambda trainer: None))
    run = train(replace(tiny, kimg=1), tmp_path).path
    assert read_json_lines(run / "stats.jsonl")[-1]["loss_generator"] == 1


def test_a_bar_that_is_seen_is_due_every_half_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("sgan.progress.time.monotonic", lambda: now)
    bar = ProgressBar(Console(file=io.StringIO(), force_terminal=True), 1000, 0)
    due = []
    for now in (0.0, 0.4, 0.6, 0.7, 1.2):  # noqa: B007  # the clock reads it
        due.append(bar.is_due)
        if bar.is_due:
            bar.update(0, 0.0, {})
    assert due == [True, False, True, False, True]
    assert not ProgressBar(Console(file=io.StringIO()), 1000, 0).is_due


def test_steps_count_until_the_device_has_done_them(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which giving a step takes 1 s and waiting for those given 72 s: 8 steps of 125 images in 80 s."""
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    waits = iter((0, 72))  # at kimg 0 and 1
    monkeypatch.setattr("sgan.session.time.monotonic", lambda: now)
    monkeypatch.setattr(Trainer, "step", stub_step(lambda trainer: pass_time(1)))
    monkeypatch.setattr(Trainer, "wait", lambda self: pass_time(next(waits)))
    run = train(replace(tiny, kimg=1), tmp_path).path
    assert [line["images_per_s"] for line in read_json_lines(run / "stats.jsonl")] == [0, 1000 / 80]
