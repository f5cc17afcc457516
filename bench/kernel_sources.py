"""The GPU kernels' source files and their checksum, which every result about compiled or run kernels carries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# By backend: the kernels, and the code that launches them.
PATTERNS = {
    "triton": ("gconv/backends/nvidia.py", "gconv/backends/triton/*.py"),
    "cuda": ("gconv/backends/cuda.py", "gconv/backends/nvidia.py", "csrc/bindings_cuda.cpp", "csrc/cuda/*"),
}
COMPILED = ("csrc/cuda/*",)  # what nvcc sees


def find(patterns: Iterable[str], root: Path = ROOT) -> list[Path]:
    """The files with these names, in a fixed order."""
    found = [path for pattern in patterns for path in root.glob(pattern) if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def sources_checksum(backend: str, root: Path = ROOT) -> str:
    """SHA-256 (hexadecimal) over the names and the bytes of what decides what a backend runs; comments count.

    A result that carries another checksum is about other kernels.
    """
    return files_checksum(find(PATTERNS[backend], root), root)


def checksums(root: Path = ROOT) -> dict[str, str]:
    """sources_checksum of every backend, as rows of a GPU carry them."""
    return {backend: sources_checksum(backend, root) for backend in PATTERNS}


def files_checksum(paths: Iterable[Path], root: Path) -> str:
    """SHA-256 over each file's path from the root, its length and its bytes, so that no two sets of files collide."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
