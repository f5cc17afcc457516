"""A limit of time per test: one that takes longer is named, and its process ends, since a kernel that hangs does not.

A Python thread says which test it is and where it stands; should that be kept from running, faulthandler's own ends the
process a little later. With a progress file every test's begin and end is a line of JSON, so that what started the
process (bench/gpu_tests.py) knows which test was running whatever ended it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

HUNG, BROKEN = 86, 87  # exit statuses: a test took too long; the device answers no more
BACKSTOP_S = 5.0
ON_GPU_S = 300.0  # where there is a device and nothing else is said
SAID = 4000  # characters of a failure that the progress file keeps, its end


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("gconv")
    group.addoption(
        "--test-limit",
        type=float,
        default=default_limit(),
        metavar="SECONDS",
        help="End the process, naming the test, when one takes longer; 0: never. "
        f"[default: {ON_GPU_S:.0f} where there is a GPU, else 0]",
    )
    group.addoption(
        "--test-progress", type=Path, metavar="FILE", help="Append a line of JSON per test's begin and end."
    )


def default_limit() -> float:
    return ON_GPU_S if torch.cuda.is_available() else 0


def register(config: pytest.Config) -> None:
    limit, progress = config.getoption("--test-limit"), config.getoption("--test-progress")
    if limit or progress:
        config.pluginmanager.register(Watchdog(limit, progress))


class Watchdog:
    """Watches one test after the other.

    Args:
        limit: seconds of a test with its fixtures; 0 is no limit.
        progress: where its lines go, or None.
    """

    def __init__(self, limit: float, progress: Path | None) -> None:
        self._limit, self._progress = limit, progress
        self._stderr = os.dup(2)  # before pytest takes it for a test's output
        self._failure = ""
        self._skipped = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._failure, self._skipped, begin = "", False, time.monotonic()
        self._note(test=item.nodeid)
        timer = threading.Timer(self._limit, self._give_up, [item.nodeid])
        timer.daemon = True
        if self._limit:
            timer.start()
            faulthandler.dump_traceback_later(self._limit + BACKSTOP_S, exit=True, file=self._stderr)
        try:
            return (yield)
        finally:
            lost = device_error() if self._failure else ""
            timer.cancel()
            if self._limit:
                faulthandler.cancel_dump_traceback_later()
            outcome = "failed" if self._failure else "skipped" if self._skipped else "passed"
            self._note(test=item.nodeid, outcome=outcome, seconds=time.monotonic() - begin, said=self._failure)
            if lost and self._limit:
                self._say(f"{item.nodeid}: the device answers no more, the process ends: {lost}")
                os._exit(BROKEN)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._skipped = self._skipped or report.skipped
        if report.failed:
            self._failure = (self._failure + report.longreprtext)[-SAID:] or "it failed"

    def _give_up(self, test: str) -> None:
        faulthandler.dump_traceback(self._stderr)
        self._say(f"{test}: not done after {self._limit:g} s, the process ends")
        os._exit(HUNG)

    def _say(self, text: str) -> None:
        sys.stdout.flush()
        os.write(self._stderr, f"\n{text}\n".encode())

    def _note(self, **facts: object) -> None:
        if self._progress is not None:
            with self._progress.open("a") as stream:
                stream.write(json.dumps(facts) + "\n")


def device_error() -> str:
    """What the device says when it is waited for; nothing if all is well. After a kernel's error, every call fails."""
    if not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""
