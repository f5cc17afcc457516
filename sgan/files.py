"""Files that are whole or not there: written beside their place, forced to the disk, renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["append_line", "remove_leftovers", "write_atomic"]

LEFTOVERS = ".*.tmp"  # what a killed process leaves of `write_atomic`
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # of folders, on some network file systems


def write_atomic(path: Path, content: bytes, *, keep: Path | None = None) -> None:
    """Write a file through a temporary neighbour and a rename, so that `path` is never half written.

    The content, and then the folder that names it, are on the disk when this returns. The neighbour does not stay
    behind, whatever is raised; a killed process leaves it to `remove_leftovers`. A link stays, and what it leads to is
    written; what is no file, a pipe or /dev/stdout, cannot be replaced and is written to.

    Args:
        path: file to write; its folder must exist.
        content: all of it.
        keep: where the file that was there goes, in the same folder, once the new one is on the disk; None: nowhere.

    Raises:
        OSError: it cannot be written, with the name of the file: no space is left, for example.
    """
    if path.exists() and not path.is_file():
        with naming(path), open(path, "wb") as file:
            file.write(content)
        return
    if keep is None:  # else the link itself is what is kept
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file, on the disk when this returns.

    Raises:
        OSError: it cannot be written, with the name of the file. A part of the line may have been.
    """
    with naming(path), open(path, "a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes; nobody else may be writing to the folder."""
    for path in folder.glob(LEFTOVERS):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors that a full or failing disk raises name no file; these do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
