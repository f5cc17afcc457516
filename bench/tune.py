"""Fits the table by which gconv chooses a backend (gconv/backends/choice.json) to times measured on this machine."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import Setting, environment
from numpy.typing import NDArray
from shapes import CONVOLUTIONS, Shape, draw

from gconv import backends
from gconv.backends import Work, cpu
from sgan.train import check_device

SEED = 1  # bench/sweep.py draws with another
OPS = (*CONVOLUTIONS * 4, "group_pool")  # whose choice is easy
GROUPS = ("C1", "C2", "C4", "D1", "D2", "D4")
# How often a dtype is drawn.
DTYPES = {torch.float32: 12, torch.float64: 2, torch.bfloat16: 3, torch.float16: 2}
SAMPLE_S = 1e-3  # shorter calls are repeated until a sample takes this long
ROUNDS = (3, 5)  # at least and at most
BUDGET_S = 0.03  # of a race past the least rounds
RIDGE = 0.3  # of the scaled features; 0.1 to 3 choose alike on held-out shapes
LEAST_SCALE = 0.1  # of a feature: one that these samples hardly vary gets no large coefficient
CLIP = 1.5  # binary orders of magnitude: past them it does not matter how much faster the winner is
FOLDS = 5
TIE = 0.05  # a choice that costs less is no loss
LOSSES = 0.01  # the share of held-out shapes that may run slower than on dense: the promise is never to

OTHERS = tuple(dtype for dtype in DTYPES if dtype != torch.float32)
Array = NDArray[np.float64]
Pass = Callable[[str], object]


@dataclass(frozen=True)
class Sample:
    """One pass of one shape: seconds on both backends."""

    work: Work
    cpu: float
    dense: float

    @property
    def exponent(self) -> float:
        return math.log2(self.dense / self.cpu)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=300.0, show_default=True, help="How long to measure.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: torch's]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), show_default="the package's", help="Where the table goes.")
def main(seconds: float, threads: int | None, device: str, output: Path | None) -> None:
    """Measure gconv's cpu backend beside dense on random shapes and write the table that backend=None goes by.

    The table holds, for every pass of every op, a quadratic polynomial in the logarithms of the lengths that predicts
    the ratio of the times. What is printed is how well polynomials fitted to four fifths of the shapes choose for the
    others; the table is fitted to all of them. Run it on an idle machine; bench/sweep.py tests the result.

    With --device cuda: every GPU backend beside dense on a grid of shapes (bench/tune_gpu.py), a table per device.
    """
    if device == "cuda":
        import tune_gpu  # which imports this module

        check_device(device)
        tune_gpu.write(seconds, output)
        return
    if threads is not None:
        torch.set_num_threads(threads)
    write(list(measure(seconds)), output or backends.TABLE)


def write(samples: list[Sample], path: Path) -> None:
    """Fits and writes the table, and prints how well it chooses."""
    steps = defaultdict(list)
    for sample in samples:
        steps[f"{sample.work.operation} {sample.work.step}"].append(sample)
    click.echo(f"{'pass':28}{'shapes':>8}{'margin':>8}{'cpu wins':>10}{'losses':>10}{'not best':>10}{'time lost':>10}")
    fitted = {}
    for name, found in sorted(steps.items()):
        exponents, predicted = held_out(found)
        margin = least_margin(exponents, predicted)
        click.echo(f"{name:28}" + quality(exponents, predicted, margin))
        fitted[name] = fit(found, margin)
    table = {
        "made_by": "python bench/tune.py",
        "environment": environment(Setting(threads=torch.get_num_threads())),
        "samples": len(samples),
        "bounds": bounds(samples),
        "steps": fitted,
    }
    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(table, indent=1))
    path.write_text(text + "\n")


def measure(seconds: float) -> Iterator[Sample]:
    """Times random shapes until the seconds are over."""
    rng = random.Random(SEED)
    end = time.perf_counter() + seconds
    shapes = draw(rng, OPS, GROUPS)
    while time.perf_counter() < end:
        (dtype,) = rng.choices(list(DTYPES), list(DTYPES.values()))
        shape = next(shape for shape in shapes if shape.dense_flops <= backends.MEASURED_FLOPS[dtype])
        mode = rng.choice(("max", "mean"))
        with torch.no_grad():
            for work, run in passes(shape, dtype, mode):
                times = best_times(run)
                yield Sample(work, times["cpu"], times["dense"])


def passes(shape: Shape, dtype: torch.dtype, mode: str, device: str = "cpu") -> Iterator[tuple[Work, Pass]]:
    """The passes of an op as functions of the backend's name."""
    x, weight, grad_out = shape.operands(dtype, device)
    ops, height = torch.ops.gconv, shape.height
    group, stride, padding = shape.group, shape.stride, shape.padding
    if shape.op == "group_pool":
        work = Work("group_pool", "forward", group, dtype, shape.c_in, 1, 1, 1, shape.batch, height, height)
        members = list(range(shape.order))
        out, index = ops.group_pool(x, group, members, mode, "dense")
        yield work, lambda name: ops.group_pool(x, group, members, mode, name)
        yield (
            work._replace(step="backward"),
            lambda name: ops.group_pool_backward(out, index, group, members, mode, name),
        )
        yield work._replace(step="select"), lambda name: ops.group_pool_select(x, index, group, members, mode, name)
        return
    work = Work(
        shape.op, "forward", group, dtype, shape.c_in, shape.c_out, shape.size, stride,
        shape.batch, shape.out_height, shape.out_height,
    )  # fmt: skip
    op, input_grad, weight_grad = (getattr(ops, shape.op + suffix) for suffix in ("", "_input_grad", "_weight_grad"))
    yield work, lambda name: op(x, weight, None, group, stride, padding, name)
    yield (
        work._replace(step="input_grad"),
        lambda name: input_grad(grad_out, weight, height, height, group, stride, padding, name),
    )
    yield (
        work._replace(step="weight_grad"),
        lambda name: weight_grad(x, grad_out, shape.size, group, stride, padding, name),
    )


def best_times(run: Pass) -> dict[str, float]:
    """Seconds of a call on each backend, the best of some rounds in turn."""
    names = ("cpu", "dense")
    for name in names:
        run(name)
    calls = {name: max(1, math.ceil(SAMPLE_S / _seconds(run, name, 1))) for name in names}
    best = dict.fromkeys(names, math.inf)
    end = time.perf_counter() + BUDGET_S
    least, most = ROUNDS
    for i in range(most):
        if i < least or time.perf_counter() < end:
            best = {name: min(best[name], _seconds(run, name, calls[name])) for name in names}
    return best


def _seconds(run: Pass, name: str, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run(name)
    return (time.perf_counter() - begin) / calls


def bounds(samples: list[Sample]) -> list[list[float]]:
    """Least and most of every feature."""
    rows = np.array([backends.features(sample.work) for sample in samples])
    return [[float(least), float(most)] for least, most in zip(rows.min(0), rows.max(0), strict=True)]


def design(samples: list[Sample]) -> Array:
    """One row per sample: constant and features for each group and dtype, zero but for its own; then the products.

    float32 has no block: the other dtypes' say how they differ.
    """
    rows = []
    for work in (sample.work for sample in samples):
        point = backends.features(work)
        own = [work.group == group for group in GROUPS] + [work.dtype == dtype for dtype in OTHERS]
        rows.append([value * here for here in own for value in (1.0, *point)] + list(backends.products(point)))
    return np.array(rows)


def coefficients(samples: list[Sample]) -> Array:
    """Ridge regression of the clipped exponents on the scaled design, in units of the design."""
    matrix = design(samples)
    wanted = np.clip([sample.exponent for sample in samples], -CLIP, CLIP)
    scale = np.maximum(np.sqrt((matrix**2).mean(0)), LEAST_SCALE)
    scaled = matrix / scale
    found = np.linalg.solve(scaled.T @ scaled + RIDGE * np.eye(len(scale)), scaled.T @ wanted)
    return np.asarray(found / scale)


def fit(samples: list[Sample], margin: float) -> dict[str, Any]:
    """The polynomial of a pass as the table has it."""
    found = [round(float(value), 5) for value in coefficients(samples)]
    width = 1 + len(backends.features(samples[0].work))
    blocks = {
        name: found[i * width : (i + 1) * width] for i, name in enumerate((*GROUPS, *map(cpu.DTYPES.get, OTHERS)))
    }
    return {
        "margin": margin,
        "group": {name: blocks[name] for name in GROUPS},
        "dtype": {name: blocks.get(name, [0.0] * width) for name in cpu.DTYPES.values()},
        "curvature": found[len(blocks) * width :],
    }


def held_out(samples: list[Sample]) -> tuple[Array, Array]:
    """The exponents of all samples, and what a fit to four fifths of the others predicts for them."""
    predicted = np.zeros(len(samples))
    for fold in range(FOLDS):
        rest = [sample for i, sample in enumerate(samples) if i % FOLDS != fold]
        if rest and samples[fold::FOLDS]:
            predicted[fold::FOLDS] = design(samples[fold::FOLDS]) @ coefficients(rest)
    return np.array([sample.exponent for sample in samples]), predicted


def losses(exponents: Array, predicted: Array, margin: float) -> float:
    """The share of samples for which cpu is chosen and dense would be faster by more than TIE."""
    return float(((predicted >= margin) & (exponents < -math.log2(1 + TIE))).mean())


def least_margin(exponents: Array, predicted: Array) -> float:
    """By how much cpu must be predicted to win for so few losses on shapes that the fit has not seen.

    At most 2^0.4, a quarter of the time: on a busy machine no margin is enough, and a large one gives up what is won.
    """
    margins = [i / 40 for i in range(17)]
    return next((margin for margin in margins if losses(exponents, predicted, margin) <= LOSSES), margins[-1])


def quality(exponents: Array, predicted: Array, margin: float) -> str:
    """How often cpu is faster, and at this margin: how often it loses, how often either choice does, at what cost."""
    costs = np.where(predicted >= margin, -exponents, exponents).clip(0, CLIP)
    parts = [(exponents >= 0).mean(), losses(exponents, predicted, margin), (costs > math.log2(1 + TIE)).mean()]
    return f"{len(exponents):8}{margin:8.2f}" + "".join(f"{part:10.1%}" for part in (*parts, (2**costs - 1).mean()))


if __name__ == "__main__":
    main()
