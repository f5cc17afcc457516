"""The limit of time per test, and the processes that go on behind a test that hangs, crashes or breaks its device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gpu_tests
import pytest
import time_limit
import torch

ROOT = Path(__file__).resolve().parent.parent
HANGING = """import os, time
import pytest, torch
@pytest.mark.parametrize("n", [1, 2, 3])
def test_good(n): pass
def test_hangs(): time.sleep(600)
def test_between(): pass
def test_crashes(): os.kill(os.getpid(), 9)
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
def test_breaks():
    torch.cuda.broken = True
    assert 1 == 2
def test_last(): pass
"""
# Loads in no time, and has a device that may break.
TORCH = """class cuda:
    broken = False
    is_available = staticmethod(lambda: False)
    is_initialized = staticmethod(lambda: True)
    @classmethod
    def synchronize(cls):
        if cls.broken: raise RuntimeError("CUDA error: unspecified launch failure\\nmore")
"""
CONFTEST = "from time_limit import add_options as pytest_addoption, register as pytest_configure"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Tests of every kind, and a torch for them."""
    path = tmp_path / "test_of_every_kind.py"
    path.write_text(HANGING)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "torch.py").write_text(TORCH)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "time_limit.py").write_text((ROOT / "tests/time_limit.py").read_text())
    return path


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def test_a_test_that_hangs_is_named_and_its_process_ends(module: Path) -> None:
    progress = module.parent / "progress"
    begin = time.monotonic()
    options = ("-q", "--test-limit=1", f"--test-progress={progress}")
    done = run("-m", "pytest", *options, module, folder=module.parent)
    assert done.returncode == time_limit.HUNG
    assert "test_of_every_kind.py::test_hangs: not done after 1 s, the process ends" in done.stderr
    assert "in test_hangs" in done.stderr  # where it stood
    assert time.monotonic() - begin < 100
    lines = [json.loads(line) for line in progress.read_text().splitlines()]
    assert [line.get("outcome") for line in lines] == [None, "passed"] * 3 + [None]
    assert lines[-1]["test"].endswith("::test_hangs")


def test_a_thread_that_is_not_let_run_has_a_backstop(module: Path) -> None:
    """In C code that keeps Python's lock."""
    module.write_text("import ctypes\ndef test_keeps_the_lock(): ctypes.PyDLL(None).sleep(60)\n")
    (module.parent / "time_limit.py").write_text(
        (ROOT / "tests/time_limit.py").read_text().replace("BACKSTOP_S = 5.0", "BACKSTOP_S = 0.5")
    )
    done = run("-m", "pytest", "-q", "--test-limit=1", module, folder=module.parent)
    assert done.returncode in gpu_tests.HUNG_STATUSES
    assert "test_keeps_the_lock" in done.stderr


def test_a_broken_device_ends_the_process_behind_the_test_that_broke_it(module: Path) -> None:
    done = run(
        "-m", "pytest", "-q", "--test-limit=60", f"{module}::test_breaks", f"{module}::test_last", folder=module.parent
    )
    assert done.returncode == time_limit.BROKEN
    said = "test_breaks: the device answers no more, the process ends: CUDA error: unspecified launch failure"
    assert said in done.stderr


def test_the_suite_has_the_limit(pytestconfig: pytest.Config) -> None:
    there = time_limit.ON_GPU_S if torch.cuda.is_available() else 0
    assert time_limit.default_limit() == there
    assert isinstance(pytestconfig.getoption("--test-limit"), float | int)


def test_the_statuses_are_the_same_on_both_sides() -> None:
    assert time_limit.HUNG in gpu_tests.HUNG_STATUSES
    assert time_limit.BROKEN not in gpu_tests.HUNG_STATUSES


@pytest.mark.parametrize("processes", [1, 3])
def test_what_hangs_or_crashes_costs_no_other_test(module: Path, processes: int) -> None:
    results = module.parent / "results"
    command = (ROOT / "bench/gpu_tests.py", "--limit", "1.5", "--processes", str(processes), "--results", results)
    done = run(*command, module, folder=module.parent)
    assert done.returncode == 1
    outcomes = {name.split("::")[1]: result for name, result in gpu_tests.read(results).items()}
    assert {name: result.outcome for name, result in outcomes.items()} == {
        "test_good[1]": "passed", "test_good[2]": "passed", "test_good[3]": "passed", "test_hangs": "hung",
        "test_between": "passed", "test_crashes": "crashed", "test_skipped": "skipped", "test_breaks": "failed",
        "test_last": "passed",
    }  # fmt: skip
    assert "not done after 1.5 s" in outcomes["test_hangs"].said
    assert "assert 1 == 2" in outcomes["test_breaks"].said
    assert "exit status -9" in outcomes["test_crashes"].said
    assert "hung: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("5 passed, 1 failed, 1 hung, 1 crashed, 1 skipped in ")


def test_a_later_call_goes_on_where_an_earlier_one_ended(module: Path) -> None:
    results = module.parent / "results"
    command = (ROOT / "bench/gpu_tests.py", "--limit", "60", "--results", results, module)
    names = ("test_good", "test_skipped", "test_last")
    first = run(*command, "-k", " or ".join(names[:2]), folder=module.parent)
    assert first.returncode == 0, first.stdout
    assert first.stdout.startswith("3 passed, 1 skipped in ")
    second = run(*command, "-k", " or ".join(names), folder=module.parent)
    assert second.stdout.startswith("4 passed, 1 skipped, 4 of them in an earlier call in ")
    assert second.returncode == 0


def test_the_end_of_the_time_keeps_what_was_done(module: Path) -> None:
    results = module.parent / "results"
    command = [sys.executable, str(ROOT / "bench/gpu_tests.py"), "-k", "good or hangs", "--processes", "1"]
    command += ["--results", str(results), str(module)]
    process = subprocess.Popen(command, cwd=module.parent, stdout=subprocess.PIPE, text=True)
    while not results.exists() or len(gpu_tests.read(results)) < 3:
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "running at the end of the time: " in output
    assert "3 passed, 1 not run in " in output.splitlines()[-1]


def test_tests_that_do_not_load_are_told(module: Path) -> None:
    module.write_text("import nothing_of_this_name\n")
    done = run(ROOT / "bench/gpu_tests.py", module, folder=module.parent)
    assert done.returncode == 1
    assert "nothing was collected" in done.stderr
    assert "nothing_of_this_name" in done.stderr
    assert os.listdir(module.parent).count("results") == 0


def test_a_process_that_runs_no_test_is_not_started_again(module: Path) -> None:
    found, _ = gpu_tests.run([f"{module}::no_such_test"], 1, 60, None)
    (result,) = found
    assert result.outcome == gpu_tests.CRASHED
    assert "no_such_test" in result.said
