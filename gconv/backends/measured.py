"""The choice of a backend on a GPU: by a table of times measured on that device, and dense without one.

bench/tune.py --device cuda writes choice-<device>.json beside this file: for every pass, group and dtype, on a grid of
channels and pixels, dense's time over another backend's. Channels and pixels of the grid are powers of four apart, so
every shape between its ends has a measured one within a factor of two in each length.
"""

from __future__ import annotations

import json
import re
from functools import cache, lru_cache
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gconv.backends import Work

FOLDER = Path(__file__).parent
MARGIN = 1.05  # less than this is within what neighbouring shapes differ by: dense then
REACH = 1.0  # binary orders of magnitude from which a measured shape speaks for another


def slug(text: str) -> str:
    """A file name: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def table_path(device: str) -> Path:
    """Where the table of a device, by torch's name of it, is."""
    return FOLDER / f"choice-{slug(device)}.json"


def pass_name(work: Work) -> str:
    """What a table calls a pass: op, step, group, dtype, filter size and stride."""
    dtype = str(work.dtype).removeprefix("torch.")
    return f"{work.operation} {work.step} {work.group} {dtype} K{work.size} stride {work.stride}"


def lengths(work: Work) -> tuple[int, int, int]:
    """What is measured on a grid: input and output channels, and output pixels of the batch."""
    return work.c_in, work.c_out, work.batch * work.height * work.width


@lru_cache(maxsize=4096)
def choose(work: Work, device: str, candidates: tuple[str, ...]) -> tuple[str, str]:
    """The backend for this work on the device, and why.

    Of the candidates the one whose least ratio on the measured shapes near this one is largest, if it is at least
    MARGIN; dense wherever nothing near was measured.
    """
    if not candidates:
        return "dense", "no other backend can run"
    table = _table(device)
    if table is None:
        return "dense", f"no times were measured on {device}: python bench/tune.py --device cuda makes a table of them"
    told_by = f"by the table measured on {device} at commit {table['environment']['commit']}"
    ratios = {name: ratio for name in candidates if (ratio := _least_ratio(table, work, name)) is not None}
    if not ratios:
        return "dense", f"no shape near this one is in the table measured on {device}"
    best = max(ratios, key=lambda name: ratios[name])
    if ratios[best] >= MARGIN:
        return best, f"dense would take {ratios[best]:.2g} times as long, {told_by}"
    if ratios[best] >= 1:
        return "dense", f"{best} is faster by less than {MARGIN - 1:.0%} on shapes near this one, {told_by}"
    return "dense", f"{best} may take {1 / ratios[best]:.2g} times as long, {told_by}"


def _least_ratio(table: dict[str, Any], work: Work, name: str) -> float | None:
    """dense's time over the backend's: the least on the measured shapes within REACH, None if there is none.

    More channels than the most that were measured, or more pixels than with as many channels, count as those: a GPU
    that is full stays full.
    """
    rows = table["passes"].get(pass_name(work), {}).get(name, ())
    if not rows:
        return None
    most = [max(row[axis] for row in rows) for axis in (0, 1)]
    pixels = {(c_in, c_out): 0 for c_in, c_out, *_ in rows}
    for c_in, c_out, count, _ in rows:
        pixels[c_in, c_out] = max(count, pixels[c_in, c_out])
    near = []
    for c_in, c_out, count, ratio in rows:
        asked = map(min, lengths(work), (*most, pixels[c_in, c_out]))
        if all(abs(log2(max(1, a)) - log2(b)) <= REACH for a, b in zip(asked, (c_in, c_out, count), strict=True)):
            near.append(ratio)
    return min(near, default=None)


@cache
def _table(device: str) -> dict[str, Any] | None:
    path = table_path(device)
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found
