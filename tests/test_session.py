"""The session around a trainer: what it does when it is killed, stopped or fed nonsense. Networks are tiny."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgan.config import Options
from sgan.runs import RunFolder, read_json_lines
from sgan.session import Interrupted, train
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
    assert len(lines) == 6
    assert all(kimg == [0, 1] for kimg in lines.values()), lines


def stub_step(do: Callable[[Trainer], None], loss: float = 1.0) -> Callable[[Trainer], dict[str, torch.Tensor]]:
    """A step that trains nothing, gives this loss, and does something first."""

    def step(self: Trainer) -> dict[str, torch.Tensor]:
        do(self)
        self.images_seen += self.images_per_step
        return dict.fromkeys(("loss_generator", "loss_discriminator", "r1"), torch.tensor(loss))

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
