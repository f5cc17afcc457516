"""What of the proof on a GPU has passed, for the call that goes on: a file that stays on the machine and travels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from kernel_sources import ROOT, files_checksum, find

PASSED, FAILED, CUT, SKIPPED, REFUSED = "passed", "failed", "cut off", "skipped", "refused"
# What decides what a step does. Of any other version of these nothing counts.
SOURCES = ("CMakeLists.txt", "pyproject.toml", "csrc/**/*", "gconv/**/*.py", "tests/*.py", "bench/*.py")


class State:
    """The outcomes of the steps, of these sources on one device.

    Args:
        path: the file, which is written after every step; results of single tests lie beside it.
        device: its name.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self._about = {"sources": files_checksum(find(SOURCES), ROOT), "device": device}
        self.outcomes = self._read(path)
        if not self.outcomes:
            self.clear()

    def _read(self, path: Path) -> dict[str, str]:
        """The outcomes of a file, none if it is not there or about something else."""
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        same = {name: found.get(name) for name in self._about} == self._about
        return dict(found["outcomes"]) if same else {}

    def passed(self, step: str) -> bool:
        """Whether there is nothing more to learn of a step: a tool that the machine refuses stays refused."""
        return self.outcomes.get(step) in (PASSED, REFUSED)

    def note(self, step: str, status: str) -> None:
        """Keeps an outcome; one that says nothing does not take the place of another."""
        if status == SKIPPED and step in self.outcomes:
            return
        self.outcomes[step] = status
        self._write()

    def progress(self, step: str) -> Path:
        """Where the results of a step's single tests are kept."""
        return self.path.with_name(f"{step.replace(' ', '-')}.progress")

    def take(self, folder: Path) -> str:
        """Adds what an earlier call left in a folder; what there was to take, in words."""
        if not (found := self._read(folder / self.path.name)):
            return f"{folder}: nothing of it counts, it is of other sources or another device, or of no call"
        self.outcomes = found | self.outcomes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.progress"):
            if not (own := self.path.with_name(file.name)).exists():
                shutil.copyfile(file, own)
        self._write()
        return f"{folder}: {sum(map(self.passed, found))} steps passed there"

    def copy(self, folder: Path) -> None:
        """Puts all of it where the next call may take it from."""
        self._write()
        for file in (self.path, *self.path.parent.glob("*.progress")):
            if file.parent.resolve() != folder.resolve():
                shutil.copyfile(file, folder / file.name)

    def clear(self) -> None:
        """Forgets everything."""
        self.outcomes = {}
        for file in (self.path, *self.path.parent.glob("*.progress")):
            file.unlink(missing_ok=True)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.part")
        partial.write_text(json.dumps({**self._about, "outcomes": self.outcomes}, indent=1) + "\n")
        partial.replace(self.path)
