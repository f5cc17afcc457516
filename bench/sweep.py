"""Holds backend=None to its promise on random shapes: never slower than backend="dense"."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, astuple
from pathlib import Path

import click
import torch
from measure import ROOT, Row, Setting, Spread, environment, geometric_mean, spread
from shapes import CONVOLUTIONS, Shape, draw
from torch import Tensor

import gconv
from gconv import backends
from gconv.backends import cpu
from gconv.backends.measured import slug

SEED = 2  # not bench/tune.py's: these shapes did not make the table
GROUPS = ("C2", "C4", "D1", "D2", "D4")
LONGEST_S = 0.3  # of dense's forward pass
LOSS = 0.95  # of the 80th percentile of the paired ratios
BUDGET_S = 0.25  # of a race
PAIRS = (3, 9)  # at least and at most
SAMPLE_S = 1e-3  # shorter calls are repeated until a sample takes this long
WORKS = ("forward", "forward+backward")

Tensors = Tensor | tuple[Tensor, ...]
Run = Callable[[], Tensors]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--shapes", "count", default=300, show_default=True, help="How many shapes.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: torch's]")
@click.option("--output", type=click.Path(path_type=Path), help="[default: bench/results/sweep/<device>.jsonl]")
def main(count: int, threads: int | None, output: Path | None) -> None:
    """Race backend=None against backend="dense" on random shapes, and list the losses.

    A ratio is dense's time / gconv's: above 1, the choice is faster. A loss has p80 of the paired ratios under 0.95,
    twice. The exit status is 1 if there is one. The same command goes on after the last row of an interrupted sweep, as
    long as the commit, the table and the threads are the same; a new sweep replaces the old one's rows.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    setting = Setting(threads=torch.get_num_threads())
    header: Row = {"environment": environment(setting), "table": digest()}
    name = slug(f"{header['environment']['device']} {setting.threads} threads")
    path = output or ROOT / "bench/results/sweep" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = done(path, header)
    rows = []
    with path.open("a" if known else "w") as stream:
        for shape in legal_shapes(count, known):
            for work in WORKS:
                key = (*astuple(shape), work)
                if key not in known:
                    row = {**header, "shape": asdict(shape), "work": work, **measure(shape, work)}
                    stream.write(json.dumps(row) + "\n")
                    stream.flush()
                    known[key] = row
                rows.append(known[key])
                if rows[-1]["lost"]:
                    click.echo(line(rows[-1]))
    click.echo(summary(rows))
    sys.exit(1 if any(row["lost"] for row in rows) else 0)


def digest() -> str:
    """Of the table: rows that it did not choose are no evidence for it."""
    return hashlib.sha256(backends.TABLE.read_bytes()).hexdigest()[:12]


def done(path: Path, header: Row) -> dict[tuple[object, ...], Row]:
    """The rows of an interrupted sweep by shape and work."""
    rows = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    same = ("commit", "dirty", "versions", "device", "instruction_set", "threads")

    def identity(row: Row) -> tuple[object, ...]:
        return row["table"], *(row["environment"][key] for key in same)

    return {(*row["shape"].values(), row["work"]): row for row in rows if identity(row) == identity(header)}


def legal_shapes(count: int, known: dict[tuple[object, ...], Row]) -> list[Shape]:
    """The first shapes of the law whose dense forward pass is short enough; none can beat the peak of the machine."""
    peak = max(cpu.fma_peak(torch.get_num_threads()) for _ in range(3))
    found: list[Shape] = []
    for shape in draw(random.Random(SEED), CONVOLUTIONS, GROUPS):
        if len(found) == count:
            break
        if (*astuple(shape), WORKS[0]) in known or (
            shape.dense_flops < 2 * peak * LONGEST_S and dense_forward_s(shape) < LONGEST_S
        ):
            found.append(shape)
    return found


def dense_forward_s(shape: Shape) -> float:
    dense = runs(shape, "forward")["dense"]
    times = []
    for _ in range(3):  # the first one sets up
        times.append(_seconds(dense, 1))
        if times[0] > 3 * LONGEST_S:
            break
    return min(times)


def measure(shape: Shape, work: str) -> Row:
    """Paired ratios, and once more if they look like a loss."""
    contenders = runs(shape, work)
    error = largest_error(shape, contenders)
    if error > 1:
        raise click.ClickException(f"{shape}, {work}: the error is {error:.2g} times what rounding can do")
    times, ratio = race(contenders)
    row: Row = {"times_ms": times, "ratio": ratio, "error": error, "lost": False}
    if ratio["p80"] < LOSS:
        _, row["second ratio"] = race(contenders)
        row["lost"] = row["second ratio"]["p80"] < LOSS
    weight = torch.empty(shape.c_out, shape.c_in, *shape.axis, shape.size, shape.size)
    x = torch.empty(shape.batch, shape.c_in, *shape.axis, shape.height, shape.height)
    group = gconv.group_from_name(shape.group)
    told = gconv.explain(shape.op, x, weight, group=group, stride=shape.stride, padding=shape.padding)
    row["backends"] = {"forward": told.backend} | {step: backend for step, (backend, _) in told.gradients.items()}
    return row


def largest_error(shape: Shape, contenders: dict[str, Run]) -> float:
    """Of gconv's tensors against dense's, in the Euclidean norm, over what rounding can do to sums of random terms.

    A sum of k terms in float32 is off by (2 sqrt(k) + 6) eps of its size at most (bench/convolution.py), here either.
    """
    terms = max(shape.c_in, shape.c_out) * shape.order * shape.size**2, shape.batch * shape.out_height**2 * shape.order
    bound = 2 * (2 * math.sqrt(max(terms)) + 6) * torch.finfo(torch.float32).eps
    results = [run() for run in contenders.values()]
    found, true = (result if isinstance(result, tuple) else (result,) for result in results)
    errors = [float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(found, true, strict=True)]
    return max(errors) / bound


def runs(shape: Shape, work: str) -> dict[str, Run]:
    """The op by gconv's choice and on dense."""
    x, weight, grad_out = shape.operands()
    op = getattr(gconv, shape.op)
    group, stride, padding = gconv.group_from_name(shape.group), shape.stride, shape.padding

    def convolve(backend: str | None) -> Tensor:
        out: Tensor = op(x, weight, group=group, stride=stride, padding=padding, backend=backend)
        return out

    def forward(backend: str | None) -> Run:
        def run() -> Tensors:
            with torch.no_grad():
                return convolve(backend)

        return run

    if work == "forward":
        return {"gconv": forward(None), "dense": forward("dense")}
    leaves = x.requires_grad_(), weight.requires_grad_()
    return {
        "gconv": lambda: torch.autograd.grad(convolve(None), leaves, grad_out),
        "dense": lambda: torch.autograd.grad(convolve("dense"), leaves, grad_out),
    }


def race(contenders: dict[str, Run]) -> tuple[dict[str, float], Spread]:
    """Median milliseconds of both, timed in turn, and the spread of the paired ratios."""
    calls = 1
    for run in contenders.values():
        run()
        calls = max(calls, math.ceil(SAMPLE_S / _seconds(run, 1)))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + BUDGET_S
    least, most = PAIRS
    for pair in range(most):
        if pair >= least and time.perf_counter() > end:
            break
        for name, run in list(contenders.items())[:: 1 if pair % 2 else -1]:  # neither always comes second
            samples[name].append(_seconds(run, calls))
    ratio = spread(theirs / ours for ours, theirs in zip(samples["gconv"], samples["dense"], strict=True))
    return {name: 1e3 * spread(times)["median"] for name, times in samples.items()}, ratio


def _seconds(run: Run, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def line(row: Row) -> str:
    """One loss."""
    ratios = [row["ratio"]] + ([row["second ratio"]] if "second ratio" in row else [])
    spreads = ", then ".join(f"{ratio['median']:.2f} ({ratio['p20']:.2f} to {ratio['p80']:.2f})" for ratio in ratios)
    shape = " ".join(f"{key}={value}" for key, value in row["shape"].items())
    chosen = ", ".join(f"{step} {backend}" for step, backend in row["backends"].items())
    times = ", ".join(f"{name} {time_ms:.3g} ms" for name, time_ms in row["times_ms"].items())
    return f"{row['work']} {shape}: {spreads}; {times}; {chosen}"


def summary(rows: list[Row]) -> str:
    lines = []
    for work in WORKS:
        found = [row for row in rows if row["work"] == work]
        ratios = sorted(row["ratio"]["median"] for row in found)
        native = sum("cpu" in row["backends"].values() for row in found)
        losses, once = sum(row["lost"] for row in found), sum("second ratio" in row for row in found)
        lines.append(
            f"{work}: {len(found)} shapes, cpu in {native}; ratio {geometric_mean(ratios):.2f} in the geometric mean, "
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}; {losses} losses ({once} looked like one once)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
