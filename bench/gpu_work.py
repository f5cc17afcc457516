"""What bench/gpu.py runs in processes of its own, each a command: `python bench/gpu_work.py device`, ..."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import platform
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import product, repeat
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch
    from measure import Case

WARMING = 8  # processes, each with torch and a context on the device
RUNNING = "running: "  # before what `small` does next
GPU_BACKENDS = ("cuda", "triton")  # what comes later in a run is cut first


@click.group()
def main() -> None:
    """The parts of bench/gpu.py that touch the device."""


@main.command()
def device() -> None:
    """Print as JSON the name of the device, or under "missing" why there is none; gconv need not be installed."""
    if reason := device_missing():
        print(json.dumps({"missing": reason}))
        return
    import torch

    print(json.dumps({"device": torch.cuda.get_device_name()}))


def device_missing() -> str | None:
    """Why nothing can run on a GPU here; None if it can."""
    try:
        import torch
    except ImportError as error:
        return f"torch does not load: {error}"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no device: nvidia-smi may say why"
    return None


@main.command("gconv")
def state() -> None:
    """Print as JSON the environment, the file of the device's table, and why each GPU backend cannot run, or null."""
    import torch
    from measure import Setting, environment

    from gconv import backends
    from gconv.backends.measured import table_path

    probe = torch.zeros(1, device="cuda")
    missing = {name: backends.unavailable(name, probe) for name in GPU_BACKENDS if name in backends.BACKENDS}
    missing = {name: missing.get(name, "it is not written yet") for name in GPU_BACKENDS}
    where = environment(Setting(device="cuda"))
    print(json.dumps({"environment": where, "table": str(table_path(where["device"])), "missing": missing}))


@main.command()
def ceilings() -> None:
    """Print as JSON the bytes per second of a large copy and the FLOP/s of large matrix products."""
    import torch
    from measure import copy_bandwidth, matmul_flops

    torch.backends.cuda.matmul.allow_tf32 = False
    products = {f"{dtype}_tflops": matmul_flops(dtype) / 1e12 for dtype in ("bfloat16", "float16", "float32")}
    print(json.dumps({"copy_gb_per_s": copy_bandwidth() / 1e9, **products}))


@main.command()
def machine() -> None:
    """Print the versions of what a build and the tests need, "no" for what is missing, and what nvidia-smi says."""
    for name in ("torch", "triton", "numpy", "pytest", "pybind11", "scikit-build-core", "pip", "click", "rich"):
        print(f"{name} {installed(name)}")
    for command in ("nvidia-smi", "nvcc --version", "cmake --version", "ninja --version", "c++ --version"):
        print(f"$ {command}\n{said(*command.split())}")
    print(f"python {platform.python_version()}, torch {installed('torch')}, triton {installed('triton')}")


def installed(package: str) -> str:
    """Its version, or "no"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "no"


def said(*command: str) -> str:
    """What a command prints, or that it is not there."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return done.stdout.rstrip()


@main.command()
@click.argument("backend")
@click.option("--limit", type=float, default=0.0, help="End with the lines that it stands at after so many seconds.")
@click.option("--ampere", is_flag=True, help="On a device of 9.0 the CUDA kernels for 8.0.")
def small(backend: str, limit: float, ampere: bool) -> None:
    """Run every pass of every op on small shapes: what the sanitizers watch, under whom all is slow.

    Each is named before it begins, so that one that hangs is the last.
    """
    import torch

    if limit:
        faulthandler.dump_traceback_later(limit, exit=True)
    if ampere:
        use_ampere_kernels()
    count = 0
    for group, dtype in product(("C4", "D4"), (torch.bfloat16, torch.float32)):
        every_pass(group, dtype, backend, "cuda", say=lambda text: print(f"{RUNNING}{text}", flush=True))
        count += 1
    torch.cuda.synchronize()
    print(f"every pass of every op ran on {count} pairs of group and dtype")


def use_ampere_kernels() -> None:
    """Plans the CUDA kernels from here on as for a device of 8.0 with this one's multiprocessors and memory."""
    from gconv.backends import cuda

    real = cuda._cuda_device
    cuda._cuda_device = lambda index: (80, *real(index)[1:])  # type: ignore[assignment]


def every_pass(
    name: str, dtype: torch.dtype, backend: str, device: str, say: Callable[[str], None] = lambda text: None
) -> None:
    """Each op forward and, twice, backward, and with an epilogue: odd sizes, ends of tiles, channels that fill no
    vector and some that do. `say` is told of each before it begins, when all before it has ended.
    """
    import torch

    import gconv

    group = gconv.group_from_name(name)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

    def begin(what: str) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        say(f"{what} of {name} in {str(dtype)[6:]}")

    image, lifting, bias = draw(2, 3, 19, 10), draw(17, 3, 3, 3), draw(17)
    weights = draw(8, 17, group.order, 3, 3), draw(5, 8, group.order, 3, 3)  # maps of 8 are copied by descriptors
    begin("lifting_conv2d")
    x = gconv.lifting_conv2d(image, lifting, bias, group=group, padding=1, backend=backend)
    for weight in weights:
        begin(f"group_conv2d from {weight.shape[1]} to {weight.shape[0]} channels")
        x = gconv.group_conv2d(x, weight, group=group, padding=1, backend=backend)
    with torch.no_grad():  # in one kernel on cuda
        for pool in (None, "max", "mean"):
            weight = draw(9, 5, group.order, 3, 3)
            begin(f"group_conv2d with leaky_relu and pool {pool}")
            gconv.group_conv2d(x, weight, group=group, negative_slope=0.2, pool=pool, backend=backend)
    for mode in ("max", "mean"):
        begin(f"group_pool, {mode}")
        out = gconv.group_pool(x, group=group, mode=mode, backend=backend)
        begin(f"the gradients behind pool {mode}")
        grads = torch.autograd.grad(out.sum(), (image, lifting, bias, *weights), create_graph=True)
        begin(f"the gradients' gradients behind pool {mode}")
        squares = torch.stack([(grad * grad).sum() for grad in grads])
        torch.autograd.grad(squares.sum(), (image, *weights), retain_graph=True)


@main.command()
@click.argument("backend")
def warm(backend: str) -> None:
    """Run every case of the bench once, side by side: their kernels are then in triton's cache when they are timed."""
    from run import select
    from runner import module_of

    cases = [case for case in select((), (), (), "cuda", backend) if case.work != "forward"]  # those run both passes
    try:
        cases += [case for case in module_of("train_step").CASES if case.suite == "gpu train"]
    except ImportError as error:
        print(f"no training steps: {error}")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(WARMING, os.cpu_count() or 1), mp_context=spawn) as pool:
        failures = list(filter(None, pool.map(run_once, cases, repeat(backend), repeat("cuda"))))
    print("\n".join(failures))  # the bench will say the same
    print(f"{len(cases) - len(failures)} of {len(cases)} cases ran once")


def run_once(case: Case, backend: str, device: str) -> str:
    """Runs a case as the bench does; why it cannot, or nothing."""
    import torch
    from measure import Setting
    from runner import module_of
    from show import TRAINS

    torch.backends.cudnn.allow_tf32 = False
    setting = Setting(backend, device)
    try:
        if case.suite in TRAINS:
            module_of("train_step").trainer(case, setting, backend).step()
        else:
            module_of(case.op).contest(case, setting).ours()
    except Exception as error:  # of a compiler, a driver, or for lack of memory
        return " ".join(f"{case}: {type(error).__name__}: {error}".split())[:300]
    return ""


@main.command()
@click.argument("backend")
def hot(backend: str) -> None:
    """Run a wide C4 and a wide D4 layer forward and backward, the second time between marks for a profiler."""
    import torch
    from convolution import ours
    from measure import Case, Setting

    torch.backends.cudnn.allow_tf32 = False  # as in the bench, whose compiled kernels these are
    for group, channels in (("C4", 128), ("D4", 64)):
        case = Case("group_conv2d", "gpu", group, channels, channels, 56, "forward+backward", 16, dtype="bfloat16")
        run = ours(case, Setting(backend, "cuda"))
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        run()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
