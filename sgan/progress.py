"""What a person sees while training: a live bar on a terminal, one plain line per tick everywhere."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["ProgressBar", "StopRequest", "duration"]

UPDATE_EVERY_S = 0.5


class ProgressBar:
    """A live line with kimg, images/s, time left and losses; silent where the console is no terminal."""

    def __init__(self, console: Console, total_images: int, images_seen: int) -> None:
        self._progress = Progress(
            TextColumn("kimg {task.fields[kimg]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self._task = self._progress.add_task(
            "train", total=total_images, completed=images_seen, kimg="", speed="", note=""
        )
        self._updated_s = -UPDATE_EVERY_S

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @property
    def is_due(self) -> bool:
        """Whether someone sees the line, and has for half a second: what it shows may have to be waited for."""
        return not self._progress.disable and time.monotonic() - self._updated_s >= UPDATE_EVERY_S

    def update(self, images_seen: int, images_per_s: float, scalars: Mapping[str, float]) -> None:
        """Show where training is and how the losses are."""
        self._updated_s = time.monotonic()
        losses = "  ".join(f"{name} {value:.3f}" for name, value in scalars.items())
        kimg, speed = f"{images_seen / 1000:.1f}", f"{images_per_s:.0f} images/s"
        self._progress.update(self._task, completed=images_seen, kimg=kimg, speed=speed, note=losses)

    def note(self, text: str) -> None:
        """Show what is happening instead of a step."""
        self._progress.update(self._task, note=text)
        self._progress.refresh()


class StopRequest:
    """Turns the first SIGINT (Ctrl-C) or SIGTERM into a flag, so that no step is cut in half; a second one raises."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def duration(seconds: float) -> str:
    """Seconds as "7m 05s" or "2h 07m"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_rest = divmod(minutes, 60)
    return f"{hours}h {minutes_rest:02d}m" if hours else f"{minutes}m {rest:02d}s"
