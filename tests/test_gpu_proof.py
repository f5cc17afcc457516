"""The proof on a GPU, as far as it can be tested without one: no device, the budget, the steps and their records."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import gpu
import gpu_work
import measure
import pytest
import torch
from click.testing import CliRunner
from gpu import CUT, FAILED, PASSED, REFUSED, SKIPPED, Budget, Run, Task
from gpu_state import State
from kernel_sources import checksums

from gconv.backends import cuda

ROOT = Path(__file__).resolve().parent.parent
HERE = {"device": "ACME G-1", "kernel_sources": {"triton": "s1", "cuda": "c1"}, "commit": "abc", "dirty": False}
HEADER = {"run": "now", "environment": HERE, "selection": "proof"}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path, Budget(30), HEADER, State(tmp_path / "state/state.json", "ACME G-1"))
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


def test_a_bench_that_left_cases_out_has_not_passed(steps: Run) -> None:
    steps.together(Task("bench", python("print('20 s are over: 3 of 12 cases were left out')"), 20, 0))
    assert records(steps) == [("bench", CUT)]
    assert not steps.state.passed("bench")


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
# What steps of the imagined machine do in place of printing their arguments and passing.
ODD: dict[str, tuple[str, ...]] = {}


@pytest.fixture
def imagined(steps: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A machine with a GPU whose every command prints its arguments; gives the commands in their order."""
    found: list[str] = []
    real = Run.begin

    def begin(self: Run, task: Task) -> Any:
        found.append(" ".join(task.command[1:]))
        return real(self, task._replace(command=ODD.get(task.name, ("echo", *task.command[1:])), least=0))

    answer = {"environment": HERE, "table": str(tmp_path / "choice-acme-g-1.json")}
    answer["missing"] = MISSING
    monkeypatch.setattr(Run, "begin", begin)
    monkeypatch.setattr(gpu, "ask", lambda *command: answer)
    monkeypatch.setattr(gpu, "tool", lambda name: f"/tools/{name}")
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    (tmp_path / "choice-acme-g-1.json").write_text("{}")
    (tmp_path / "out").mkdir()
    steps.folder = tmp_path / "out"
    return found


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The imagined machine has both backends."""
    monkeypatch.setitem(MISSING, "cuda", None)


def next_call(steps: Run) -> list[str]:
    """Runs everything again, as the next process would: what it has done, without what every call does."""
    state = State(steps.state.path, "ACME G-1")
    again = Run(steps.folder, Budget(30), HEADER, state)
    again.rows = steps.folder / "again.jsonl"
    again.rows.unlink(missing_ok=True)
    gpu.everything(again)
    again.close()
    return [row["step"] for row in gpu.read(again.rows) if row["step"] != "tools"]


CUDA_STEPS = [
    "tools", "build of tests", "machine", "ceilings", "small cuda", "tests cuda", "compiling of product",
    "build of product", "targets cuda", "counters cuda", "memcheck cuda", "racecheck cuda", "synccheck cuda",
]  # fmt: skip
TRITON_STEPS = ["small triton", "targets triton"]
LATER_STEPS = [
    "tests of torch", "bench cuda", "training steps cuda", "tests of the ops on the CPU", "tests of CUDA graphs",
    "tests triton", "warm triton", "bench triton", "memcheck triton", "racecheck triton", "counters triton",
    "training steps triton", "table of choices", "choices",
]  # fmt: skip


@pytest.mark.usefixtures("both")
def test_what_may_end_everything_and_what_proves_cuda_come_first(steps: Run, imagined: list[str]) -> None:
    gpu.everything(steps)
    assert [step for step, _ in records(steps)] == [*CUDA_STEPS, *TRITON_STEPS, *LATER_STEPS]
    assert {status for _, status in records(steps)} == {PASSED}
    assert "bench/gpu_build.py --for-tests" in imagined
    assert not any("pip" in command.split() for command in imagined)  # nor scikit-build-core, of whatever version
    (bench,) = (command for command in imagined if "--backend cuda --layer" in command)
    assert "--layer D4-64 --layer C4-128 --layer D4-128 --layer C4-256 --nhwc-only --cudnn-limit 4" in bench
    tests = [command for command in imagined if "gpu_tests.py tests/test_gpu.py" in command]
    assert [command.split("-k ")[1].split(" --")[0] for command in tests] == [
        "cuda",
        "not cuda and not triton",
        "triton",
    ]
    assert any("--tool racecheck --error-exitcode 99" in command for command in imagined)
    assert any("--clock-control none" in command and "WarpStateStats" in command for command in imagined)
    for setting in ("lock-gpu-clocks", "persistence", "power-limit", "reset", "nvidia-smi -"):
        assert not any(setting in command for command in imagined)
    assert (steps.folder / "choice-acme-g-1.json").exists()
    assert {row["environment"]["device"] for row in gpu.read(steps.rows)} == {"ACME G-1"}


def test_the_steps_that_are_listed_are_those_that_run() -> None:
    names = [name for name, _ in gpu.limits()]
    done = [step for step in (*CUDA_STEPS, *TRITON_STEPS, *LATER_STEPS) if step != "tools" and "product" not in step]
    assert names == [step for step in done if step != "build of tests"]
    result = CliRunner().invoke(gpu.main, ["run", "--list"])
    assert [line.split("s  ")[1] for line in result.output.splitlines()] == names
    seconds = dict(gpu.limits())
    assert seconds["small cuda"] == 30
    assert sum(seconds[name] for name in ("ceilings", "small cuda", "tests cuda")) < 240
    assert CliRunner().invoke(gpu.main, ["run", "--only", "nothing"]).exit_code == 2


def test_a_backend_that_is_missing_is_a_failure_and_costs_the_other_nothing(steps: Run, imagined: list[str]) -> None:
    gpu.everything(steps)
    ran = [step for step, _ in records(steps)]
    assert not any("cuda" in step.split() for step in ran if step != "backend cuda")
    assert [step for step in TRITON_STEPS + LATER_STEPS if step not in ran and "cuda" not in step] == []
    row = next(row for row in gpu.read(steps.rows) if row["step"] == "backend cuda")
    assert (row["status"], row["detail"]) == (FAILED, "NONE OF ITS STEPS IS RUN: there is no driver")
    assert FAILED in steps.outcomes.values()  # which the exit status is made of


@pytest.mark.usefixtures("both")
def test_a_second_call_goes_on_where_the_first_ended(
    steps: Run, imagined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ODD, "counters cuda", ("sh", "-c", "echo ERR_NVGPUCTRPERM; exit 1"))
    monkeypatch.setitem(ODD, "targets cuda", ("sh", "-c", "exit 3"))
    monkeypatch.setitem(ODD, "bench triton", ("echo", "1 s are over: 4 of 9 cases were left out"))
    gpu.everything(steps)
    monkeypatch.delitem(ODD, "targets cuda")
    assert next_call(steps) == ["build of product", "targets cuda", "bench triton"]
    monkeypatch.delitem(ODD, "bench triton")
    assert next_call(steps) == ["build of product", "bench triton"]
    imagined.clear()
    assert next_call(steps) == []
    assert imagined == []


@pytest.mark.usefixtures("both")
def test_only_what_is_named_runs(steps: Run, imagined: list[str]) -> None:
    steps.only = ("small cuda", "choices")
    gpu.everything(steps)
    ran = [step for step, _ in records(steps)]
    assert ran == ["tools", "build of tests", "small cuda", "compiling of product", "build of product", "choices"]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    "end",
    [
        "Timeout (0:00:25)!\nThread 0x1 (most recent call first):",
        "RuntimeError: CUDA error: unspecified launch failure",
    ],
)
def test_an_op_that_hangs_is_named_and_ends_the_run(
    end: str, steps: Run, imagined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["print('running: lifting_conv2d of C4 in bfloat16')", "print('running: group_pool, max of D4 in float32')"]
    monkeypatch.setitem(ODD, "small cuda", python("; ".join([*said, f"print({end!r})", "raise SystemExit(1)"])))
    gpu.everything(steps)
    assert [step for step, _ in records(steps)][-3:] == [
        "small cuda",
        "small cuda hangs",
        "small cuda by kernels for 8.0",
    ]
    row = next(row for row in gpu.read(steps.rows) if row["step"] == "small cuda hangs")
    assert row["status"] == FAILED
    assert row["detail"].startswith("at group_pool, max of D4 in float32: nothing else")
    assert imagined[-1].endswith("small cuda --limit 25 --ampere")


@pytest.mark.usefixtures("both")
def test_an_op_that_fails_is_named_and_the_tests_tell_more(
    steps: Run, imagined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = "print('running: group_conv2d of D4 in float32'); raise SystemExit(1)"
    monkeypatch.setitem(ODD, "small cuda", python(failing))
    gpu.everything(steps)
    found = dict(records(steps))
    assert found["small cuda stopped"] == FAILED
    assert found["tests cuda"] == PASSED


def test_of_other_sources_or_another_device_nothing_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "there/state.json"
    state = State(path, "ACME G-1")
    state.note("small cuda", PASSED)
    state.note("small cuda", SKIPPED)  # for lack of time
    state.note("racecheck cuda", REFUSED)
    state.note("bench cuda", FAILED)
    state.progress("tests cuda").write_text("{}\n")
    assert [state.passed(step) for step in ("small cuda", "racecheck cuda", "bench cuda", "else")] == [
        True,
        True,
        False,
        False,
    ]
    assert State(path, "ACME G-1").outcomes == state.outcomes
    left = tmp_path / "left"
    left.mkdir()
    state.copy(left)
    fresh = State(tmp_path / "fresh/state.json", "ACME G-1")
    assert fresh.take(left) == f"{left}: 2 steps passed there"
    assert fresh.outcomes == state.outcomes
    assert fresh.progress("tests cuda").read_text() == "{}\n"
    assert "nothing of it counts" in State(tmp_path / "other/state.json", "ACME G-2").take(left)
    monkeypatch.setattr("gpu_state.SOURCES", ("csrc/**/*",))
    assert "nothing of it counts" in State(tmp_path / "older/state.json", "ACME G-1").take(left)
    assert State(path, "ACME G-1").outcomes == {}
    assert list(path.parent.iterdir()) == []


def test_missing_tools_are_skipped_with_a_reason(
    steps: Run, imagined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "tool", lambda name: None)
    gpu.everything(steps)
    skipped = {row["step"]: row["detail"] for row in gpu.read(steps.rows) if row["status"] == SKIPPED}
    assert skipped == {
        "memcheck triton": "compute-sanitizer is not installed",
        "racecheck triton": "compute-sanitizer is not installed",
        "counters triton": "ncu is not installed",
    }
    tools = next(row["detail"] for row in gpu.read(steps.rows) if row["step"] == "tools")
    assert tools == "ncu is missing, compute-sanitizer is missing, nvcc is missing, cmake is missing"


def test_training_is_left_out_where_its_packages_are_missing(steps: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name == "PIL" else object())
    ops, graphs = gpu.other_tests(steps)
    assert (ops.missing, graphs.missing) == ("", "python has no PIL")


def test_gconv_that_does_not_load_ends_the_run(
    steps: Run, imagined: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*command: str) -> dict[str, Any]:
        raise RuntimeError("bench/gpu_work.py gconv gave no answer: ImportError")

    monkeypatch.setattr(gpu, "ask", ask)
    gpu.everything(steps)
    assert records(steps)[-1] == ("import", FAILED)
    assert "tests cuda" not in dict(records(steps))


def test_gconv_has_its_version_without_an_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(gpu, "version", not_installed)
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    gpu.provide_version()
    code = "from importlib.metadata import version; print(version('gconv'))"
    alone = (sys.executable, "-S", "-P", "-c", code)
    done = subprocess.run(alone, capture_output=True, text=True, check=True)
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout.strip() == number


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
def test_what_the_sanitizers_watch_runs_and_is_named_before(backend: str) -> None:
    told: list[str] = []
    gpu_work.every_pass("D4", torch.float32, backend, "cpu", say=told.append)
    assert told[:2] == ["lifting_conv2d of D4 in float32", "group_conv2d from 17 to 8 channels of D4 in float32"]
    assert told[-1] == "the gradients' gradients behind pool mean of D4 in float32"
    assert len(set(told)) == len(told) == 12


def test_the_kernels_for_an_older_device_can_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_cuda_device", lambda index: (90, 132, 232448))
    gpu_work.use_ampere_kernels()
    assert cuda._cuda_device(0) == (80, 132, 232448)


def test_both_sides_know_how_an_op_is_named() -> None:
    assert gpu.RUNNING == gpu_work.RUNNING


@pytest.mark.usefixtures("both")
def test_the_exit_status_and_what_is_left_are_told(
    imagined: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gpu.ask
    monkeypatch.setattr(gpu, "ask", lambda *asked: {"device": "ACME G-1"} if asked[-1] == "device" else real(*asked))
    monkeypatch.setattr(gpu, "STATE", tmp_path / "left on the machine/state.json")
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    out = tmp_path / "results"

    def call(*options: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(gpu.main, ["run", "--out", str(out), *options])
        return result.exit_code, result.output.splitlines()

    monkeypatch.setitem(ODD, "bench triton", ("sh", "-c", "exit 1"))
    status, lines = call("--seconds", "60")
    assert (status, lines[-1]) == (1, "not passed yet, for another call: bench triton")
    assert {file.name for file in out.iterdir()} >= {"rows.jsonl", "log.txt", "table.txt", "state.json"}
    monkeypatch.delitem(ODD, "bench triton")
    monkeypatch.setattr(gpu, "STATE", tmp_path / "of a fresh machine/state.json")
    status, lines = call("--seconds", "60", "--after", str(out))
    assert status == 0
    assert not any(line.startswith("not passed yet") for line in lines)
    assert any(line.startswith("bench triton: passed") for line in lines)
    assert not any(line.startswith("tests cuda: ") for line in lines)  # nor anything else that had passed
    imagined.clear()
    assert call()[0] == 0
    assert imagined == []
    assert call("--again")[0] == 0
    assert any("gpu_tests.py" in command for command in imagined)
    monkeypatch.setitem(MISSING, "triton", "its driver is too old")
    status, lines = call("--again")
    assert status == 1
    assert any("backend triton: failed: NONE OF ITS STEPS IS RUN: its driver is too old" in line for line in lines)
