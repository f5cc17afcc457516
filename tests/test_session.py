"""The session around a trainer: what it does when it is killed, stopped or fed nonsense. Networks are tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgan.config import Options
from sgan.runs import RunFolder, read_json_lines
from sgan.session import train
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
