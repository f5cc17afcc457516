"""Which kernels count as verified on a GPU: on rows written here, and in the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kernel_sources
import pytest
import report
import verification

ROOT = Path(__file__).resolve().parent.parent
GPU = "ACME G-1"
Row = dict[str, Any]


def where(sources: str = "s1", commit: str = "abc", device: str = GPU, dirty: bool | None = False) -> Row:
    return {"device": device, "kernel_sources": {"triton": sources, "cuda": "c1"}, "commit": commit, "dirty": dirty}


def row(op: str, time: str = "2", wrong: bool = False, backend: str = "triton", **environment: Any) -> Row:
    """A case's row as bench/run.py writes it, as far as it matters."""
    return {"time": time, "environment": where(**environment), "case": {"op": op}, "backend": backend, "wrong": wrong}


def step(name: str, status: str = "passed", detail: str = "12 passed in 3 s", time: str = "1", **changes: Any) -> Row:
    """A step's row as bench/gpu.py writes it."""
    return {"time": time, "environment": where(**changes), "step": name, "status": status, "detail": detail}


SANITIZERS = [step("memcheck triton"), step("racecheck triton")]
GREEN = [step("tests triton"), *SANITIZERS, row("group_pool")]


def told(rows: list[Row], op: str = "group_pool", sources: str = "s1") -> str:
    return verification.state(rows, op, "triton", sources)


def test_a_kernel_whose_rows_and_tests_are_green_is_verified() -> None:
    assert told(GREEN) == f"verified on {GPU} at abc"
    assert told(GREEN, "group_conv2d") == verification.NEVER
    assert verification.state(GREEN, "group_pool", "cuda", "s1") == verification.NEVER
    assert told([]) == verification.NEVER


def test_a_changed_source_flips_it() -> None:
    assert told(GREEN, sources="s2") == "not verified on a GPU since abc"
    again = [
        *GREEN,
        step("tests triton", sources="s2", time="3"),
        row("group_pool", sources="s2", commit="def", time="4"),
    ]
    assert told(again, sources="s2") == f"verified on {GPU} at def, without memcheck and racecheck"
    assert told(again, sources="s3") == "not verified on a GPU since def"  # the newest that was


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("group_pool")], verification.NEVER),
        ([step("tests triton"), *SANITIZERS], verification.NEVER),
        ([step("tests triton", detail="12 skipped in 1 s"), row("group_pool")], verification.NEVER),
        ([step("tests triton", "cut off"), row("group_pool")], verification.NEVER),
        ([*GREEN, row("group_pool", wrong=True)], f"fails on {GPU} at abc: a wrong result in the bench"),
        ([*GREEN, step("tests triton", "failed", "1 failed, 11 passed", time="3")], f"fails on {GPU} at abc: tests"),
        ([*GREEN, step("racecheck triton", "failed", time="3")], f"fails on {GPU} at abc: racecheck"),
        ([*GREEN, step("racecheck triton", "refused", time="3")], f"verified on {GPU} at abc, without racecheck"),
        ([step("tests triton", "failed", time="0"), *GREEN], f"verified on {GPU} at abc"),
    ],
)
def test_what_is_missing_or_wrong_is_told(rows: list[Row], expected: str) -> None:
    assert told(rows) == expected


def test_every_device_has_its_own_proof() -> None:
    other = "ACME G-2"
    rows = [*GREEN, step("tests triton", device=other), row("group_pool", device=other, dirty=True)]
    both = f"verified on {GPU} at abc; verified on {other} at abc with uncommitted changes, without memcheck"
    assert told(rows) == f"{both} and racecheck"
    assert told([step("tests triton"), row("group_pool", device=other)]) == verification.NEVER


def test_every_backend_has_its_own_proof() -> None:
    """By its tests, its sanitizers and its sources."""
    cuda = [row("group_pool", backend="cuda"), step("tests cuda"), step("memcheck cuda"), step("racecheck cuda")]
    for rows in (cuda, [*GREEN, *cuda]):
        found = verification.state(rows, "group_pool", "cuda", "c1")
        assert found == f"verified on {GPU} at abc, without synccheck"
    assert (
        verification.state([*cuda, step("synccheck cuda")], "group_pool", "cuda", "c1") == f"verified on {GPU} at abc"
    )
    failed = [*GREEN, *cuda, step("tests cuda", "failed", time="3"), step("synccheck cuda", "failed", time="3")]
    assert verification.state(failed, "group_pool", "cuda", "c1") == f"fails on {GPU} at abc: tests, synccheck"
    assert told(failed) == f"verified on {GPU} at abc"
    assert verification.state(cuda, "group_pool", "cuda", "c2") == "not verified on a GPU since abc"


def test_rows_of_a_cpu_say_nothing() -> None:
    rows = [*GREEN, {"time": "9", "environment": {"commit": "x"}, "case": {"op": "group_pool"}, "backend": "cpu"}]
    assert told(rows) == f"verified on {GPU} at abc"


def test_the_readme_says_what_the_rows_say() -> None:
    """After a change of a kernel: python bench/report.py."""
    rows = report.read_rows(sorted((ROOT / "bench/results").glob("*.jsonl")))
    text = (ROOT / "README.md").read_text()
    assert report.replace_section(text, "verified", report.verified_section(rows)) == text


def test_the_readme_has_a_line_per_kernel_and_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "checksums", lambda: {"triton": "s1", "cuda": "c1"})
    lines = report.verified_section(GREEN).splitlines()
    assert lines[0] == "| kernel | `triton` | `cuda` |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| `{op}`" for op in verification.OPS]
    assert lines[-1].split(" | ")[1:] == [f"verified on {GPU} at abc", f"{verification.NEVER} |"]
    monkeypatch.setattr(report, "checksums", lambda: {"triton": "s2", "cuda": "c1"})
    assert "not verified on a GPU since abc" in report.verified_section(GREEN).splitlines()[-1]


def test_the_checksum_follows_the_kernels(tmp_path: Path) -> None:
    """A changed file under gconv/backends/triton/ is another version of the kernels."""
    kernel = tmp_path / "gconv/backends/triton/group_pool.py"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("a = 1\n")
    before = kernel_sources.sources_checksum("triton", tmp_path)
    rows = [step("tests triton", sources=before), row("group_pool", sources=before)]
    assert told(rows, sources=before).startswith("verified on")
    kernel.write_text("a = 2\n")
    assert told(rows, sources=kernel_sources.sources_checksum("triton", tmp_path)) == "not verified on a GPU since abc"
