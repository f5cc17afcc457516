"""Measures the table by which gconv chooses a backend on this machine's GPU: `python bench/tune.py --device cuda`."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch
import tune
from measure import OURS, Setting, environment, is_gpu, paired_ratios, race, spread
from shapes import Shape

from gconv import backends
from gconv.backends import Work, measured

# The grid, powers of four apart (gconv/backends/measured.py); what is used most comes first.
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
GROUPS = ("C4", "D4", "D2", "C2", "D1")  # C1 saves nothing and runs dense
WIDTHS = (256, 64, 16, 4)
LIFTED = (1, 3, 16)
IMAGES = ((256, 32), (64, 32), (64, 16), (16, 16), (4, 16))  # batch and height
MOST_FLOPS = 6e12  # of dense: some 10 ms, and a tenth of a second in float32
RACE_S = 0.02
COMPILING = 8  # processes, each with torch and a context on the device
COMPILING_SHARE = 0.25  # of the seconds, at most: one after the other, compiling would take most of them
Passes = dict[str, dict[str, list[list[float]]]]


def grid() -> Iterator[tuple[Shape, torch.dtype]]:
    """Every shape to measure, op by op, so that a run that ends early has whole ones."""
    for dtype, group in product(DTYPES, GROUPS):
        shapes = [("group_conv2d", c, c, 3) for c in WIDTHS]
        shapes += [("group_pool", c, 1, 1) for c in WIDTHS]
        shapes += [("lifting_conv2d", c_in, c_out, 3) for c_in, c_out in product(LIFTED, WIDTHS)]
        for (op, c_in, c_out, size), (batch, height) in product(shapes, IMAGES):
            shape = Shape(op, group, c_in, c_out, height, batch, size, 1)
            if shape.dense_flops <= MOST_FLOPS:
                yield shape, dtype


def compile_ahead(seconds: float, candidates: tuple[str, ...], device: str) -> None:
    """Runs shapes once, side by side and in the grid's order, until the seconds are over: for triton's cache."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(COMPILING, os.cpu_count() or 1), mp_context=spawn) as pool:
        runs = [pool.submit(run_once, shape, dtype, candidates, device) for shape, dtype in grid()]
        wait(runs, timeout=seconds)
        pool.shutdown(wait=True, cancel_futures=True)


def run_once(shape: Shape, dtype: torch.dtype, candidates: tuple[str, ...], device: str) -> int:
    """How many passes of the shape ran; `ratios` says why others do not."""
    torch.backends.cudnn.allow_tf32 = False
    count = 0
    with torch.no_grad():
        for (_, run), name in product(tune.passes(shape, dtype, "max", device), candidates):
            with contextlib.suppress(Exception):  # of a compiler, a driver, or for lack of memory
                run(name)
                count += 1
    return count


def measure(seconds: float, candidates: tuple[str, ...], device: str) -> Passes:
    """dense's time over each candidate's, the 20th percentile of paired runs, until the seconds are over."""
    found: Passes = {}
    end = time.monotonic() + seconds
    for shape, dtype in grid():
        if time.monotonic() > end:
            click.echo(f"{seconds:g} s are over: the rest of the grid was left out, and runs dense")
            break
        for work, name, ratio in ratios(shape, dtype, candidates, device):
            rows = found.setdefault(measured.pass_name(work), {}).setdefault(name, [])
            rows.append([*measured.lengths(work), round(ratio, 3)])
    return found


def ratios(
    shape: Shape, dtype: torch.dtype, candidates: tuple[str, ...], device: str
) -> Iterator[tuple[Work, str, float]]:
    """Of every pass of the shape, for every candidate; without those that raise, which are said and then run dense."""
    with torch.no_grad():
        for work, run in tune.passes(shape, dtype, "max", device):
            for name in candidates:
                try:
                    samples = race({OURS: partial(run, name), "dense": partial(run, "dense")}, RACE_S, device)
                except Exception as error:  # of a compiler, a driver, or for lack of memory
                    click.echo(f"left out: {name} {measured.pass_name(work)}: {type(error).__name__}: {error}"[:200])
                else:
                    yield work, name, spread(paired_ratios(samples, "dense"))["p20"]


def write(seconds: float, path: Path | None, device: str = "cuda") -> None:
    """Measures the table and writes it, by default where gconv looks for it.

    Raises:
        click.ClickException: there is no other backend than dense for this device.
    """
    probe = torch.zeros(1, device=device)
    candidates = tuple(name for name in backends.ON_GPU if backends.unavailable(name, probe) is None)
    if not candidates:
        raise click.ClickException("there is nothing to choose from: no GPU backend runs here")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # dense's best case
    begin = time.monotonic()
    if is_gpu(device):
        compile_ahead(COMPILING_SHARE * seconds, candidates, device)
    passes = measure(seconds - (time.monotonic() - begin), candidates, device)
    where = environment(Setting(device=device))
    table: dict[str, Any] = {"made_by": "python bench/tune.py --device cuda", "environment": where, "passes": passes}
    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(table, indent=1))
    path = path or measured.table_path(where["device"])
    path.write_text(text + "\n")
    found = [ratio for of_pass in passes.values() for rows in of_pass.values() for *_, ratio in rows]
    wins = sum(ratio >= measured.MARGIN for ratio in found)
    click.echo(f"{path}: {len(passes)} passes, {len(found)} shapes, dense is slower on {wins}")
