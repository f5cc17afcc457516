"""A run folder belongs to one process at a time, and a run to one process."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sgan import lock
from sgan.config import Options
from sgan.lock import LOCK_NAME, WORLD_SIZES, FolderInUse, locked, refuse_ranks
from sgan.runs import read_json_lines
from sgan.session import train
from sgan.train import main

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import os, sys, time
from pathlib import Path
from sgan.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # a child that lives on
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder, with a child of its own, in a process group of theirs."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        who = rf"in use by process {process.pid} on {socket.gethostname()}, since 20\d\d-.*give another --outdir"
        with pytest.raises(FolderInUse, match=who), locked(tmp_path):
            pass
        with pytest.raises(FolderInUse), locked(tmp_path):  # nor has the refusal freed it
            pass


def test_the_lock_ends_with_its_process_whose_children_do_not_keep_it(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / LOCK_NAME).exists()
        with locked(tmp_path) as note:
            assert note is None
            assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with locked(tmp_path / "run"):
        with pytest.raises(FolderInUse, match="in use by this process"), locked(tmp_path / "link"):
            pass
        assert (tmp_path / "run" / LOCK_NAME).exists()
    with locked(tmp_path / "link"):
        pass


def test_a_lock_file_that_its_holder_removes_is_not_locked_in_its_stead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder ends between our opening of its file and our lock on it: a lock on no file keeps nobody out."""
    lockf = fcntl.lockf

    def removing(file: int, operation: int) -> None:
        monkeypatch.undo()
        (tmp_path / LOCK_NAME).unlink()
        lockf(file, operation)

    monkeypatch.setattr(fcntl, "lockf", removing)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()


def test_a_file_system_that_cannot_lock_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Options) -> None:
    def fail(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", fail)
    run = train(replace(tiny, kimg=1), tmp_path / "run").path
    log = (run / "log.txt").read_text()
    assert f"warning: the file system of {run} cannot lock (No locks available)" in log


def test_training_in_a_folder_in_use_is_refused(tiny: Options, tmp_path: Path) -> None:
    """A folder in which a run has been started, and one in which it has not yet been."""
    train(replace(tiny, kimg=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "new").mkdir()
    with holder(tmp_path), pytest.raises(FolderInUse, match="in use by process"):
        train(tiny, tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    with holder(tmp_path / "new"), pytest.raises(FolderInUse, match="in use by process"):
        train(tiny, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [LOCK_NAME]


def test_a_run_that_started_meanwhile_is_resumed(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process starts and ends the run while this one still reads its data: no line is written twice."""
    import sgan.session as session

    start, options = session.start, replace(tiny, kimg=1)

    def start_late(*arguments: object) -> session.Session:
        monkeypatch.undo()
        train(options, tmp_path)
        return start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "start", start_late)
    train(tiny, tmp_path)
    assert [line["kimg"] for line in read_json_lines(tmp_path / "stats.jsonl")] == [0, 1, 2]


def test_what_killed_processes_left_is_removed(tiny: Options, tmp_path: Path) -> None:
    (tmp_path / ".network-snapshot-000001.safetensors.tmp").write_bytes(b"half")
    train(replace(tiny, kimg=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", WORLD_SIZES)
def test_several_ranks_are_refused_before_there_is_a_folder(
    tiny: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "2")
    arguments = ["--data", tiny.data, "--kimg", "1", "--outdir", str(tmp_path / "run")]
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(main, [*arguments, *more])
        assert result.exit_code == 1
        assert f"train: a run must be one process, got {name}=2" in result.output
    assert not (tmp_path / "run").exists()


def test_one_rank_is_one_process() -> None:
    refuse_ranks({"WORLD_SIZE": "1"})
    refuse_ranks({})


def test_a_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HAS_LOCKS", False)
    with lock.locked(tmp_path) as note:
        assert note is not None
        assert "no POSIX locks" in note
    assert not list(tmp_path.iterdir())
