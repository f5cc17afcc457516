"""The proof on a GPU, as far as it can be tested without one: no device, the budget, the steps and their records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu
import gpu_work
import measure
import pytest
import torch
from click.testing import CliRunner
from gpu import CUT, FAILED, PASSED, REFUSED, SKIPPED, Budget, Run, Task
from kernel_sources import checksums

ROOT = Path(__file__).resolve().parent.parent
HERE = {"device": "ACME G-1", "kernel_sources": {"triton": "s1", "cuda": "c1"}, "commit": "abc", "dirty": False}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, Budget(30), {"run": "now", "environment": HERE, "selection": "proof"})
    yield run
    run.close()


def records(steps: Run) -> list[tuple[str, str]]:
    return [(row["step"], row["status"]) for row in gpu.read(steps.rows)]


def test_without_a_device_it_stops_at_once_and_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OUT": str(tmp_path / "out")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(ROOT / "bench/gpu.sh")], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == gpu.NO_DEVICE, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("gpu.sh: no CUDA device: torch ")
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    bare = tmp_path / "python3"  # without site-packages
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": ""}
    done = subprocess.run(["bash", str(ROOT / "bench/gpu.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.startswith("gpu.sh: python3 has no click pytest rich, which the steps need")


def test_a_machine_without_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu_work.device_missing() == "torch does not load: import of torch halted; None in sys.modules"


def test_the_budget_shortens_later_steps_and_then_refuses_them() -> None:
    clock = iter((0.0, 0.0, 0.0, 70.0, 70.0, 95.0, 120.0))
    budget = Budget(100, lambda: next(clock))
    task = Task("a", (), seconds=60, least=10)
    assert budget.limit(task) == 60
    assert budget.limit(task) == 30
    assert budget.limit(task) is None
    assert budget.left == 0


def test_every_step_is_written_down_as_it_ends(steps: Run, capsys: pytest.CaptureFixture[str]) -> None:
    steps.together(Task("good", python("print('one'); print('two')"), 20, 0))
    steps.together(Task("bad", python("print('why'); raise SystemExit(3)"), 20, 0))
    steps.together(Task("long", python("pass"), 20, least=1e6))
    assert records(steps) == [("good", PASSED), ("bad", FAILED), ("long", SKIPPED)]
    rows = gpu.read(steps.rows)
    assert rows[0]["detail"] == "two"
    assert rows[2]["detail"] == "it wants 1000000 s of the budget"
    assert all(row["environment"] == HERE and row["selection"] == "proof" for row in rows)
    assert "== bad" in steps.log.read_text()
    output = capsys.readouterr().out
    assert "bad: failed" in output
    assert "    why" in output


def test_a_step_that_takes_too_long_is_ended_with_its_children(steps: Run, tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = f"import subprocess, time; open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    begin = time.monotonic()
    output = steps.together(Task("slow", python(f"print('begun', flush=True); {code}; time.sleep(60)"), 2, 0))
    assert time.monotonic() - begin < 10
    assert records(steps) == [("slow", CUT)]
    assert output == {"slow": "begun\n"}
    state = Path(f"/proc/{child.read_text()}/stat")
    while state.exists() and state.read_text().split()[2] != "Z":  # the kernel takes its time
        assert time.monotonic() - begin < 20
        time.sleep(0.05)


def test_the_log_keeps_the_end_of_a_long_output(steps: Run) -> None:
    steps.together(Task("loud", python(f"print('x' * {gpu.LOG_CHARACTERS}); print('end')"), 20, 0))
    assert gpu.LOG_CHARACTERS < steps.log.stat().st_size < gpu.LOG_CHARACTERS + 1000
    assert steps.log.read_text().endswith("x\nend\n")


def test_tests_run_on_many_cores_where_they_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for there, expected in ((object(), True), (None, False)):
        monkeypatch.setattr(gpu, "find_spec", lambda name, there=there: there)
        assert ("-n14" in gpu.pytest_command(tmp_path, 1, "tests/test_gpu.py")) == expected


def test_a_row_that_was_being_written_is_left_out(steps: Run) -> None:
    steps.record("tests", PASSED)
    with steps.rows.open("a") as stream:
        stream.write('{"case": {"op": "group')
    assert records(steps) == [("tests", PASSED)]


def test_steps_can_run_together(steps: Run) -> None:
    begin = time.monotonic()
    steps.together(*(Task(name, python("import time; time.sleep(0.7)"), 20, 0) for name in "abc"))
    assert time.monotonic() - begin < 2
    assert records(steps) == [(name, PASSED) for name in "abc"]


def test_a_tool_that_the_machine_refuses_did_not_fail(steps: Run) -> None:
    steps.together(Task("racecheck", python("print('Error: Device not supported'); raise SystemExit(99)"), 20, 0))
    assert records(steps) == [("racecheck", REFUSED)]


def test_what_still_runs_is_ended_when_the_run_is(steps: Run) -> None:
    started = steps._start(Task("endless", python("import time; time.sleep(60)"), 60), 60)
    steps._running.append(started)
    steps.close()
    assert started.process.poll() is not None


MISSING: dict[str, str | None] = {"cuda": "there is no driver", "triton": None}


@pytest.fixture
def imagined(steps: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """A machine with a GPU whose every command prints its arguments; gives the commands, step by step."""
    found: list[list[str]] = []
    real = Run.together

    def together(self: Run, *tasks: Task) -> dict[str, str]:
        found.append([" ".join(task.command[1:]) for task in tasks])
        return real(self, *(task._replace(command=("echo", *task.command[1:]), least=0) for task in tasks))

    answer = {"environment": HERE, "table": str(tmp_path / "choice-acme-g-1.json")}
    answer["missing"] = MISSING
    monkeypatch.setattr(Run, "together", together)
    monkeypatch.setattr(gpu, "ask", lambda *command: answer)
    monkeypatch.setattr(gpu, "tool", lambda name: f"/tools/{name}")
    (tmp_path / "choice-acme-g-1.json").write_text("{}")
    (tmp_path / "out").mkdir()
    steps.folder = tmp_path / "out"
    return found


def test_the_steps_come_in_the_order_of_their_worth(steps: Run, imagined: list[list[str]]) -> None:
    gpu.everything(steps)
    assert [step for step, _ in records(steps)] == [
        "build", "backend cuda", "tests triton", "tests of torch", "small triton", "warm triton", "ceilings",
        "bench triton", "memcheck triton", "racecheck triton", "tests of the ops on the CPU", "tests of CUDA graphs",
        "counters triton", "training steps triton", "table of choices", "choices",
    ]  # fmt: skip
    install, tests, *_, _ = imagined
    assert install == ["-m pip install --quiet --no-index -e . --no-build-isolation --no-deps"]
    assert "tests/test_gpu.py" in tests[0]
    commands = [command for together in imagined for command in together]
    assert any("run.py --device cuda" in command and "--backend triton" in command for command in commands)
    assert any("--tool racecheck --error-exitcode 99" in command for command in commands)
    assert any("--clock-control none" in command for command in commands)
    for setting in ("lock-gpu-clocks", "nvidia-smi", "persistence"):
        assert not any(setting in command for command in commands)
    assert (steps.folder / "choice-acme-g-1.json").exists()
    assert {row["environment"]["device"] for row in gpu.read(steps.rows)} == {"ACME G-1"}


def test_both_backends_are_proved_and_what_is_cut_first_comes_last(
    steps: Run, imagined: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MISSING, "cuda", None)
    steps.budget = Budget(gpu.BUDGET_S)
    gpu.everything(steps)
    assert [step for step, _ in records(steps)] == [
        "build", "tests cuda", "tests triton", "tests of torch", "small cuda", "small triton", "warm triton",
        "ceilings", "bench cuda", "bench triton", "memcheck cuda", "racecheck cuda", "synccheck cuda",
        "memcheck triton", "racecheck triton", "tests of the ops on the CPU", "tests of CUDA graphs", "counters cuda",
        "training steps cuda", "table of choices", "counters triton", "training steps triton", "choices",
    ]  # fmt: skip
    tests = {command.rsplit(" -k ")[1]: command for command in imagined[1] if " -k " in command}
    assert list(tests) == ["cuda", "triton", "not cuda and not triton"]
    assert len({command.split("--junit-xml=")[1].split()[0] for command in tests.values()}) == 3


def test_missing_tools_are_skipped_with_a_reason(
    steps: Run, imagined: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "tool", lambda name: None)
    gpu.everything(steps)
    skipped = {row["step"]: row["detail"] for row in gpu.read(steps.rows) if row["status"] == SKIPPED}
    assert skipped == {
        "backend cuda": "there is no driver",
        "memcheck triton": "compute-sanitizer is not installed",
        "racecheck triton": "compute-sanitizer is not installed",
        "counters triton": "ncu is not installed",
    }


def test_training_is_left_out_where_its_packages_are_missing(steps: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in ("PIL", "xdist") else object())
    assert [task.name for task in gpu.other_tests(steps)] == ["tests of the ops on the CPU"]
    assert gpu.read(steps.rows)[0]["detail"] == "python has no PIL"


def test_gconv_that_does_not_load_ends_the_run(
    steps: Run, imagined: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*command: str) -> dict[str, Any]:
        raise RuntimeError("bench/gpu_work.py gconv gave no answer: ImportError")

    monkeypatch.setattr(gpu, "ask", ask)
    gpu.everything(steps)
    assert records(steps) == [("build", PASSED), ("import", FAILED)]


def test_a_failed_build_leaves_gconv_importable(
    steps: Run, imagined: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "together", lambda self, *tasks: self.record("build", FAILED))
    monkeypatch.setenv("PYTHONPATH", "")
    assert gpu.build(steps) is not None
    code = "from importlib.metadata import version; print(version('gconv'))"
    without_this_folder = (sys.executable, "-P", "-c", code)  # a build leaves the version here, too
    done = subprocess.run(without_this_folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_a_command_is_asked_for_its_last_line() -> None:
    assert gpu.ask(*python("print('noise'); print('{\"a\": 1}')")) == {"a": 1}
    with pytest.raises(RuntimeError, match="gave no answer: NameError"):
        gpu.ask(*python("missing"))
    with pytest.raises(RuntimeError, match="gave no answer: TimeoutExpired"):
        gpu.ask(*python("import time; time.sleep(9)"), seconds=0.2)


def test_the_summary_of_tests_is_told_whatever_is_said_after_it() -> None:
    assert (
        gpu.last_line("....\n== 3 passed, 1 skipped in 2.10s ==\nwarning: leaked\n")
        == "== 3 passed, 1 skipped in 2.10s =="
    )
    assert gpu.last_line("1 failed, 2 passed in 61.20s (0:01:01)\n\n") == "1 failed, 2 passed in 61.20s (0:01:01)"
    assert gpu.last_line("one\ntwo\n\n") == "two"
    assert gpu.last_line("") == ""


NCU = """==PROF== Connected to process 1
every pass ran
==PROF== Disconnected
"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value","Rule Name"
"0","forward(int)","GPU Speed Of Light Throughput","Duration","us","12.50",""
"0","forward(int)","GPU Speed Of Light Throughput","DRAM Throughput","%","31.2",""
"0","forward(int)","GPU Speed Of Light Throughput","","","","Bottleneck"
"1","weight_grad","GPU Speed Of Light Throughput","Duration","ms","1,000.5",""
"1","weight_grad","Launch Statistics","Registers Per Thread","register/thread","214",""
"2","forward(int)","GPU Speed Of Light Throughput","Duration","ns","900",""
"""


def test_the_hottest_kernels_come_first() -> None:
    first, second = gpu.counters(NCU)
    assert first["kernel"] == "weight_grad"
    assert first["seconds"] == pytest.approx(1.0005)
    assert (first["time"], first["registers"]) == ("1,000.5 ms", "214 register/thread")
    assert (second["kernel"], second["seconds"], second["DRAM"]) == ("forward", pytest.approx(12.5e-6), "31.2 %")
    assert gpu.counters("==ERROR== nothing") == []


def test_results_are_taken_in_once_with_their_commit(steps: Run, tmp_path: Path) -> None:
    copy = {**HERE, "commit": "", "dirty": None}
    steps.header["environment"] = {"device": "ACME G-1"}
    steps.record("build", PASSED)
    for sources in (checksums(), {"triton": "older", "cuda": "older"}):
        steps.header["environment"] = copy | {"kernel_sources": sources}
        steps.record("tests", PASSED)
    results = tmp_path / "results"
    results.mkdir()
    for added in (2, 0):
        result = CliRunner().invoke(gpu.main, ["collect", str(tmp_path), "--results", str(results)])
        assert result.exit_code == 0, result.output
        assert f"acme-g-1.jsonl: {added} rows more" in result.output
    ours, older = (row["environment"]["commit"] for row in gpu.read(results / "acme-g-1.jsonl"))
    assert ours == measure.environment_commit()["commit"]
    assert older == ""  # of kernels that are not here
    steps.rows.unlink()
    assert CliRunner().invoke(gpu.main, ["collect", str(tmp_path), "--results", str(results)]).exit_code == 1


def test_a_case_runs_once_or_says_why_not() -> None:
    case = measure.Case("group_conv2d", "gpu", "C4", 3, 5, 6, "forward+backward", 1)
    assert gpu_work.run_once(case, "dense", "cpu") == ""
    said = gpu_work.run_once(replace(case, dtype="float64"), "triton", "cpu")
    assert "RuntimeError: group_conv2d: backend 'triton' cannot run" in said


@pytest.mark.parametrize("backend", ["dense", "reference"])
def test_what_the_sanitizers_watch_runs(backend: str) -> None:
    gpu_work.every_pass("D4", torch.float32, backend, "cpu")
