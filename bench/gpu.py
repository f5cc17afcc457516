"""The proof on a GPU: `bash bench/gpu.sh` runs everything, `python bench/gpu.py collect DIR` takes the results in.

Every step is a process of its own with a time limit, cut to what is left of the budget: a later step is shortened, or
skipped and the reason printed. What a step finds is a line of JSON in DIR/rows.jsonl at once. What has passed of the
same sources on the same device is not run again (gpu_state.py), so that a second call goes on where the first ended.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import click
import show
from gpu_build import BUILD
from gpu_state import CUT, FAILED, PASSED, REFUSED, SKIPPED, State
from verification import CHECKS

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
STATE = BUILD / "state.json"  # is left on the machine for the next call; a copy goes to DIR
BUDGET_S = 520.0  # of nine minutes: a step that is killed may take five seconds to end, the table one
LOG_CHARACTERS = 1_000_000  # of one step's output that the log keeps, its end: compilers print whole programs
GRACE_S = 5.0  # between asking a step to end and ending it
NO_DEVICE = 2  # exit status
PYTHON = (sys.executable,)
WORK = (*PYTHON, "bench/gpu_work.py")
MAKE = (*PYTHON, "bench/gpu_build.py")
TESTS = (*PYTHON, "bench/gpu_tests.py")
RUNNING = "running: "  # what gpu_work.py small says before each thing that it does
# How a kernel that hangs ends: by gpu_work.py's limit, or by its own in a build for tests.
HANGS = ("Timeout (", "unspecified launch failure")
SMALL_S = 30.0
LEFT_OUT = "cases were left out"  # bench/run.py, when its time is over
# The layers of the targets, those first whose figures say most; all of them, forward and both passes.
LAYERS = ("D4-64", "C4-128", "D4-128", "C4-256")
# What NVIDIA's tools say where the machine does not let them look; the kernels are then neither right nor wrong.
REFUSALS = (
    "Device not supported",
    "Failed to initialize the profiler",
    "ERR_NVGPUCTRPERM",
    "LibraryNotLoaded",
    "No kernels were profiled",
)
NCU_SECTIONS = (
    "SpeedOfLight", "MemoryWorkloadAnalysis", "MemoryWorkloadAnalysis_Tables", "ComputeWorkloadAnalysis", "Occupancy",
    "LaunchStats", "SchedulerStats", "WarpStateStats", "InstructionStats", "SourceCounters",
)  # fmt: skip
# Where NVIDIA's tools are if not on the PATH.
TOOLS = ("/usr/local/cuda*/bin", "/usr/local/cuda*/nsight-compute*", "/opt/nvidia/nsight-compute/*",
         "/usr/local/cuda*/compute-sanitizer")  # fmt: skip
# CUDA's own libraries ask drivers for functions that those lack, which is no error of a kernel; and torch loads slowly.
SANITIZER = ("--error-exitcode", "99", "--report-api-errors", "no", "--launch-timeout", "60")
# ncu's name of a counter, and the table's; its units are in the values.
COUNTERS = {
    "Duration": "time",
    "Compute (SM) Throughput": "SM",
    "DRAM Throughput": "DRAM",
    "L2 Cache Throughput": "L2",
    "L1/TEX Cache Throughput": "L1",
    "Issue Slots Busy": "issue slots",
    "L2 Hit Rate": "L2 hits",
    "Achieved Occupancy": "occupancy",
    "Registers Per Thread": "registers",
}
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
SECONDS |= {"nsecond": 1e-9, "usecond": 1e-6, "msecond": 1e-3, "second": 1.0}


class Task(NamedTuple):
    """A step's command and time.

    Attributes:
        seconds: at most so many.
        least: with less than this left of the budget it is not worth starting.
        environment: names and values of variables beside this process's.
        again: whether it is run even if it has passed before.
        missing: why it cannot run here; empty if it can.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    least: float = 10.0
    environment: tuple[tuple[str, str], ...] = ()
    again: bool = False
    missing: str = ""


class Started(NamedTuple):
    """A task that runs: its process, the file of its output, when it began and for how long it may."""

    task: Task
    process: subprocess.Popen[bytes]
    output: Path
    begin: float
    limit: float


class Budget:
    """The time that is left of a run.

    Args:
        seconds: in all.
        clock: gives seconds; tests bring their own.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - self._clock())

    def limit(self, task: Task) -> float | None:
        """The seconds that the task may take; None if too few are left for it."""
        return None if self.left < task.least else min(task.seconds, self.left)


class Run:
    """One run: starts tasks, and writes down what came of them.

    Args:
        folder: where everything goes.
        header: what all records share.
        state: what has passed in earlier calls.
        only: the tasks to run; empty for all.
    """

    def __init__(self, folder: Path, budget: Budget, header: Row, state: State, only: tuple[str, ...] = ()) -> None:
        self.folder, self.budget, self.header, self.state, self.only = folder, budget, header, state, only
        self.rows, self.log = folder / "rows.jsonl", folder / "log.txt"
        if not state.outcomes:
            for file in (self.rows, self.log):
                file.unlink(missing_ok=True)
        self.outcomes: dict[str, str] = {}
        self.choices: Path | None = None  # the device's table of choices, once gconv was asked
        self._outputs = tempfile.TemporaryDirectory()
        self._running: list[Started] = []

    def record(self, step: str, status: str, **facts: Any) -> None:
        """Writes a step's outcome, and prints it."""
        self.outcomes[step] = status
        self.state.note(step, status)
        row = {**self.header, "time": now(), "step": step, "status": status, **facts}
        with self.rows.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        detail = f": {facts['detail']}" if facts.get("detail") else ""
        took = f" in {facts['seconds']:.0f} s" if "seconds" in facts else ""
        print(f"{step}: {status}{took}{detail} ({self.budget.left:.0f} s left)")

    def skip(self, step: str, reason: str) -> None:
        self.record(step, SKIPPED, detail=reason)

    def left(self, tasks: Iterable[Task]) -> list[Task]:
        """Those that are asked for and have not passed before."""
        return [
            task
            for task in tasks
            if task.again or ((not self.only or task.name in self.only) and not self.state.passed(task.name))
        ]

    def together(self, *tasks: Task) -> dict[str, str]:
        """Runs those that are left at the same time and waits for them; the output of each."""
        return self.wait(*(started for task in self.left(tasks) if (started := self.begin(task))))

    def begin(self, task: Task) -> Started | None:
        """Starts a task, to be waited for; None if too little time is left."""
        if task.missing:
            self.skip(task.name, task.missing)
            return None
        limit = self.budget.limit(task)
        if limit is None:
            self.skip(task.name, f"it wants {task.least:.0f} s of the budget")  # record says how many are left
            return None
        started = self._start(task, limit)
        self._running.append(started)
        return started

    def wait(self, *running: Started) -> dict[str, str]:
        """Waits for what was begun; the output of each, whose end also goes to the log."""
        outputs = {started.task.name: self._finish(started) for started in running}
        self._running = [started for started in self._running if started not in running]
        return outputs

    def _start(self, task: Task, limit: float) -> Started:
        output = Path(self._outputs.name) / task.name.replace(" ", "-")
        with output.open("wb") as stream:
            process = subprocess.Popen(
                task.command,
                cwd=ROOT,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(task.environment),
                start_new_session=True,
            )
        return Started(task, process, output, time.monotonic(), limit)

    def _finish(self, started: Started) -> str:
        """Waits for a task, ends it when its time is over, and writes down what came of it; its output."""
        task, process, output, begin, limit = started
        try:
            status = FAILED if process.wait(max(0.0, begin + limit - time.monotonic())) else PASSED
        except subprocess.TimeoutExpired:
            end(process)
            status = CUT
        text = output.read_text(errors="replace")
        with self.log.open("a") as log:
            log.write(f"\n== {task.name}: {' '.join(task.command)}\n{text[-LOG_CHARACTERS:]}")
        if status == FAILED and any(refusal in text for refusal in REFUSALS):
            status = REFUSED
        if status == PASSED and LEFT_OUT in text:
            status = CUT  # by itself
        self.record(task.name, status, seconds=time.monotonic() - begin, detail=last_line(text))
        if status == FAILED:
            print("\n".join(f"    {line[:300]}" for line in text.splitlines()[-15:]))
        return text

    def close(self) -> None:
        """Ends whatever still runs."""
        for started in self._running:
            if started.process.poll() is None:
                end(started.process)
        self._outputs.cleanup()


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks a process and its children to end, and makes them."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def last_line(text: str) -> str:
    """What a command says last, of pytest its summary, cut to a line of the console."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    summaries = [line for line in lines if re.search(r"\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+s", line)]
    return (summaries or lines or [""])[-1][:160]


def ask(*command: str, seconds: float = 120.0) -> Row:
    """The JSON object that a command prints last.

    Raises:
        RuntimeError: it printed none, failed, or took too long.
    """
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
        found: Row = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError) as error:
        said = "" if isinstance(error, subprocess.TimeoutExpired) else last_line(done.stderr)
        raise RuntimeError(f"{' '.join(command[1:])} gave no answer: {said or type(error).__name__}") from error
    return found


@click.group(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run everything that needs a GPU, or take the results of such a run in."""


@main.command()
@click.option("--seconds", default=BUDGET_S, show_default=True, help="The budget of this call.")
@click.option("--only", multiple=True, metavar="STEP", help="Only this step, and the builds; may be repeated.")
@click.option("--again", is_flag=True, help="Also what has passed before.")
@click.option(
    "--after",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Go on after the call whose $OUT this was, on a machine that knows nothing of it.",
)
@click.option("--list", "listing", is_flag=True, help="Name the steps in their order, with their limits, and stop.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("OUT") or RESULTS / "gpu-run"),
    show_default="$OUT, or bench/results/gpu-run",
)
def run(seconds: float, only: tuple[str, ...], again: bool, after: Path | None, listing: bool, out: Path) -> None:
    """Build, test, watch with the sanitizers, time and profile on this machine's GPU; a table comes last.

    The order is that of a first contact: a build for tests, in which a kernel that waits for ever fails instead; every
    op once on small shapes, and if one hangs its name, and nothing more; the tests of `cuda` in six processes under a
    limit of time per test; the layers of the targets; counters; sanitizers; a little of `triton`. Then what can wait:
    Triton's suite, all layers, training steps, the table of choices.

    What has passed is not run again while sources and device stay the same, not even single tests, so that a second
    call goes on where the first was cut off. Good are two calls, of 240 and of 430 seconds:

    \b
      bash bench/gpu.sh --seconds 240
      bash bench/gpu.sh --seconds 430                   # on the same machine, which kept build/
      bash bench/gpu.sh --seconds 430 --after FOLDER    # on a fresh one: FOLDER is what the first call left in $OUT

    Exit status 1 if a step failed or a backend is missing, 2 if there is no device.
    """
    if listing:
        for name, limit in limits():
            print(f"{limit:4.0f} s  {name}")
        return
    if unknown := set(only) - {name for name, _ in limits()}:
        raise click.UsageError(f"--only {min(unknown)!r} is no step; --list names them")
    budget, out = Budget(seconds), out.resolve()
    provide_version()
    try:
        found = ask(*WORK, "device")
    except RuntimeError as error:
        print(f"gpu.sh: nothing was run: {error}")
        sys.exit(1)
    if "missing" in found:
        print(f"gpu.sh: no CUDA device: {found['missing']}")
        sys.exit(NO_DEVICE)
    out.mkdir(parents=True, exist_ok=True)
    state = State(STATE, found["device"])
    if again:
        state.clear()
    if after is not None:
        print(state.take(after))
    header = {"run": now(), "environment": {"device": found["device"]}, "selection": "proof"}
    steps = Run(out, budget, header, state, only)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    print(f"{found['device']}: everything goes to {out}")
    try:
        everything(steps)
    finally:
        steps.close()
        state.copy(out)
        text = table(read(steps.rows))
        (out / "table.txt").write_text(text + "\n")
        print(f"\n{text}")
        if waiting := [name for name, _ in limits() if not state.passed(name)]:
            print(f"not passed yet, for another call: {', '.join(waiting)}")
    sys.exit(int(FAILED in steps.outcomes.values()))


class Step(NamedTuple):
    """Tasks that run at the same time.

    Attributes:
        tasks: gives them when their turn has come.
        build: what must be in gconv/: "tests", "product", or either.
        backend: what must not be missing; empty if nothing is asked.
        after: called with the outputs of those that ran.
    """

    tasks: Callable[[Run], list[Task]]
    build: str = "product"
    backend: str = ""
    after: Callable[[Run, dict[str, str]], None] = lambda steps, outputs: None


def plan() -> list[Step]:
    """The steps in the order of their worth: what is cut off at the end is what can best be missed.

    First what may end everything, then what proves `cuda` right, its speed, and why; and a little of `triton`.
    """
    first = [
        Step(small, "tests", "cuda"),
        Step(lambda steps: [gpu_tests(steps, "cuda")], "tests", "cuda"),  # nothing else is on the device
        Step(lambda steps: [targets(steps, "cuda", LAYERS, 150)], "product", "cuda"),
        Step(lambda steps: profile(steps, "cuda"), "product", "cuda", partial(keep_counters, backend="cuda")),
        Step(lambda steps: sanitizers(steps, "cuda"), "product", "cuda"),
        Step(lambda steps: [Task("small triton", (*WORK, "small", "triton"), 60)], "product", "triton"),
        Step(lambda steps: [targets(steps, "triton", ("D4-64", "C4-128"), 90)], "product", "triton"),
    ]
    later = [
        Step(lambda steps: [gpu_tests(steps, "torch")]),
        Step(lambda steps: [bench(steps, "bench cuda", 150, "--backend", "cuda")], "product", "cuda"),
        Step(
            lambda steps: [bench(steps, "training steps cuda", 60, "--train", "--backend", "cuda")], "product", "cuda"
        ),
        Step(other_tests),
        # Compiling is most of the time of Triton's tests, and nothing is timed.
        Step(
            lambda steps: [gpu_tests(steps, "triton"), Task("warm triton", (*WORK, "warm", "triton"), 240, 60)],
            "product",
            "triton",
        ),
        Step(lambda steps: [bench(steps, "bench triton", 110, "--backend", "triton")], "product", "triton"),
        Step(lambda steps: sanitizers(steps, "triton"), "product", "triton"),
        Step(lambda steps: profile(steps, "triton"), "product", "triton", partial(keep_counters, backend="triton")),
        Step(
            lambda steps: [bench(steps, "training steps triton", 60, "--train", "--backend", "triton")],
            "product",
            "triton",
        ),
        Step(choose, "product", "", keep_choice),
        Step(lambda steps: [bench(steps, "choices", 45)]),
    ]
    return [*first, *later]


def limits() -> list[tuple[str, float]]:
    """Every task that is counted as done or not, with its seconds, in the order in which they run."""
    with tempfile.TemporaryDirectory() as folder:
        none = State(Path(folder) / "state.json", "")
        steps = Run(Path(folder), Budget(1e9), {}, none)
        with contextlib.redirect_stdout(StringIO()):  # of tools that are missing
            found = [(task.name, task.seconds) for step in plan() for task in step.tasks(steps)]
        steps.close()
    return [("machine", 60.0), ("ceilings", 60.0), *found]


def everything(steps: Run) -> None:
    """Builds, and runs the steps of the plan that are left."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(BUILD / "triton"))  # shared by the steps, and the next call's
    builds = Builds(steps)
    tell_tools(steps)
    for step in plan():
        if not steps.left(step.tasks(steps)):
            continue
        if not builds.ready(step):
            return
        if step.backend and builds.missing.get(step.backend) is not None:
            continue  # which was told
        outputs = steps.together(*step.tasks(steps))
        step.after(steps, outputs)
        if step.tasks is small and hangs(steps, outputs):
            return


class Builds:
    """The two builds of the native modules: the one for tests, and the product, which is compiled beside the tests."""

    def __init__(self, steps: Run) -> None:
        self._steps = steps
        self._installed = ""
        self._compiling: Started | None = None
        self.missing: Row = {}  # by backend, why it cannot run, or None

    def ready(self, step: Step) -> bool:
        """Puts the build that a step asks for in gconv/; False if gconv then does not load."""
        if self._installed == step.build:
            return True
        steps, command = self._steps, (*MAKE, "--for-tests") if step.build == "tests" else MAKE
        if self._compiling is not None:
            steps.wait(self._compiling)
            self._compiling = None
        tasks = [Task(f"build of {step.build}", command, 200, again=True)]
        if not self._installed:
            tasks += [Task("machine", (*WORK, "machine"), 60), Task("ceilings", (*WORK, "ceilings"), 60)]
        steps.together(*tasks)
        self._installed = step.build
        if not self._inspect():
            return False
        if step.build == "tests" and any(
            later.build == "product" and steps.left(later.tasks(steps)) for later in plan()
        ):
            self._compiling = steps.begin(
                Task("compiling of product", ("nice", *MAKE, "--only-compile"), 240, again=True)
            )
        return True

    def _inspect(self) -> bool:
        """Asks gconv what it finds. A backend that is missing is a failure, and its steps are left out."""
        try:
            found = ask(*WORK, "gconv")
        except RuntimeError as error:
            self._steps.record("import", FAILED, detail=str(error))
            return False
        self._steps.header["environment"], self.missing = found["environment"], found["missing"]
        self._steps.choices = Path(found["table"])
        for name, reason in self.missing.items():
            if reason is not None:
                self._steps.record(f"backend {name}", FAILED, detail=f"NONE OF ITS STEPS IS RUN: {reason}")
        if not found["environment"]["commit"]:
            print(
                "warning: this copy has no history: GCONV_COMMIT can name its commit, or `collect` where the history is"
            )
        return True


def provide_version() -> None:
    """Lets gconv know its version without an install, by which it would have it."""
    with contextlib.suppress(PackageNotFoundError):
        version("gconv")
        return
    number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    record = BUILD / f"version/gconv-{number}.dist-info/METADATA"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(f"Metadata-Version: 2.1\nName: gconv\nVersion: {number}\n")
    path = (os.environ.get("PYTHONPATH"), str(record.parent.parent))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))


def tell_tools(steps: Run) -> None:
    """Where NVIDIA's tools are."""
    found = {name: tool(name) for name in ("ncu", "compute-sanitizer", "nvcc", "cmake")}
    steps.record("tools", PASSED, detail=", ".join(f"{name} {where or 'is missing'}" for name, where in found.items()))


def small(steps: Run) -> list[Task]:
    """Every op once, each launch waited for, so that one that hangs is the one that is named."""
    blocking = (("CUDA_LAUNCH_BLOCKING", "1"),)
    command = (*WORK, "small", "cuda", "--limit", f"{SMALL_S - GRACE_S:.0f}")
    return [Task("small cuda", command, SMALL_S, SMALL_S, blocking)]


def hangs(steps: Run, outputs: dict[str, str]) -> bool:
    """Whether an op hangs: then it is named, the kernels for devices of 8.0 are tried, and the rest is left."""
    text = outputs.get("small cuda", "")
    if steps.outcomes.get("small cuda") not in (CUT, FAILED):
        return False
    named = [line.removeprefix(RUNNING) for line in text.splitlines() if line.startswith(RUNNING)]
    where = named[-1] if named else "its start"
    if steps.outcomes["small cuda"] == FAILED and not any(words in text for words in HANGS):
        steps.record("small cuda stopped", FAILED, detail=f"at {where}; the tests tell more")
        return False
    steps.record("small cuda hangs", FAILED, detail=f"at {where}: nothing else of this call is run")
    (task,) = small(steps)
    steps.together(task._replace(name="small cuda by kernels for 8.0", command=(*task.command, "--ampere"), again=True))
    return True


def gpu_tests(steps: Run, name: str) -> Task:
    """tests/test_gpu.py backend by backend, as each counts for its own; those of "torch" are of its operations."""
    words = {"torch": "not cuda and not triton"}.get(name, name)
    task = f"tests of {name}" if name == "torch" else f"tests {name}"
    progress = steps.state.progress(task)
    command = (*TESTS, "tests/test_gpu.py", "-k", words, "--results", str(progress))
    return Task(task, command, 240 if name == "triton" else 120, 20)


def targets(steps: Run, backend: str, layers: Iterable[str], seconds: float) -> Task:
    """The layers that the targets are about, conv2d in the one format that is fast and by few of cuDNN's algorithms."""
    named = [option for layer in layers for option in ("--layer", layer)]
    options = ("--backend", backend, *named, "--nhwc-only", "--cudnn-limit", "4")
    return bench(steps, f"targets {backend}", seconds, *options)._replace(least=0.6 * seconds)


def bench(steps: Run, name: str, seconds: float, *options: str) -> Task:
    """bench/run.py on the GPU, told to end by itself before it is cut off."""
    own = max(5.0, min(seconds, steps.budget.left) - 20)
    command = (*PYTHON, "bench/run.py", "--device", "cuda", "--json", str(steps.rows), "--seconds", f"{own:.0f}")
    return Task(name, (*command, *options), seconds, 40)


def sanitizers(steps: Run, backend: str) -> list[Task]:
    """memcheck and racecheck, for barriers set by hand synccheck. Without torch's cache every tensor has an end."""
    sanitizer = tool("compute-sanitizer")
    own = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    return [
        Task(
            f"{check} {backend}",
            (sanitizer or "", "--tool", check, *SANITIZER, *WORK, "small", backend),
            90,
            20,
            own,
            missing="" if sanitizer else "compute-sanitizer is not installed",
        )
        for check in CHECKS[backend]
    ]


def other_tests(steps: Run) -> list[Task]:
    """The tests of the ops on the CPU, and those of training steps as CUDA graphs where sgan loads."""
    ops = [f"tests/test_{stem}.py" for stem in ("lifting_conv2d", "group_conv2d", "group_pool", "gradients")]
    absent = [name for name in ("PIL", "safetensors", "sklearn") if find_spec(name) is None]
    graphs = Task("tests of CUDA graphs", (*TESTS, "tests/test_cuda_graph.py", "--limit", "80"), 90, 20)
    return [
        Task("tests of the ops on the CPU", (*TESTS, *ops), 90, 20),
        graphs._replace(missing=f"python has no {' '.join(absent)}" if absent else ""),
    ]


def profile(steps: Run, backend: str) -> list[Task]:
    """ncu's counters of a wide C4 and a wide D4 layer: the report, and from it what the log and the table show."""
    ncu, report = tool("ncu"), BUILD / f"counters-{backend}.ncu-rep"
    sections = [option for section in NCU_SECTIONS for option in ("--section", section)]
    watch = (
        ncu or "",
        "--clock-control",
        "none",
        "--profile-from-start",
        "off",
        "--force-overwrite",
        "-o",
        str(report),
    )
    show = (ncu or "", "--import", str(report), "--page", "details")
    commands = ((*watch, *sections, *WORK, "hot", backend), (*show, "--print-details", "all"), (*show, "--csv"))
    script = " && ".join(map(shlex.join, commands))
    missing = "" if ncu else "ncu is not installed"
    return [Task(f"counters {backend}", ("bash", "-c", script), 60, 20, missing=missing)]


def keep_counters(steps: Run, outputs: dict[str, str], backend: str) -> None:
    """Puts ncu's text and report among the results, and the two kernels that take longest into a row."""
    text, report = outputs.get(f"counters {backend}", ""), BUILD / f"counters-{backend}.ncu-rep"
    if text:
        (steps.folder / f"counters-{backend}.txt").write_text(text)
    if text and report.exists():
        shutil.copy(report, steps.folder)
    if hottest := counters(text)[:2]:
        steps.record(f"hottest kernels {backend}", PASSED, kernels=hottest)


def counters(text: str) -> list[Row]:
    """The counters of every launch that ncu saw, the longest first, a kernel once; none if it saw none."""
    lines = text.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    found: dict[str, Row] = {}
    for line in csv.DictReader(StringIO("\n".join(lines[begin:]))):
        if line.get("Metric Name") in COUNTERS:
            launch = found.setdefault(line["ID"], {"kernel": line["Kernel Name"].split("(")[0], "seconds": 0.0})
            unit, value = line["Metric Unit"], line["Metric Value"]
            launch[COUNTERS[line["Metric Name"]]] = f"{value} {unit}".strip()
            if line["Metric Name"] == "Duration" and unit in SECONDS:
                launch["seconds"] = float(value.replace(",", "")) * SECONDS[unit]
    longest: dict[str, Row] = {}
    for launch in sorted(found.values(), key=lambda launch: -launch["seconds"]):
        longest.setdefault(launch["kernel"], launch)
    return list(longest.values())


def choose(steps: Run) -> list[Task]:
    """Measures the table that backend=None goes by on this device."""
    path = steps.choices or Path()
    command = (*PYTHON, "bench/tune.py", "--device", "cuda", "--seconds", "40", "--output", str(path))
    return [Task("table of choices", command, 70, 55)]


def keep_choice(steps: Run, outputs: dict[str, str]) -> None:
    if steps.outcomes.get("table of choices") == PASSED and steps.choices is not None:
        shutil.copy(steps.choices, steps.folder)


def tool(name: str) -> str | None:
    """Where one of NVIDIA's tools is, on the PATH or where they are installed, the newest; None if it is not there."""
    folders = [str(folder) for pattern in TOOLS for folder in sorted(Path("/").glob(pattern[1:]), reverse=True)]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def read(path: Path) -> list[Row]:
    """The rows of a file, without one that was being written when its step was ended."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def table(rows: Iterable[Row]) -> str:
    """What a run found, in lines: each step's outcome, the ceilings, and one line per measured case."""
    rows = list(rows)
    lines = []
    for row in (row for row in rows if "step" in row):
        lines.append(f"{row['status']:9}{row['step']}: {row.get('detail', '')}".rstrip(": "))
        lines += [
            "         " + ", ".join(f"{name} {value}" for name, value in kernel.items() if name != "seconds")
            for kernel in row.get("kernels", ())
        ]
    heading = None
    for row in (row for row in rows if "case" in row):
        if heading != (heading := (row["case"]["op"], row["case"]["suite"], row["backend"])):
            lines.append(f"{show.heading(row)}")
        lines.append(show.line(show.cells(row)))
    verdicts = [target["met"] for row in rows if "case" in row for target in row["targets"]]
    lines.append(f"\ntargets: {verdicts.count(True)} met, {verdicts.count(False)} missed")
    return "\n".join(lines)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--results", type=click.Path(path_type=Path, file_okay=False), default=RESULTS, help="Where rows go.")
def collect(folder: Path, results: Path) -> None:
    """Append the rows of a run in FOLDER to the committed ones, and put its table of choices in its place.

    Rows of a copy without history get this checkout's commit, if the kernels' sources are the same.
    """
    from kernel_sources import checksums
    from measure import environment_commit

    from gconv.backends.measured import slug

    sources, commit = checksums(), environment_commit()
    rows = [row for row in read(folder / "rows.jsonl") if "kernel_sources" in row["environment"]]
    if not rows:
        raise click.ClickException(f"{folder}/rows.jsonl has no row of a run that got past its build")
    target = results / f"{slug(rows[0]['environment']['device'])}.jsonl"
    known = {json.dumps(row) for row in read(target)}
    for row in rows:
        if not row["environment"]["commit"] and row["environment"]["kernel_sources"] == sources:
            row["environment"] |= commit
    added = [line for line in map(json.dumps, rows) if line not in known]
    with target.open("a") as stream:
        stream.writelines(line + "\n" for line in added)
    print(f"{target}: {len(added)} rows more")
    for file in folder.glob("choice-*.json"):
        print(f"{shutil.copy(file, ROOT / 'gconv/backends' / file.name)}: new")
    print("now: python bench/report.py")


if __name__ == "__main__":
    main()
