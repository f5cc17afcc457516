"""One process per run folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    HAS_LOCKS = False
else:
    HAS_LOCKS = True

__all__ = ["LOCK_NAME", "FolderInUse", "locked", "refuse_ranks"]

LOCK_NAME = ".lock"
TAKEN = (errno.EACCES, errno.EAGAIN)
CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
# What launchers tell each of several processes: torchrun, Open MPI, MPICH.
WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

_held: dict[Path, str] = {}  # by this process, to which its own record locks say nothing


class FolderInUse(RuntimeError):
    """Another process is at work in the run folder."""


def refuse_ranks(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Raise in every process of a job that a launcher started several times: a run is one process.

    Raises:
        ValueError: a variable of `WORLD_SIZES` says that there is more than one.
    """
    for name in WORLD_SIZES:
        value = environ.get(name, "1")
        if value.isdecimal() and int(value) > 1:
            raise ValueError(
                f"train: a run must be one process, got {name}={value}: every one of them would train the whole run. "
                "Start it without the launcher; several runs go side by side, each in its own --outdir"
            )


@contextmanager
def locked(folder: Path) -> Iterator[str | None]:
    """Hold the folder, which must exist, for this process; give None, or a line where the file system cannot lock.

    It is a POSIX record lock on a file in the folder (`LOCK_NAME`): the kernel drops it when the process ends, however
    that comes, no forked child inherits it, and network file systems carry it between hosts as far as they lock. The
    file, which says who holds the lock, is removed at the end; one that a killed process left is taken over.

    Raises:
        FolderInUse: a process, perhaps this one, holds the folder; the message says which, where and since when.
        OSError: the file cannot be written.
    """
    path = folder.resolve() / LOCK_NAME
    if path in _held:
        raise FolderInUse(f"{folder} is in use by this process, since {_held[path]}")
    if not HAS_LOCKS:
        yield "warning: this system has no POSIX locks: nothing keeps a second process out of the folder"
        return
    file, note = _acquire(path, folder)
    try:
        _held[path] = datetime.now(UTC).isoformat(timespec="seconds")
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": _held[path]}
        os.ftruncate(file, 0)
        os.pwrite(file, (json.dumps(holder) + "\n").encode(), 0)
        yield note
    finally:
        _held.pop(path, None)
        path.unlink(missing_ok=True)  # before the lock goes, so that nobody else's file is removed
        os.close(file)


def _acquire(path: Path, folder: Path) -> tuple[int, str | None]:
    """The descriptor of the locked file, and a line where the file system cannot lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        note = None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                holder = _describe(os.pread(file, 4096, 0))
                os.close(file)
                raise FolderInUse(
                    f"{folder} is in use by {holder}. Two processes would write over each other: wait until it has "
                    "ended, stop it, or give another --outdir"
                ) from error
            if error.errno not in CANNOT_LOCK:
                os.close(file)
                raise
            note = f"warning: the file system of {folder} cannot lock ({error.strerror}): nothing keeps a second "
            note += "process out of the folder"
        if _is_still(file, path):
            return file, note
        os.close(file)  # its last holder has removed it in the meantime


def _is_still(file: int, path: Path) -> bool:
    """Whether the path names the open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _describe(content: bytes) -> str:
    """Who holds the lock, as far as the file says."""
    try:
        holder: dict[str, Any] = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process, which has not said yet who it is"
