"""The GPU kernels' source files and their checksum, which every result about compiled or run kernels carries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("gconv/backends/triton/*.py", "csrc/cuda/*")


def kernel_sources(root: Path = ROOT) -> list[Path]:
    """The files that decide what a GPU runs: kernels, and the Python that launches them, in a fixed order."""
    found = [path for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def sources_checksum(root: Path = ROOT) -> str:
    """SHA-256 (hexadecimal) over the names and the bytes of the kernel sources; comments count.

    A result that carries another checksum is about other kernels.
    """
    return files_checksum(kernel_sources(root), root)


def files_checksum(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over each file's path from the root, its length and its bytes, so that no two sets of files collide."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
