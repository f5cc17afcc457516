"""Measuring: cases, contests between runs, paired times, and what the machine did it with."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from kernel_sources import checksums
from show import shape

from gconv import build

Run = Callable[[], object]
Benchmark = Callable[[Run], object]  # pytest-benchmark's fixture
Samples = dict[str, list[float]]  # seconds of every contender, one entry per round
Spread = dict[str, float]  # median, p20 and p80
Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
OURS = "gconv"
MIN_PAIRS = 9
MAX_PAIRS = 200
BUSY = 0.5  # load average before a run above which other processes take the cores
SAMPLE_S = 2e-3  # shorter calls are repeated until a sample takes this long: the clock and the loop cost 0.1 us


@dataclass(frozen=True)
class Setting:
    """What holds for a whole run: gconv's backend (None lets it choose), the device, its CPU threads, and the memory
    formats of the baseline conv2d."""

    backend: str | None = None
    device: str = "cpu"
    threads: int = 1
    formats: tuple[str, ...] = ("NCHW", "NHWC")


@dataclass(frozen=True)
class Case:
    """One measurement: (N, C_in[, |G|], H, H) -> (N, C_out, |G|, H, H), padding "same".

    Attributes:
        suite: which table it belongs to, a key of show.SUITES.
        work: "forward" (under no_grad), "recorded" (forward, for a later backward), "backward", "forward+backward".
        mode: of group_pool; for a training step the networks' widths.
        quick: whether --quick keeps it.
        memory: whether peak memory is measured, too.
        dtype: of the maps and the filter, torch's name.
    """

    op: str
    suite: str
    group: str
    c_in: int
    c_out: int
    height: int
    work: str
    batch: int = 32
    size: int = 3
    mode: str = ""
    quick: bool = False
    memory: bool = False
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.suite} {self.group} {shape(asdict(self))} {self.work}"

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


@dataclass
class Contest:
    """The runs of one case, which do the same work.

    Attributes:
        ours: gconv.
        rivals: name of a baseline to its variants, of which the one with the lowest median counts.
        scale: name of a baseline to the factor on its paired ratio, if it does other work than ours.
        check: largest error of each map over its bound; above 1 is wrong.
        flops: multiply-add operations of the group-Fourier products, 0 if there are none.
        dense_flops: the same of the expanded bank.
        traffic: bytes that must be read and written, 0 if of no interest.
        operands: first word of a contender's name to the bytes that it holds before it runs.
    """

    ours: Run
    rivals: dict[str, dict[str, Run]]
    check: Callable[[], dict[str, float]]
    scale: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    dense_flops: float = 0.0
    traffic: float = 0.0
    operands: dict[str, int] = field(default_factory=dict)

    def contenders(self) -> dict[str, Run]:
        """Every run by its name: "gconv", "conv2d contiguous", ..."""
        runs = {OURS: self.ours}
        for rival, variants in self.rivals.items():
            runs |= {f"{rival} {variant}".strip(): run for variant, run in variants.items()}
        return runs


def run_benchmark(benchmark: Benchmark, contest: Contest) -> None:
    """Times gconv's run with pytest-benchmark, after the check."""
    assert max(contest.check().values()) <= 1
    benchmark(contest.ours)


def spread(values: Iterable[float]) -> Spread:
    """Median, 20th and 80th percentile."""
    values = list(values)
    if len(values) < 2:
        return dict.fromkeys(("median", "p20", "p80"), values[0])
    p20, _, _, p80 = statistics.quantiles(values, n=5, method="inclusive")
    return {"median": statistics.median(values), "p20": p20, "p80": p80}


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def race(contenders: Mapping[str, Run], budget_s: float, device: str = "cpu") -> Samples:
    """Times the contenders in turn, A B A B ..., for about budget_s and at least MIN_PAIRS rounds.

    Two calls of each and the first round are dropped: they compile, fill caches, and tell how often a short call must
    be repeated in one sample.
    """
    calls = {}
    for name, run in contenders.items():
        run()
        calls[name] = max(1, math.ceil(SAMPLE_S / _seconds(run, 1, device)))
    samples: Samples = {name: [] for name in contenders}
    gc.collect()
    gc.disable()  # a collection would fall on whoever comes next
    try:
        end = time.perf_counter() + budget_s
        rounds = 0
        while rounds <= MIN_PAIRS or (rounds <= MAX_PAIRS and time.perf_counter() < end):
            for name, run in contenders.items():
                samples[name].append(_seconds(run, calls[name], device))
            rounds += 1
    finally:
        gc.enable()
    return {name: times[1:] for name, times in samples.items()}


def _seconds(run: Run, calls: int, device: str) -> float:
    if is_gpu(device):
        return _seconds_between_events(run, calls)
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def _seconds_between_events(run: Run, calls: int) -> float:
    """Of a call on the GPU, behind one more that keeps it busy while the others are queued."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    run()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / calls


@cache
def matmul_flops(dtype: str, length: int = 8192, device: str = "cuda") -> float:
    """FLOP/s that torch's product of two random square matrices reaches on the GPU: a ceiling of every kernel."""
    a, b = (torch.randn(length, length, device=device).to(getattr(torch, dtype)) for _ in range(2))
    samples = race({OURS: lambda: a @ b}, 0.3, device)
    return 2.0 * length**3 / statistics.median(samples[OURS])


@cache
def copy_bandwidth(mib: int = 4096, device: str = "cuda") -> float:
    """Bytes per second, read and written, of a copy on the GPU far larger than its caches: the other ceiling."""
    source = torch.rand(mib * 2**18, device=device)
    target = torch.empty_like(source)
    samples = race({OURS: lambda: target.copy_(source)}, 0.3, device)
    return 2.0 * source.nbytes / statistics.median(samples[OURS])


def best_variant(samples: Samples, rival: str) -> str:
    """The contender of a rival with the lowest median: the strongest case for the baseline."""
    names = [name for name in samples if name == rival or name.startswith(f"{rival} ")]
    return min(names, key=lambda name: statistics.median(samples[name]))


def paired_ratios(samples: Samples, name: str) -> list[float]:
    """Time of the contender over ours, round by round: above 1, gconv is faster."""
    return [theirs / ours for theirs, ours in zip(samples[name], samples[OURS], strict=True)]


def keep_freed_memory() -> None:
    """Tells glibc not to give freed memory back to the system, as it does at every other large tensor.

    Whoever allocates next would pay for the page faults, up to several times what a memory-bound op takes, and which
    contender that is depends on their order. Does nothing with another C library.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-4, 0)  # M_MMAP_MAX


def environment(setting: Setting) -> Row:
    """What a number depends on besides the code: commit, versions, machine."""
    native = build.native()
    found = {
        **environment_commit(),
        "versions": {"python": platform.python_version()}
        | {name: found for name in ("torch", "gconv", "escnn") if (found := _version(name))},
        "device": device_name(setting.device),
        "cpu": _cpu_model(),
        "instruction_set": native.instruction_set() if native else None,
        "threads": setting.threads,
        "load": os.getloadavg()[0],
    }
    return found | _gpu_environment(setting.device) if is_gpu(setting.device) else found


def environment_commit() -> Row:
    """The commit and whether files differ from it. GCONV_COMMIT names it where a copy came without its history."""
    if commit := _git("rev-parse", "--short=12", "HEAD"):
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results")
        return {"commit": commit, "dirty": bool(changes)}
    return {"commit": os.environ.get("GCONV_COMMIT", ""), "dirty": None}


def _gpu_environment(device: str) -> Row:
    """What a GPU's number depends on besides: driver, libraries, and the sources of the kernels."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "driver": _driver(),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": _version("triton"),
        "kernel_sources": checksums(),
    }


def _driver() -> str:
    """The version of NVIDIA's driver, from its file or its tool; empty if neither is there."""
    with contextlib.suppress(OSError):
        return driver_version(Path("/proc/driver/nvidia/version").read_text())
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return driver_version(subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout)
    return ""


def driver_version(text: str) -> str:
    """The first number with a dot in it: "NVIDIA UNIX Open Kernel Module for x86_64  580.159.04" -> "580.159.04"."""
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else ""


def is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def has_engine(device: str) -> bool:
    """Whether the native CPU engine, which measures the FMA peak and takes profiles, is there for this device."""
    return device == "cpu" and build.native() is not None


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if is_gpu(device) else _cpu_model()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except OSError:  # no git here
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        (model,) = set(re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE))
    except (OSError, ValueError):
        return platform.processor() or platform.machine()
    return str(model)
