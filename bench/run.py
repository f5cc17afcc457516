"""The benchmark: `python bench/run.py`."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click
import show

from sgan.config import BACKENDS
from sgan.train import check_device, wait_without_spinning

if TYPE_CHECKING:
    from measure import Case, Row, Setting

RESULTS = Path(__file__).resolve().parent / "results"
OPS = ("lifting_conv2d", "group_conv2d", "group_pool")
SUITES = tuple(name for name in show.SUITES if name not in show.TRAINS)
GROUPS = ("C2", "C4", "D1", "D2", "D4", "C8", "D8")
ONEDNN_NAMES = {"avx2": "AVX2", "avx512": "AVX512_CORE"}  # ONEDNN_MAX_CPU_ISA in oneDNN's documentation
BUDGET_S, QUICK_BUDGET_S, GPU_BUDGET_S = 1.5, 0.3, 0.5  # of each race


def select(
    ops: tuple[str, ...], groups: tuple[str, ...], suites: tuple[str, ...], device: str, backend: str | None
) -> list[Case]:
    """The cases that the options ask for, suite by suite; by default those for the device.

    On a GPU that is what a backend does if one is named, and what is chosen if none is.
    """
    from runner import module_of

    default = tuple(name for name in SUITES if device == "cpu" or (name == "gpu choice") == (backend is None))
    there = tuple(name for name in suites or default if runs_on(name, device, named=name in suites))
    cases = [case for op in ops or OPS for case in module_of(op).CASES]
    kept = [case for case in cases if case.group in (groups or GROUPS) and case.suite in there]
    if device == "cpu":
        return sorted(kept, key=lambda case: SUITES.index(case.suite))
    return sorted(kept, key=lambda case: (SUITES.index(case.suite), case.op != "group_conv2d"))  # targets come first


def of_layers(cases: list[Case], layers: tuple[str, ...]) -> list[Case]:
    """The GPU's cases of group_conv2d in bfloat16 with these groups and channels, "D4-64", in the order of the names.

    Raises:
        click.UsageError: there is none with one of the names.
    """
    there = [case for case in cases if (case.op, case.suite, case.dtype) == ("group_conv2d", "gpu", "bfloat16")]
    named = {layer: [case for case in there if f"{case.group}-{case.c_in}" == layer] for layer in layers}
    if absent := [layer for layer, found in named.items() if not found]:
        known = ", ".join(dict.fromkeys(f"{case.group}-{case.c_in}" for case in there)) or "none: they are a GPU's"
        raise click.UsageError(f"--layer {absent[0]} is none of the layers: {known}")
    return [case for found in named.values() for case in found]


def runs_on(suite: str, device: str, named: bool = False) -> bool:
    """Whether a suite is for the device. Named ones with small shapes may run on a GPU, too, but for the profile."""
    from measure import has_engine, is_gpu

    if suite == "profile":
        return has_engine(device)
    return suite.startswith("gpu") == is_gpu(device) or (named and is_gpu(device))


def selection(device: str, train: bool, quick: bool, narrowed: bool) -> str:
    """What kind of run it is: reports are made of whole ones."""
    if quick or narrowed:
        return "quick" if quick else "partial"
    kind = "train" if train else "full"
    return kind if device == "cpu" else f"gpu {kind}"


@contextmanager
def opened(path: str | None, device: str) -> Iterator[TextIO]:
    """Where rows go: a file that they are appended to, or stdout."""
    if path == "-":
        yield sys.stdout
        return
    file = RESULTS / f"{device}.jsonl" if path is None else Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        yield stream


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option("--op", "ops", multiple=True, type=click.Choice(OPS), help="Only this op; may be repeated.")
@click.option("--group", "groups", multiple=True, type=click.Choice(GROUPS), help="Only this group; may be repeated.")
@click.option("--suite", "suites", multiple=True, type=click.Choice(SUITES), help="Only this table; may be repeated.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="GROUP-CHANNELS",
    help="Only this layer of a GPU, as D4-64; may be repeated.",
)
@click.option("--train", is_flag=True, help="Whole training steps against the same steps on the dense backend.")
@click.option("--quick", is_flag=True, help="Fewer shapes, fewer rounds, no memory: about one minute.")
@click.option("--backend", type=click.Choice(BACKENDS), help="gconv backend under test. [default: gconv chooses]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [default: torch's]")
@click.option(
    "--instruction-set",
    type=click.Choice(list(ONEDNN_NAMES)),
    help="Hold gconv and torch's CPU convolution to this one. [default: the best that there is]",
)
@click.option("--nhwc-only", is_flag=True, help="conv2d in channels-last alone, by far the faster on a GPU.")
@click.option(
    "--cudnn-limit", type=click.IntRange(min=0), help="Of cudnn.benchmark's algorithms. [default: torch's 10]"
)
@click.option("--seconds", type=float, default=math.inf, help="Start no case after so many. [default: run them all]")
@click.option(
    "--json",
    "json_path",
    metavar="PATH|-",
    help="Append rows to this file, or print them. [default: bench/results/<device>.jsonl]",
)
def main(
    ops: tuple[str, ...],
    groups: tuple[str, ...],
    suites: tuple[str, ...],
    layers: tuple[str, ...],
    train: bool,
    quick: bool,
    backend: str | None,
    device: str,
    threads: int | None,
    instruction_set: str | None,
    nhwc_only: bool,
    cudnn_limit: int | None,
    seconds: float,
    json_path: str | None,
) -> None:
    """Time gconv beside its baselines and hold it to its targets; about five minutes on two CPU cores.

    Every case is checked first, forward and both gradients, against conv2d in float64; a wrong one gets no ratio, and
    the exit status is 1. Then gconv and the baselines run in turn in one process. A ratio is the median of the paired
    ratios, baseline time / gconv time, with the 20th and 80th percentile: above 1, gconv is faster.

    \b
    Baselines: torch's conv2d on the pre-expanded filter bank, in whichever memory format is faster, on a GPU with
    cudnn.benchmark; escnn's R2Conv in train and eval mode where escnn is installed; for pooling a copy of as many
    bytes, and torch's reduction. A GPU has its own shapes, for a named --backend, and without one to hold what gconv
    chooses to dense; work there is timed between events.

    \b
    Examples:
      python bench/run.py --quick
      python bench/run.py --op group_conv2d --group D4 --suite layers
      python bench/run.py --train
      python bench/run.py --device cuda --backend triton    # a part of bench/gpu.sh
      python bench/run.py --device cuda --backend cuda --layer D4-64 --layer C4-128
      python bench/report.py        # the README's table and plot, from the newest full run
    """
    if train:
        wait_without_spinning()  # as sgan.train does; before torch is loaded
    if instruction_set is not None:
        os.environ["ONEDNN_MAX_CPU_ISA"] = ONEDNN_NAMES[instruction_set]  # read once, by torch's first convolution
    import torch
    from measure import Setting, device_name
    from runner import Bench, module_of
    from targets import means

    from gconv import build
    from gconv.backends import unavailable
    from gconv.backends.measured import slug

    if train and (ops or groups or suites or layers):
        raise click.UsageError("--train takes no --op, --group, --suite or --layer")
    if device == "cuda" and build.info().get("spin_limit"):
        raise click.UsageError("gconv's CUDA kernels are a build for tests, not for timing: build gconv again")
    check_device(device)
    if backend is not None and (reason := unavailable(backend, torch.empty(0, device=device))):
        raise click.UsageError(f"--backend {backend} cannot run: {reason}")
    if threads is not None:
        torch.set_num_threads(threads)
    if instruction_set is not None:
        if (native := build.native()) is None or instruction_set not in native.instruction_sets():
            raise click.UsageError(f"--instruction-set: {instruction_set} does not run here")
        native.use_instruction_set(instruction_set)
    setting = Setting(backend, device, torch.get_num_threads(), ("NHWC",) if nhwc_only else Setting.formats)
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32 on both sides
        torch.backends.cudnn.benchmark = True  # the baseline's best case
        if cudnn_limit is not None:
            torch.backends.cudnn.benchmark_limit = cudnn_limit
    if train:
        cases = [case for case in module_of("train_step").CASES if runs_on(case.suite, device)]
    else:
        cases = select(ops, groups, suites, device, backend)
    if layers:
        cases = of_layers(cases, layers)
    cases = [case for case in cases if case.quick or not quick]
    if not cases:
        raise click.UsageError("no case has all of these options")
    narrowed = bool(ops or groups or suites or layers or nhwc_only or (backend and device == "cpu"))
    budget_s = QUICK_BUDGET_S if quick else GPU_BUDGET_S if device == "cuda" else BUDGET_S
    bench = Bench(setting, budget_s, with_memory=not quick)
    bench.header |= {"selection": selection(device, train, quick, narrowed), "cases": len(cases)}
    name = slug(f"{device_name(device)} {setting.threads} threads" if device == "cpu" else device_name(device))
    say = partial(click.echo, err=json_path == "-")
    say(intro(bench.header["environment"], setting))
    table, end = None, time.monotonic() + seconds
    with opened(json_path, name) as stream:
        for case in cases:
            if time.monotonic() > end:
                say(f"{seconds:g} s are over: {len(cases) - len(bench.rows)} of {len(cases)} cases were left out")
                break
            row = bench.measure_or_say_why(case) if device == "cuda" else bench.measure(case)
            if table != (case.op, case.suite):
                table = (case.op, case.suite)
                say(show.heading(row))
            say(show.line(show.cells(row)))
            stream.write(json.dumps(row) + "\n")
            stream.flush()
    say(show.summary(bench.rows, means(bench.rows)))
    sys.exit(1 if bench.wrong else 0)


def intro(environment: Row, setting: Setting) -> str:
    """What runs where, and which baselines are left out and why."""
    import memory
    from convolution import escnn_missing
    from measure import BUSY

    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    commit = environment["commit"] + (" with uncommitted changes" if environment["dirty"] else "")
    lines = [
        show.machine(environment),
        f"{versions}, commit {commit}",
    ]
    if (load := environment["load"]) > BUSY:
        lines.append(f"warning: other processes are running (load average {load:.1f}): times and ratios will be off")
    reasons = {"escnn's layers": escnn_missing(), "peak memory": memory.missing(setting)}
    lines += [f"left out: {what}: {reason}" for what, reason in reasons.items() if reason]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
