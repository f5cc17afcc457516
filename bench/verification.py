"""Whether each kernel was verified on a GPU, told from recorded rows and the checksum of the kernels' sources."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

Row = dict[str, Any]
OPS = ("lifting_conv2d", "group_conv2d", "group_pool")
CHECKS = {"triton": ("memcheck", "racecheck"), "cuda": ("memcheck", "racecheck", "synccheck")}
NEVER = "never verified on a GPU"


class Version(NamedTuple):
    """Which kernels ran where."""

    device: str
    sources: str


class Proof(NamedTuple):
    """What a version of the kernels was put through for one op on one backend.

    Attributes:
        backend: of PATTERNS in kernel_sources.
        time: of the last record.
        commit: of the last row of the op, empty if it was never checked.
        wrong: whether a row's result was wrong.
        tests, checks: the last outcome of the tests and of each sanitizer, empty if there was none.
    """

    backend: str
    time: str
    commit: str
    wrong: bool
    tests: str
    checks: dict[str, str]

    @property
    def failures(self) -> list[str]:
        """What speaks against the kernel."""
        found = ["a wrong result in the bench"] if self.wrong else []
        found += ["tests"] if self.tests == "failed" else []
        return found + [check for check, outcome in self.checks.items() if outcome == "failed"]

    @property
    def verified(self) -> bool:
        """Whether its results were checked and right, and the tests passed; sanitizers are missing on some machines."""
        return bool(self.commit) and self.tests == "passed" and not self.failures

    @property
    def left_out(self) -> str:
        """The sanitizers that did not watch it to the end."""
        names = [check for check in CHECKS[self.backend] if self.checks.get(check) != "passed"]
        return f", without {' and '.join(names)}" if names else ""


def proofs(rows: Iterable[Row], op: str, backend: str) -> dict[Version, Proof]:
    """What every version of the kernels on every GPU was put through."""
    found: dict[Version, Proof] = {}
    on_gpu = [row for row in rows if "kernel_sources" in row["environment"]]
    for row in sorted(on_gpu, key=lambda row: str(row["time"])):
        where = row["environment"]
        version = Version(where["device"], where["kernel_sources"][backend])
        proof = found.get(version, Proof(backend, "", "", False, "", {}))._replace(time=str(row["time"]))
        if row.get("step") == f"tests {backend}":
            ran = re.search(r"\b[1-9]\d* passed", row.get("detail", "")) or row["status"] != "passed"
            proof = proof._replace(tests=row["status"] if ran else "skipped")
        elif row.get("step") in (names := {f"{check} {backend}": check for check in CHECKS[backend]}):
            proof = proof._replace(checks=proof.checks | {names[row["step"]]: row["status"]})
        elif "case" in row and (row["case"]["op"], row["backend"]) == (op, backend):
            proof = proof._replace(commit=commit_of(where), wrong=proof.wrong or row["wrong"])
        found[version] = proof
    return found


def commit_of(where: Row) -> str:
    """The commit that a row is of, as the reader should see it."""
    return (where["commit"] or "an unknown commit") + (" with uncommitted changes" if where["dirty"] else "")


def state(rows: Iterable[Row], op: str, backend: str, sources: str) -> str:
    """What the README says of a kernel whose sources have this checksum."""
    found = proofs(rows, op, backend)
    now = {version: proof for version, proof in found.items() if version.sources == sources and proof.commit}
    told = [f"verified on {v.device} at {p.commit}{p.left_out}" for v, p in now.items() if p.verified]
    told += [f"fails on {v.device} at {p.commit}: {', '.join(p.failures)}" for v, p in now.items() if p.failures]
    if told:
        return "; ".join(told)
    before = [proof for proof in found.values() if proof.verified]
    if not before:
        return NEVER
    return f"not verified on a GPU since {max(before, key=lambda proof: proof.time).commit}"


def cells(rows: Iterable[Row], sources: dict[str, str]) -> list[dict[str, str]]:
    """One line per kernel, one column per backend, of whose sources the checksums are given."""
    rows = list(rows)
    return [
        {"kernel": f"`{op}`", **{f"`{name}`": state(rows, op, name, checksum) for name, checksum in sources.items()}}
        for op in OPS
    ]
