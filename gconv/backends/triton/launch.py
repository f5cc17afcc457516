"""Launches kernels, or notes what would be launched so that it can be compiled where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from torch import Tensor

from gconv.backends import nvidia


class Launch(NamedTuple):
    """A launch of a kernel: ``kernel[grid](*arguments, **options)``."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _Recording(NamedTuple):
    launches: list[Launch]
    capability: tuple[int, int]


_recording: ContextVar[_Recording | None] = ContextVar("_recording", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Runs a kernel on the device of its tensors; an empty grid runs nothing.

    Args:
        kernel: a function under ``triton.jit``.
        grid: programs along each of one to three axes; the first may have 2^31 - 1, the others 65535.
        arguments: the kernel's, in order: tensors, numbers, tensor descriptors; at least one is a tensor.
        options: its constexprs by name, and num_warps, num_stages.
    """
    if not all(grid):
        return
    if recording_now := _recording.get():
        recording_now.launches.append(Launch(kernel, grid, arguments, options))
        return
    with nvidia.on_device_of(next(argument for argument in arguments if isinstance(argument, Tensor))):
        kernel[grid](*arguments, **options)


@contextmanager
def recording(capability: tuple[int, int] = (9, 0)) -> Iterator[list[Launch]]:
    """Notes the launches of the block and runs none of them; operands may be meta tensors.

    Args:
        capability: of the device that the launches are meant for.

    Yields:
        The launches, in order.
    """
    launches: list[Launch] = []
    token = _recording.set(_Recording(launches, capability))
    try:
        yield launches
    finally:
        _recording.reset(token)


@cache
def triton_missing() -> str | None:
    """Why triton cannot be used; None if it can."""
    if find_spec("triton") is None:
        return "triton is not installed"
    try:
        import_module("triton")
    except ImportError as error:
        return f"triton does not load: {error}"
    return None


@cache
def interpreted() -> bool:
    """Whether kernels run in triton's interpreter: TRITON_INTERPRET=1 was set when triton was first imported."""
    return triton_missing() is None and import_module("triton").knobs.runtime.interpret


def capability(x: Tensor) -> tuple[int, int]:
    """The compute capability that kernels on x are made for: its device's, (8, 0) in the interpreter."""
    if recording_now := _recording.get():
        return recording_now.capability
    return nvidia.capability(x.device.index) if x.is_cuda else (8, 0)


def precision(x: Tensor) -> str:
    """How tl.dot multiplies x's dtype: float32 as torch's convolutions may."""
    return "tf32" if nvidia.allows_tf32(x) else "ieee"
