"""The checksum of the GPU kernels' sources."""

from __future__ import annotations

from pathlib import Path

from kernel_sources import PATTERNS, checksums, find, sources_checksum

TRITON = Path("gconv/backends/triton")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_kernels_and_their_launchers_count_and_nothing_else(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            f"{TRITON}/b.py": "b",
            f"{TRITON}/a.py": "a",
            f"{TRITON}/__pycache__/a.pyc": "cached",
            "csrc/cuda/k.cu": "k",
            "csrc/cuda/k.h": "k",
            "csrc/bindings_cuda.cpp": "k",
            "csrc/cpu/k.cpp": "cpu",
            "gconv/backends/cpu.py": "cpu",
            "gconv/backends/cuda.py": "cuda",
        },
    )
    names = {name: [path.relative_to(root).as_posix() for path in find(PATTERNS[name], root)] for name in PATTERNS}
    assert names == {
        "triton": [f"{TRITON}/a.py", f"{TRITON}/b.py"],
        "cuda": ["csrc/bindings_cuda.cpp", "csrc/cuda/k.cu", "csrc/cuda/k.h", "gconv/backends/cuda.py"],
    }


def test_every_backend_has_its_own_checksum(tmp_path: Path) -> None:
    """A change of one's kernels says nothing about the other's results."""
    before = checksums(tree(tmp_path, {f"{TRITON}/a.py": "one", "csrc/cuda/k.cu": "one"}))
    after = checksums(tree(tmp_path, {"csrc/cuda/k.cu": "two"}))
    assert set(before) == {"triton", "cuda"}
    assert after["triton"] == before["triton"] == sources_checksum("triton", tmp_path)
    assert after["cuda"] != before["cuda"]


def test_any_change_of_a_source_changes_the_checksum(tmp_path: Path) -> None:
    seen = {sources_checksum("triton", tree(tmp_path, {f"{TRITON}/a.py": "one", f"{TRITON}/b.py": ""}))}
    for files in (
        {f"{TRITON}/a.py": "two"},
        {f"{TRITON}/a.py": "on", f"{TRITON}/b.py": "e"},  # the same bytes, cut elsewhere
        {f"{TRITON}/c.py": ""},
    ):
        checksum = sources_checksum("triton", tree(tmp_path, files))
        assert checksum not in seen
        seen.add(checksum)
    (tmp_path / TRITON / "c.py").rename(tmp_path / TRITON / "d.py")
    assert sources_checksum("triton", tmp_path) not in seen
    assert sources_checksum("triton", tmp_path) == sources_checksum("triton", tmp_path)
