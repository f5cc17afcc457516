"""Compiles kernel launches without a GPU, and reads from what the compilers say what the kernels take of one.

A launch goes through triton's own ``JITFunction.run`` with ``warmup=True``, under a driver that knows nothing but the
target. So what a kernel is specialised on (integers and pointers divisible by 16, integers equal to 1, descriptors'
blocks) is decided by the code that decides it on a GPU. The address of a meta tensor is its offset in the allocation,
and torch allocates at multiples of 512 bytes: the alignment is that of real tensors.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from typing import Any

from ptxas import Capability, matrix_instructions, parse_log
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.cache import get_cache_manager

from gconv.backends.triton.launch import Launch

LOG = "ptxas.log"  # kept beside the kernel in triton's cache: ptxas does not run for kernels that are there


class CompileError(RuntimeError):
    """A kernel did not compile."""


@dataclass(frozen=True)
class Figures:
    """What a compiled kernel takes.

    Attributes:
        registers: per thread.
        spill_bytes: stored plus loaded per thread, where registers do not suffice.
        stack_bytes: local memory per thread.
        shared_bytes: shared memory per block, static and dynamic.
        tensor_columns: columns of tensor memory per block (compute capability 10).
        scratch_bytes: global memory per block, for descriptors made on the device.
        matrix: how often each matrix instruction stands in the code.
        serialised: the reasons by which ptxas makes wgmma instructions wait for each other.
    """

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    tensor_columns: int
    scratch_bytes: int
    matrix: dict[str, int]
    serialised: list[str]


class StandIn:
    """The part of a triton driver that is asked when a kernel is compiled and not run."""

    def __init__(self, capability: Capability) -> None:
        self.target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        """Kernels keep what they compiled by device: this is no real one's index."""
        return f"stand-in for {self.target.arch}"

    def get_current_stream(self, device: object) -> int:
        return 0


def compile_launch(launch: Launch, capability: Capability) -> Figures:
    """Compiles a launch as the JIT would on a device of this compute capability, which becomes triton's active driver.

    Raises:
        CompileError: triton or ptxas failed.
    """
    driver.set_active(StandIn(capability))
    kernel, log = _compile(launch)
    require_descriptors(launch, kernel)
    resources = parse_log(log)
    return Figures(
        resources.registers,
        resources.spill_bytes,
        resources.stack_bytes,
        resources.static_shared_bytes + kernel.metadata.shared,
        getattr(kernel.metadata, "tmem_size", None) or 0,
        kernel.metadata.global_scratch_size,
        dict(_matrix_instructions(kernel.asm["cubin"])),
        resources.serialised,
    )


def _compile(launch: Launch) -> tuple[Any, str]:
    """The kernel, and what ptxas said when it was compiled, now or earlier."""
    kernel, log = _run(launch)
    stored = get_cache_manager(kernel.hash)
    if not log and not stored.has_file(LOG):  # compiled by something else, which kept no log
        launch.kernel.device_caches.clear()
        with knobs.compilation.scope():
            knobs.compilation.always_compile = True
            kernel, log = _run(launch)
    if log:
        stored.put(log, LOG)
        return kernel, log
    with open(stored.get_file(LOG)) as file:
        return kernel, file.read()


def require_descriptors(launch: Launch, kernel: Any) -> None:
    """Triton's launcher makes descriptors on the host of arguments, not of a tuple's parts: it would refuse those.

    Raises:
        CompileError: the kernel was compiled for descriptors that the launcher does not find.
    """
    made = len(getattr(kernel.metadata, "tensordesc_meta", None) or ())
    found = sum(str(kind).startswith("tensordesc") for kind in kernel.src.signature.values())
    if made not in (0, found):
        raise CompileError(f"{launch.kernel.__name__}: {made} descriptors, of which {found} are arguments of their own")


def _run(launch: Launch) -> tuple[Any, str]:
    """The kernel, and what ptxas said if it was not in the cache: it prints with the options that triton gives it."""
    said = io.StringIO()
    with knobs.nvidia.scope(), contextlib.redirect_stdout(said):
        knobs.nvidia.dump_ptxas_log = True
        try:
            kernel = launch.kernel.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.options)
        except Exception as error:  # triton's errors share no base class
            raise CompileError(f"{launch.kernel.__name__}: {type(error).__name__}: {error}") from error
    if _descriptors_passed(kernel) != len(kernel.metadata.tensordesc_meta or ()):
        raise CompileError(f"{launch.kernel.__name__}: triton launches no kernel with tensor descriptors in a tuple")
    return kernel, said.getvalue()


def _descriptors_passed(kernel: Any) -> int:
    """The tensor descriptors that triton's launcher finds: those that are arguments, not parts of one."""
    kinds = kernel.src.signature.values()
    return sum(isinstance(kind, str) and kind.startswith("tensordesc") for kind in kinds)


@cache
def _matrix_instructions(cubin: bytes) -> dict[str, int]:
    """Of a compiled kernel, by the disassembler that comes with triton."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-sass", file.name]
        return matrix_instructions(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
