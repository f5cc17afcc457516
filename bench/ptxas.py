"""What NVIDIA's tools say about compiled kernels: the log of ``ptxas -v`` and the listings of ``cuobjdump``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import prod
from typing import NamedTuple

Capability = tuple[int, int]  # a device's, (9, 0) for sm_90

REGISTERS = re.compile(r"Used (\d+) registers")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
STATIC_SHARED = re.compile(r"(\d+) bytes smem")
# "(C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...": a number per reason,
# from C7509 on; C7504 to C7508 say that a setmaxnreg is ignored.
SERIALISED = re.compile(r"\((C75(?:0[4-9]|1\d))\)")
NOTE = re.compile(r"\((C75(?:0[4-9]|1\d))\)(?:.* in (?:the )?function '(\w+)')?")
# The opcode after the address and the predicate. Matrix instructions end in MMA: HMMA, HGMMA, UTCHMMA.
MATRIX = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+MMA)(?=[.\s;])")
# "STG.E.128", "@!P0 STG.E.EF.U16", "STG.E": a store to global memory, of 32 bits where it does not say.
STORE = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?STG((?:\.\w+)*)")
STORE_WIDTH = re.compile(r"\.[US]?(8|16|64|128|256)$")

CODE = re.compile(r"^\s*(?:code for (sm_\w+)|Function : (\w+))\s*$", flags=re.MULTILINE)
ARCH = re.compile(r"^arch = (sm_\w+)$", flags=re.MULTILINE)
THREADS = re.compile(
    r"^\.nv\.info\.(\w+)$|EIATTR_MAX_THREADS\s+Format:\s+\w+\s+Value:\s+(\w+) (\w+) (\w+)", re.MULTILINE
)


class Function(NamedTuple):
    """A kernel of a file that is compiled for several targets: "sm_90a", and its mangled name."""

    target: str
    name: str


@dataclass(frozen=True)
class Resources:
    """What ptxas allots to a kernel.

    Attributes:
        registers: per thread.
        spill_bytes: stored plus loaded per thread, where registers do not suffice.
        stack_bytes: local memory per thread.
        static_shared_bytes: shared memory per block, without what a launch adds.
        serialised: the reasons by which wgmma instructions wait for each other, or setmaxnreg is ignored: C7504 to
            C7519.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    static_shared_bytes: int
    serialised: list[str]


def parse_log(log: str) -> Resources:
    """Reads the log of a file with one kernel. Functions that were not inlined count: the most registers, all bytes.

    Raises:
        ValueError: the log does not hold the figures.
    """
    registers, frames = REGISTERS.findall(log), FRAME.findall(log)
    if not registers or not frames:
        raise ValueError(f"parse_log: log must hold registers and stack frame, got {log!r}")
    return Resources(
        max(map(int, registers)),
        sum(int(stores) + int(loads) for _, stores, loads in frames),
        sum(int(stack) for stack, _, _ in frames),
        sum(map(int, STATIC_SHARED.findall(log))),
        sorted(set(SERIALISED.findall(log))),
    )


def matrix_instructions(listing: str) -> dict[str, int]:
    """How often each matrix instruction stands in a listing, e.g. {"HGMMA": 24}."""
    return dict(sorted(Counter(MATRIX.findall(listing)).items()))


def global_stores(listing: str) -> dict[str, int]:
    """How many stores to global memory of each width, in bits, stand in a listing, e.g. {"16": 128, "128": 16}."""
    widths = (STORE_WIDTH.search(modifiers) for modifiers in STORE.findall(listing))
    counts = Counter(int(width[1]) if width else 32 for width in widths)
    return {str(width): count for width, count in sorted(counts.items())}


def parse_kernels(log: str) -> dict[Function, Resources]:
    """Reads the log of a file with many kernels, compiled for one target after the other.

    A note about serialised instructions stands before the figures of its target; one that names no function, or one
    that is no kernel, counts for all kernels of that target.

    Raises:
        ValueError: a kernel's figures are not there.
    """
    entries = list(ENTRY.finditer(log))
    found = {
        Function(entry[2], entry[1]): replace(parse_log(text), serialised=[]) for entry, text in _sections(ENTRY, log)
    }
    for note in NOTE.finditer(log):
        target = next((entry[2] for entry in entries if entry.start() > note.start()), entries[-1][2])
        named = Function(target, note[2])
        for kernel in [named] if named in found else [kernel for kernel in found if kernel.target == target]:
            reasons = {*found[kernel].serialised, note[1]}
            found[kernel] = replace(found[kernel], serialised=sorted(reasons))
    return found


def count_by_kernel(listing: str, count: Callable[[str], dict[str, int]]) -> dict[Function, dict[str, int]]:
    """What `count` finds in every kernel of a listing of ``cuobjdump -sass``."""
    found: dict[Function, dict[str, int]] = {}
    target = ""
    for mark, text in _sections(CODE, listing):
        if mark[1]:
            target = mark[1]
        else:
            found[Function(target, mark[2])] = count(text)
    return found


def launch_bounds(listing: str) -> dict[Function, int]:
    """The most threads per block of every kernel that says so (``__launch_bounds__``), from ``cuobjdump -elf``."""
    found: dict[Function, int] = {}
    parts = ARCH.split(listing)  # what is before the first target, then targets and what is about each in turn
    for target, text in zip(parts[1::2], parts[2::2], strict=True):
        name = ""
        for section, *lengths in THREADS.findall(text):
            if section:
                name = section
            else:
                found[Function(target, name)] = prod(int(length, 16) for length in lengths)
    return found


def _sections(pattern: re.Pattern[str], text: str) -> Iterator[tuple[re.Match[str], str]]:
    """Every match, with the text after it up to the next."""
    marks = list(pattern.finditer(text))
    for mark, following in zip_longest(marks, marks[1:]):
        yield mark, text[mark.end() : following.start() if following else len(text)]
