"""`python -m gconv`: the version, which backends are present, why others are missing, and the devices."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import gconv
from gconv import backends, build
from gconv.backends.triton import launch


def report() -> Table:
    """One row per fact: versions, backends, what the build left out, devices."""
    info = build.info()
    table = Table(title=f"gconv {gconv.__version__}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("python, torch", f"{platform.python_version()}, {torch.__version__}")
    for name in backends.BACKENDS:
        reason = backends.unavailable(name, _probe(name))
        table.add_row(f"backend {name}", f"missing: {reason}" if reason else _present(name))
    table.add_row("compiler", str(info.get("compiler") or "none found at build time"))
    table.add_row("OpenMP", "yes" if info.get("openmp") else "no: the cpu backend runs on one thread")
    tests_only = ", a build for tests: its kernels fail in place of hanging" if info.get("spin_limit") else ""
    table.add_row("nvcc", f"{info.get('nvcc') or 'not used'}{tests_only}")
    table.add_row("triton package", _version("triton"))
    table.add_row("devices", ", ".join(_devices()))
    return table


def _probe(name: str) -> Tensor:
    """A tensor of the kind that the backend is for."""
    return torch.zeros(1, device="cuda" if name in backends.ON_GPU and torch.cuda.is_available() else "cpu")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "no"


def _present(name: str) -> str:
    if name == "triton":
        return "yes, in its interpreter: slow, for tests" if launch.interpreted() else "yes"
    if name == "cuda":
        kernels = build.cuda()
        return "yes, emulated on the CPU: slow, for tests" if kernels and kernels.emulated else "yes"
    if name != "cpu":
        return "yes"
    native = build.native()
    return f"yes, {native.instruction_set()} of {', '.join(native.instruction_sets())}" if native else "no"


def _devices() -> list[str]:
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [f"cpu ({torch.get_num_threads()} threads)", *(cuda or ["no CUDA device"])]


if __name__ == "__main__":
    Console().print(report())
