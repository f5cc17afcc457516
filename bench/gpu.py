"""The proof on a GPU: `bash bench/gpu.sh` runs everything, `python bench/gpu.py collect DIR` takes the results in.

Every step is a process of its own with a time limit, cut to what is left of the budget: a later step is shortened, or
skipped and the reason printed. What a step finds is a line of JSON in DIR/rows.jsonl at once.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import click
import show
from verification import CHECKS

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench/results"
BUDGET_S = 520.0  # of nine minutes: a step that is killed may take five seconds to end, the table one
LOG_CHARACTERS = 1_000_000  # of one step's output that the log keeps, its end: compilers print whole programs
GRACE_S = 5.0  # between asking a step to end and ending it
NO_DEVICE = 2  # exit status
PASSED, FAILED, CUT, SKIPPED, REFUSED = "passed", "failed", "cut off", "skipped", "refused"
PYTHON = (sys.executable,)
WORK = (*PYTHON, "bench/gpu_work.py")
# What NVIDIA's tools say where the machine does not let them look; the kernels are then neither right nor wrong.
REFUSALS = (
    "Device not supported",
    "Failed to initialize the profiler",
    "ERR_NVGPUCTRPERM",
    "LibraryNotLoaded",
    "No kernels were profiled",
)
NCU_SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "ComputeWorkloadAnalysis", "Occupancy", "LaunchStats")
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
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    least: float = 10.0
    environment: tuple[tuple[str, str], ...] = ()


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
    """

    def __init__(self, folder: Path, budget: Budget, header: Row) -> None:
        self.folder, self.budget, self.header = folder, budget, header
        self.rows, self.log = folder / "rows.jsonl", folder / "log.txt"
        for file in (self.rows, self.log):
            file.unlink(missing_ok=True)
        self.outcomes: dict[str, str] = {}
        self._outputs = tempfile.TemporaryDirectory()
        self._running: list[Started] = []

    def record(self, step: str, status: str, **facts: Any) -> None:
        """Writes a step's outcome, and prints it."""
        self.outcomes[step] = status
        row = {**self.header, "time": now(), "step": step, "status": status, **facts}
        with self.rows.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        detail = f": {facts['detail']}" if facts.get("detail") else ""
        took = f" in {facts['seconds']:.0f} s" if "seconds" in facts else ""
        print(f"{step}: {status}{took}{detail} ({self.budget.left:.0f} s left)")

    def skip(self, step: str, reason: str) -> None:
        self.record(step, SKIPPED, detail=reason)

    def together(self, *tasks: Task) -> dict[str, str]:
        """Runs tasks at the same time and waits for all; the output of each, which also goes to the log."""
        self._running = []
        for task in tasks:
            limit = self.budget.limit(task)
            if limit is None:
                self.skip(task.name, f"it wants {task.least:.0f} s of the budget")  # record says how many are left
            else:
                self._running.append(self._start(task, limit))
        return {started.task.name: self._finish(started) for started in self._running}

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
@click.option("--seconds", default=BUDGET_S, show_default=True, help="The budget of the whole run.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("OUT") or RESULTS / "gpu-run"),
    show_default="$OUT, or bench/results/gpu-run",
)
def run(seconds: float, out: Path) -> None:
    """Build, test, watch with the sanitizers, time, profile and train on this machine's GPU; a table comes last.

    Exit status 1 if a step failed, 2 if there is no device.
    """
    budget, out = Budget(seconds), out.resolve()
    try:
        found = ask(*WORK, "device")
    except RuntimeError as error:
        print(f"gpu.sh: nothing was run: {error}")
        sys.exit(1)
    if "missing" in found:
        print(f"gpu.sh: no CUDA device: {found['missing']}")
        sys.exit(NO_DEVICE)
    out.mkdir(parents=True, exist_ok=True)
    steps = Run(out, budget, {"run": now(), "environment": {"device": found["device"]}, "selection": "proof"})
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    print(f"{found['device']}: everything goes to {out}")
    try:
        everything(steps)
    finally:
        steps.close()
        text = table(read(steps.rows))
        (out / "table.txt").write_text(text + "\n")
        print(f"\n{text}")
    sys.exit(int(FAILED in steps.outcomes.values()))


def everything(steps: Run) -> None:
    """The steps in the order of their worth: what is cut off at the end is what can best be missed.

    Two backends get less time each. The last to go is what proves the kernels right; the first are the choices, the
    counters and training steps of the second backend, and the table of choices.
    """
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "gconv-triton"))  # shared by the steps
    found = build(steps)
    if found is None:
        return
    present = [name for name, missing in found["missing"].items() if missing is None]
    for name, missing in found["missing"].items():
        if missing is not None:
            steps.skip(f"backend {name}", missing)
    share = max(1, len(present))
    first = tests(steps.folder, present)
    for name in present:
        first.append(Task(f"small {name}", (*WORK, "small", name), 150))
        if name == "triton":  # nothing is timed yet: all that later steps run is compiled beside the tests
            first.append(Task(f"warm {name}", (*WORK, "warm", name), 180))
    steps.together(*first)
    steps.together(Task("ceilings", (*WORK, "ceilings"), 30))
    for name in present:
        steps.together(bench(steps, f"bench {name}", 110 if share == 1 else 75, "--backend", name))
    steps.together(*sanitizers(steps, present), *other_tests(steps))  # nothing here is timed
    for number, name in enumerate(present):
        if number == 1:
            choose(steps, Path(found["table"]))
        profile(steps, name)
        steps.together(bench(steps, f"training steps {name}", 100 // share, "--train", "--backend", name))
    if share == 1 and present:
        choose(steps, Path(found["table"]))
    if present:
        steps.together(bench(steps, "choices", 45))


def tests(folder: Path, present: list[str]) -> list[Task]:
    """tests/test_gpu.py backend by backend, as each counts for its own; the last are those of torch's operations."""
    neither = " and ".join(f"not {name}" for name in present)
    chosen = {f"tests {name}": name for name in present} | {"tests of torch": neither}
    tasks = []
    for name, words in chosen.items():
        report = folder / f"{name.replace(' ', '-')}.xml"
        command = (*pytest_command(report, len(chosen), "tests/test_gpu.py"), "-k", words)
        tasks.append(Task(name, command, 180, 20))
    return tasks


def build(steps: Run) -> Row | None:
    """Installs gconv where it stands, and asks it what it finds; None if it does not load.

    Without a native build it is still there, from the checkout, but for its version, which the install would have left.
    """
    install = (*PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "-e", ".", "--no-build-isolation", "--no-deps")
    steps.together(Task("build", install, 150))
    if steps.outcomes["build"] != PASSED:
        record = Path(tempfile.mkdtemp()) / "gconv-0.dist-info/METADATA"
        record.parent.mkdir()
        record.write_text("Metadata-Version: 2.1\nName: gconv\nVersion: 0\n")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(record.parent.parent), os.environ.get("PYTHONPATH", "")])
    try:
        found = ask(*WORK, "gconv")
    except RuntimeError as error:
        steps.record("import", FAILED, detail=str(error))
        return None
    steps.header["environment"] = found["environment"]
    if not found["environment"]["commit"]:
        print("warning: this copy has no history: GCONV_COMMIT can name its commit, or `collect` where the history is")
    return found


def pytest_command(report_file: Path | None, share: int, *files: str) -> tuple[str, ...]:
    """pytest with warnings as warnings: this machine's libraries are not those that the project is tested with.

    It runs on its share of all cores but two where pytest-xdist is installed: compiling is most of the time. What
    compilers print is left out of the report, which would be too large to keep where every kernel fails.
    """
    report = () if report_file is None else (f"--junit-xml={report_file}",)
    cores = (f"-n{max(1, ((os.cpu_count() or 1) - 2) // share)}",) if find_spec("xdist") else ()
    options = ("-q", "-W", "default", "--tb=short", "--show-capture=no", "--maxfail=200")
    return (*PYTHON, "-m", "pytest", *options, *cores, *report, *files)


def bench(steps: Run, name: str, seconds: float, *options: str) -> Task:
    """bench/run.py on the GPU, told to end by itself before it is cut off."""
    own = max(5.0, min(seconds, steps.budget.left) - 20)
    command = (*PYTHON, "bench/run.py", "--device", "cuda", "--json", str(steps.rows), "--seconds", f"{own:.0f}")
    return Task(name, (*command, *options), seconds, 40)


def sanitizers(steps: Run, present: list[str]) -> list[Task]:
    """memcheck and racecheck of every backend, synccheck of barriers set by hand. Without torch's cache every tensor
    has an end."""
    sanitizer = tool("compute-sanitizer")
    tasks = []
    for backend, check in ((name, check) for name in present for check in CHECKS[name]):
        if sanitizer is None:
            steps.skip(f"{check} {backend}", "compute-sanitizer is not installed")
            continue
        command = (sanitizer, "--tool", check, *SANITIZER, *WORK, "small", backend)
        tasks.append(Task(f"{check} {backend}", command, 90, 20, (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)))
    return tasks


def other_tests(steps: Run) -> list[Task]:
    """The tests of the ops on the CPU, and those of training steps as CUDA graphs where sgan loads."""
    ops = [f"tests/test_{stem}.py" for stem in ("lifting_conv2d", "group_conv2d", "group_pool", "gradients")]
    tasks = [Task("tests of the ops on the CPU", pytest_command(None, 2, *ops), 90, 20)]
    if absent := [name for name in ("PIL", "safetensors", "sklearn") if find_spec(name) is None]:
        steps.skip("tests of CUDA graphs", f"python has no {' '.join(absent)}")
        return tasks
    return [*tasks, Task("tests of CUDA graphs", pytest_command(None, 2, "tests/test_cuda_graph.py"), 90, 20)]


def profile(steps: Run, backend: str) -> None:
    """ncu's counters of the two kernels that take longest in a wide C4 and a wide D4 layer."""
    name, ncu = f"counters {backend}", tool("ncu")
    if ncu is None:
        steps.skip(name, "ncu is not installed")
        return
    sections = [option for section in NCU_SECTIONS for option in ("--section", section)]
    command = (ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--page", "details", *sections)
    outputs = steps.together(Task(name, (*command, *WORK, "hot", backend), 60, 20))
    hottest = counters(outputs.get(name, ""))[:2]
    if hottest:
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


def choose(steps: Run, path: Path) -> None:
    """Measures the table that backend=None goes by on this device."""
    command = (*PYTHON, "bench/tune.py", "--device", "cuda", "--seconds", "40", "--output", str(path))
    steps.together(Task("table of choices", command, 70, 55))
    if steps.outcomes["table of choices"] == PASSED:
        shutil.copy(path, steps.folder)


def tool(name: str) -> str | None:
    """Where one of NVIDIA's tools is, on the PATH or where CUDA installs it; None if it is not there."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


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
