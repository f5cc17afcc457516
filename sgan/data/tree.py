"""The files of a folder or of a zip archive, by name."""

from __future__ import annotations

import os
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import TracebackType

NO_FILES_OF_PEOPLE = {"thumbs.db", "desktop.ini", "__macosx"}  # what Windows and macOS leave in folders


class FileTree:
    """Read access to a folder, or to a zip archive in place: nothing is extracted.

    A zip archive's single top folder is left out of the names. Hidden files (".name") and what operating systems leave
    behind (`NO_FILES_OF_PEOPLE`) are not listed; a folder that a link leads back into is listed once.

    Attributes:
        path: the folder or the archive.
        files: names relative to it with "/" between folders, in alphabetical order.
        hidden: how many files are not listed.
    """

    def __init__(self, path: Path) -> None:
        """List the files.

        Raises:
            ValueError: a file that is no zip archive, or an archive with two files of one name.
        """
        self.path = path
        try:
            self._archive = None if path.is_dir() else zipfile.ZipFile(path)
        except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ValueError(f"load_dataset: {path} must be a readable zip archive, got: {error}") from error
        found = _names_in_folder(path) if self._archive is None else self._archive.namelist()
        # Some archives made on Windows have backslashes between folders.
        files = [(name.replace("\\", "/") if self._archive else name, name) for name in found]
        files = [(name, stored) for name, stored in files if not name.endswith("/")]
        listed = sorted((name, stored) for name, stored in files if not _is_hidden(name))
        self.hidden = len(files) - len(listed)
        prefix = "" if self._archive is None else _top_folder([name for name, _ in listed])
        self._stored = {name.removeprefix(prefix): stored for name, stored in listed}
        self.files = tuple(self._stored)
        if len(self.files) < len(listed):
            twice = next(one for (one, _), (next_one, _) in pairwise(listed) if one == next_one)
            self._close()
            raise ValueError(f"load_dataset: {path} must hold each file once, got {twice} twice; pack it anew")

    @property
    def name(self) -> str:
        """What the set is called: the folder's name, or the archive's without its end."""
        path = self.path.resolve()
        return path.name if self._archive is None else path.stem

    def __enter__(self) -> FileTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def read(self, file: str) -> bytes:
        """Return the content of one of `files`.

        Raises:
            ValueError: it cannot be read, is encrypted, or fails the archive's checksum.
        """
        try:
            if self._archive is None:
                return (self.path / file).read_bytes()
            return self._archive.read(self._stored[file])
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"load_dataset: {self.path}/{file} must be a readable file, got: {error}; restore or remove it"
            ) from error


def _names_in_folder(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        relative = Path(parent).relative_to(folder)
        # A link to a folder that it lies in would have no end.
        around = {os.path.realpath(folder / above) for above in (relative, *relative.parents)}
        folders[:] = [name for name in folders if os.path.realpath(Path(parent) / name) not in around]
        names += [(relative / file).as_posix() for file in files]
    return names


def _refuse_unreadable(error: OSError) -> None:
    raise ValueError(
        f"load_dataset: {error.filename} must be a readable folder, got: {error.strerror}; make it readable or move it "
        "away"
    ) from error


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") or part.lower() in NO_FILES_OF_PEOPLE for part in parts)


def _top_folder(names: list[str]) -> str:
    tops = {name.partition("/")[0] + "/" for name in names}
    is_single = len(tops) == 1 and any(name.count("/") >= 2 or name.endswith("/dataset.json") for name in names)
    return tops.pop() if is_single else ""
