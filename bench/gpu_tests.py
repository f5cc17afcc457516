"""Runs the tests of a GPU in several processes, and goes on where one of them hangs or takes its process with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import click

PASSED, FAILED, SKIPPED, HUNG, CRASHED = "passed", "failed", "skipped", "hung", "crashed"
# What a process ends with inside a test when that takes too long: by tests/time_limit.py, and by its backstop.
HUNG_STATUSES = (86, 1)
# Warnings stay warnings: a GPU machine's libraries are not those that the project is tested with.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-W", "default", "--tb=short", "--show-capture=no", "-p", "no:xdist")
LOOK_S = 0.2  # between two looks at the processes
SAID = 4000  # characters of what is said of a test that did not pass


class Result(NamedTuple):
    """What came of a test."""

    test: str
    outcome: str
    said: str = ""


class Shard:
    """A process that runs tests one after the other, and another behind each test that ended it.

    Args:
        tests: pytest's names.
        folder: for its output and what it says of its progress.
        limit: seconds of one test.
    """

    def __init__(self, tests: list[str], folder: Path, limit: float) -> None:
        folder.mkdir(parents=True)
        self.left = list(tests)
        self._limit, self._progress, self._output = limit, folder / "progress", folder / "output"
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self._progress.write_text("")
        options = (f"--test-limit={self._limit:g}", f"--test-progress={self._progress}")
        with self._output.open("wb") as stream:
            return subprocess.Popen((*PYTEST, *options, *self.left), stdout=stream, stderr=subprocess.STDOUT)

    def look(self) -> list[Result]:
        """What is new. A process that ended before its tests is followed by another."""
        status = self._process.poll()  # before the progress, which then is complete
        found, running = self._settled()
        if status is None or not self.left:
            return found
        if running is not None:
            outcome = HUNG if status in HUNG_STATUSES else CRASHED
            lost = [Result(running, outcome, self._said(status))]
        elif not found and not self._progress.read_text():  # it did not come to any test, and would not again
            lost = [Result(test, CRASHED, self._said(status)) for test in self.left]
        else:
            lost = []
        for result in lost:
            self.left.remove(result.test)
        if self.left:
            self._process = self._started()
        return found + lost

    def stop(self) -> tuple[list[Result], str | None]:
        """Ends the process; what was new, and the test that was running."""
        self._process.kill()
        self._process.wait()
        return self._settled()

    def _settled(self) -> tuple[list[Result], str | None]:
        """The tests that have ended since the last look, and the one that is running."""
        found, running = [], None
        for line in self._progress.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # of a line that is being written
                facts = json.loads(line)
                running = None if "outcome" in facts else facts["test"]
                if "outcome" in facts and facts["test"] in self.left:
                    self.left.remove(facts["test"])
                    found.append(Result(facts["test"], facts["outcome"], facts["said"][-SAID:]))
        return found, running

    def _said(self, status: int) -> str:
        return f"exit status {status}\n{self._output.read_text(errors='replace')[-SAID:]}"


def collect(files: tuple[str, ...], expression: str) -> list[str]:
    """The names of the tests that the expression chooses.

    Raises:
        click.ClickException: there are none, or the files do not load.
    """
    command = (*PYTEST, "--collect-only", "-k", expression, *files)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode or not found:
        raise click.ClickException(f"nothing was collected, exit status {done.returncode}\n{done.stdout[-4000:]}")
    return found


def read(path: Path | None) -> dict[str, Result]:
    """The results of an earlier call, the last one of each test."""
    found: dict[str, Result] = {}
    for line in path.read_text().splitlines() if path is not None and path.exists() else ():
        with suppress(json.JSONDecodeError):  # of a line that was being written when the time was over
            result = Result(**json.loads(line))
            found[result.test] = result
    return found


def run(tests: list[str], processes: int, limit: float, keep: Path | None) -> tuple[list[Result], list[str]]:
    """Runs tests in so many processes, and writes each result to the file as it comes.

    Returns:
        The results, and the tests that were running when SIGTERM ended it.
    """
    results: list[Result] = []
    interrupted: list[str] = []

    def take(found: list[Result]) -> None:
        results.extend(found)
        for result in found:
            if result.outcome not in (PASSED, SKIPPED):
                print(f"{result.outcome}: {result.test}\n{indent(result.said)}", flush=True)
        if keep is not None:
            with keep.open("a") as stream:
                stream.writelines(json.dumps(result._asdict()) + "\n" for result in found)

    with tempfile.TemporaryDirectory() as folder:
        parts = [part for part in (tests[i::processes] for i in range(processes)) if part]
        shards = [Shard(part, Path(folder) / str(i), limit) for i, part in enumerate(parts)]
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            while any(shard.left for shard in shards):
                time.sleep(LOOK_S)
                for shard in shards:
                    take(shard.look())
        except SystemExit:
            print("the time is over")
        finally:
            signal.signal(signal.SIGTERM, before)
            for shard in shards:
                found, running = shard.stop()
                take(found)
                interrupted += [running] if running is not None and running in shard.left else []
    return results, interrupted


def indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True)
@click.option("-k", "expression", default="", metavar="EXPRESSION", help="As pytest's: which of the tests.")
@click.option("--processes", type=click.IntRange(min=1), default=6, show_default=True, help="At a time.")
@click.option("--limit", type=float, default=40.0, show_default=True, help="Seconds of one test, with its fixtures.")
@click.option("--results", type=click.Path(path_type=Path, dir_okay=False), help="Go on where this file ends.")
def main(files: tuple[str, ...], expression: str, processes: int, limit: float, results: Path | None) -> None:
    """Run tests of FILES in several processes, each test under a limit of time.

    A test that hangs is named, with the lines it stood at; its process is ended, and the tests behind it run in a new
    one. So do those behind a test that crashes its process, or after which the device answers no more. pytest-xdist
    and pytest-timeout are not needed.

    With --results every result is a line of JSON in that file, and tests that it says have passed are not run again.
    The exit status is 1 unless every test has passed or was skipped.
    """
    begin = time.monotonic()
    tests = collect(files, expression)
    earlier = {name for name, result in read(results).items() if result.outcome in (PASSED, SKIPPED)}
    left = [test for test in tests if test not in earlier]
    found, interrupted = run(left, processes, limit, results)
    for test in interrupted:
        print(f"running at the end of the time: {test}")
    counts = Counter(result.outcome for result in found)
    counts += Counter(result.outcome for result in read(results).values() if result.test in earlier.intersection(tests))
    missing = len(left) - len(found)
    told = [f"{counts[name]} {name}" for name in (PASSED, FAILED, HUNG, CRASHED, SKIPPED) if counts[name]]
    told += [f"{missing} not run"] if missing else []
    told += [f"{len(tests) - len(left)} of them in an earlier call"] if len(left) < len(tests) else []
    print(f"{', '.join(told)} in {time.monotonic() - begin:.2f}s")
    sys.exit(int(bool(missing or counts[FAILED] or counts[HUNG] or counts[CRASHED])))


if __name__ == "__main__":
    main()
