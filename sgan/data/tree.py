"""The files of a folder or of a zip archive, by name."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from types import TracebackType

MAX_DEPTH = 4  # folders below the root: train/<class>/<source>, and a zip's own top folder


class FileTree:
    """Read access to a folder, or to a zip archive in place: nothing is extracted.

    A zip archive's single top folder is left out of the names. Hidden files (".name") and the "__MACOSX" folder that
    archives made on a Mac carry are not listed, nor are files deeper than four folders.

    Attributes:
        path: the folder or the archive.
        files: names relative to it with "/" between folders, in alphabetical order.
    """

    def __init__(self, path: Path) -> None:
        """List the files.

        Raises:
            ValueError: a file that is no zip archive.
        """
        self.path = path
        try:
            self._archive = None if path.is_dir() else zipfile.ZipFile(path)
        except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ValueError(f"load_dataset: {path} must be a readable zip archive, got: {error}") from error
        names = _names_in_folder(path) if self._archive is None else self._archive.namelist()
        names = sorted(name for name in names if _is_listed(name))
        self._prefix = "" if self._archive is None else _top_folder(names)
        self.files = tuple(name.removeprefix(self._prefix) for name in names)

    def __enter__(self) -> FileTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            return self._archive.read(self._prefix + file)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"load_dataset: {self.path}/{file} must be a readable file, got: {error}") from error


def _names_in_folder(folder: Path) -> list[str]:
    names = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        relative = Path(parent).relative_to(folder)
        if len(relative.parts) == MAX_DEPTH:
            folders.clear()
        names += [(relative / file).as_posix() for file in files]
    return names


def _is_listed(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not name.endswith("/") and not hidden and len(parts) <= MAX_DEPTH + 1


def _top_folder(names: list[str]) -> str:
    tops = {name.partition("/")[0] + "/" for name in names}
    is_single = len(tops) == 1 and any(name.count("/") >= 2 for name in names)
    return tops.pop() if is_single else ""
