"""What NVIDIA's tools say about a compiled kernel: the log of ``ptxas -v`` and the listing of ``cuobjdump -sass``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

Capability = tuple[int, int]  # a device's, (9, 0) for sm_90

REGISTERS = re.compile(r"Used (\d+) registers")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
STATIC_SHARED = re.compile(r"(\d+) bytes smem")
# "(C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...": a number per reason
SERIALISED = re.compile(r"\((C751\d)\)")
# The opcode after the address and the predicate. Matrix instructions end in MMA: HMMA, HGMMA, UTCHMMA.
MATRIX = re.compile(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+MMA)(?=[.\s;])")


@dataclass(frozen=True)
class Resources:
    """What ptxas allots to a kernel.

    Attributes:
        registers: per thread.
        spill_bytes: stored plus loaded per thread, where registers do not suffice.
        stack_bytes: local memory per thread.
        static_shared_bytes: shared memory per block, without what a launch adds.
        serialised: the reasons by which wgmma instructions wait for each other, C7510 to C7519.
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
