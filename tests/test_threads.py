"""Threads and processes of the native engine: the same bits on any number of threads and in every process, no thread
that torch would not have, and a free interpreter while native code runs.

Tests that count threads or fork run this file as a program, in a process of their own: test_x runs program_x.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
import torch
from cases import BACKENDS, OPERATIONS, Case, three_maps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import gconv

pytestmark = pytest.mark.skipif(
    "cpu" not in BACKENDS, reason="the native module was not built: python -m gconv says why"
)

PASSES = ("forward", "input_grad", "weight_grad")
CORES = os.cpu_count() or 1
TASKS = Path("/proc/self/task")
counts_threads = pytest.mark.skipif(not TASKS.exists(), reason="threads are counted in Linux's /proc")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@cache
def channels_last(shape: tuple[int, ...], seed: int) -> Tensor:
    """Random reals in the engine's layout, made once: torch copies them on threads, which would hang in a fork."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)


def convolutions(operation: str, dtype: torch.dtype = torch.float32, batch: int = 4) -> dict[str, Tensor]:
    """Forward and both gradients of a convolution of 2304 pixels: many tiles, several slices of the weight gradient."""
    case = Case(operation, "C4", height=24, width=24, c_in=8, c_out=12, batch=batch)
    x, grad_out = channels_last(case.x_shape, 0), channels_last(case.output_shape, 1)
    weight = torch.randn(case.weight_shape, generator=torch.Generator().manual_seed(2))
    return three_maps(case, x.to(dtype), weight.to(dtype), grad_out.to(dtype), "cpu")


def pools() -> dict[str, Tensor]:
    """Maximum, mean and their gradients over a map that is large enough to be shared by four threads."""
    maps = {}
    for mode in ("max", "mean"):
        x, grad_out = channels_last((4, 16, 4, 24, 24), 3), channels_last((4, 16, 1, 24, 24), 4)
        out, index = torch.ops.gconv.group_pool(x, "C4", [0, 1, 2, 3], mode, "cpu")
        grad_x = torch.ops.gconv.group_pool_backward(grad_out, index, "C4", [0, 1, 2, 3], mode, "cpu")
        maps |= {mode: out, f"{mode} index": index, f"{mode} input_grad": grad_x}
    return maps


def fingerprint() -> str:
    """A hash of what every op gives, at the second call without a torch op that has threads."""
    results = [*convolutions("lifting_conv2d").values(), *convolutions("group_conv2d").values(), *pools().values()]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in results)).hexdigest()


def count_threads() -> int:
    return len(list(TASKS.iterdir()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_convolutions_give_the_same_bits_on_any_number_of_threads(
    operation: str, batch: int, dtype: torch.dtype
) -> None:
    expected = convolutions(operation, dtype, batch)
    for threads in (2, 3, CORES + 3, 1):
        torch.set_num_threads(threads)
        found = convolutions(operation, dtype, batch)
        assert [name for name in PASSES if not torch.equal(found[name], expected[name])] == [], threads


def test_pools_give_the_same_bits_on_any_number_of_threads() -> None:
    expected = pools()
    for threads in (2, 3, CORES + 3, 1):
        torch.set_num_threads(threads)
        found = pools()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == [], threads


def long_calls() -> Iterator[tuple[str, Callable[[int], object]]]:
    """Native calls by their size: at 1, some 10 ms on one core."""
    case = Case("group_conv2d", "C4", height=28, width=28, c_in=32, c_out=32, bias=False)
    x, grad_out = channels_last(case.x_shape, 0), channels_last(case.output_shape, 1)
    weight = torch.randn(case.weight_shape)

    def many(t: Tensor, size: int) -> Tensor:
        return t[:1].expand(8 * size, *t.shape[1:])

    yield "forward", lambda size: case.run(many(x, size), weight, None, "cpu")
    yield "input_grad", lambda size: case.input_grad(many(grad_out, size), weight, "cpu")
    yield "weight_grad", lambda size: case.weight_grad(many(x, size), many(grad_out, size), "cpu")
    yield "pool", lambda size: gconv.group_pool(many(x, 16 * size), group=gconv.CyclicGroup(4), backend="cpu")


@pytest.mark.parametrize("name", [*PASSES, "pool"])
def test_other_python_threads_run_during_a_native_call(name: str) -> None:
    """A thread that wakes every millisecond; were the lock held, it could wake just before and after the call only."""
    call = dict(long_calls())[name]
    wakes: list[float] = []
    done = threading.Event()

    def wake() -> None:
        while not done.wait(0.001):
            wakes.append(time.perf_counter())

    other = threading.Thread(target=wake)
    other.start()
    try:
        for size in (1, 4, 16, 64):  # longer until the call is long enough for this machine
            start = time.perf_counter()
            call(size)
            end = time.perf_counter()
            during = sum(start < wake < end for wake in wakes)
            if during >= 10:
                break
        assert during >= 10, f"{during} wakes in {end - start:.3f} s"
    finally:
        done.set()
        other.join()


def test_calls_on_several_threads_from_several_python_threads() -> None:
    expected = fingerprint()

    def call(_: int) -> str:
        torch.set_num_threads(2)  # of this thread: OpenMP's setting is each thread's own
        return fingerprint()

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(call, range(6))) == {expected}


def test_backward_in_several_python_threads() -> None:
    group = gconv.CyclicGroup(4)
    x, weight = channels_last((4, 8, 4, 24, 24), 0), torch.randn(12, 8, 4, 3, 3)

    def gradients(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = gconv.group_conv2d(*leaves, group=group, padding=1, backend="cpu")
        return list(torch.autograd.grad(out, leaves, torch.ones_like(out)))

    expected = gradients(1)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(gradients, (2, 3, 2, 1)):
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def run_program(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    subprocess.run([sys.executable, __file__, name], check=True, timeout=300, env=environment)


@counts_threads
def test_no_thread_beyond_those_of_torch() -> None:
    run_program("program_threads")


def program_threads() -> None:
    torch.set_num_threads(1)
    torch.ones(1_000_000).exp()
    before = count_threads()
    expected = fingerprint()
    assert count_threads() == before, "one thread was asked for, others were started"

    torch.set_num_threads(3)
    torch.ones(1_000_000).exp()
    before = count_threads()
    for _ in range(3):
        assert fingerprint() == expected
    assert count_threads() == before, "torch's threads should have been used, others were started"


@forks
@counts_threads
def test_a_forked_child_of_a_process_with_threads_runs_on_one() -> None:
    run_program("program_fork")


def program_fork() -> None:
    torch.set_num_threads(3)
    torch.ones(1_000_000).exp()
    expected = fingerprint()
    assert count_threads() > 1
    for _ in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            signal.alarm(120)
            try:
                same = fingerprint() == expected
                status = 0 if same and count_threads() == 1 else 2 if same else 3
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert fingerprint() == expected  # the parent's threads are unharmed


@counts_threads
def test_a_spawned_child_has_threads_again() -> None:
    run_program("program_spawn")


def spawned_child(expected: str) -> None:
    torch.set_num_threads(1)
    assert fingerprint() == expected
    before = count_threads()
    torch.set_num_threads(3)
    assert fingerprint() == expected
    assert count_threads() > before


def program_spawn() -> None:
    torch.set_num_threads(3)
    child = multiprocessing.get_context("spawn").Process(target=spawned_child, args=(fingerprint(),))
    child.start()
    child.join(240)
    assert child.exitcode == 0


class Fingerprints(Dataset[str]):
    """Items that are made by native calls, as a transform of the data would be."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> str:
        torch.set_num_threads(3)  # against the loader's own advice
        return fingerprint()


def collate(items: list[str]) -> set[str]:
    return {*items, fingerprint()}


@forks
def test_workers_of_a_data_loader() -> None:
    run_program("program_workers")


def program_workers() -> None:
    torch.set_num_threads(3)
    torch.ones(1_000_000).exp()
    expected = fingerprint()
    loader = DataLoader(
        Fingerprints(), batch_size=2, num_workers=2, collate_fn=collate, timeout=120, multiprocessing_context="fork"
    )
    for _ in range(2):
        assert list(loader) == [{expected}, {expected}]
        assert fingerprint() == expected


if __name__ == "__main__":
    globals()[sys.argv[1]]()
