"""When calling a torch op comes to no more than its autograd formula and its CPU kernel, which can then be called.

The dispatcher costs about 15 us per call of an op written in Python, and about 50 us where a gradient is recorded:
several times as much as a planar convolution of a 4 x 4 image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

# What tensors and threads carry when nothing but autograd's bookkeeping is between a call and its CPU kernel: no
# subclass, wrapper of a transform, lazy negation, dispatch mode or tracer. In inference mode a part of it is gone.
_dispatch_keys, _thread_keys = torch._C._dispatch_keys, torch._C._dispatch_tls_local_include_set
below_autograd = torch._C._AutoDispatchBelowAutograd


def _plain_keys() -> tuple[int, int]:
    return _dispatch_keys(torch.empty(0, device="cpu")).raw_repr(), _thread_keys().raw_repr()


with torch.inference_mode():
    _INFERENCE = _plain_keys()
with torch.inference_mode(False):
    _NORMAL = _plain_keys()
_TENSOR_KEYS = frozenset((_INFERENCE[0], _NORMAL[0]))
_THREAD_KEYS = frozenset((_INFERENCE[1], _NORMAL[1]))


def plainly_eager(*tensors: Tensor | None) -> bool:
    """Whether an op on these is not compiled, traced, transformed or watched, and they are ordinary tensors on the CPU.

    Then its autograd formula, if a gradient is recorded, and its kernel are all that it runs.
    """
    return (
        not torch.compiler.is_compiling()
        and _ordinary(tensors, _TENSOR_KEYS)
        and _undisturbed()
        and not torch._C._autograd._profiler_enabled()
    )


def eager(x: Tensor, *others: Tensor | None) -> bool:
    """Whether an op on these is not compiled, traced or transformed, and they are ordinary tensors, on any device."""
    return not torch.compiler.is_compiling() and _undisturbed() and _ordinary((x, *others), _plain_keys_on(x.device))


def _undisturbed() -> bool:
    """Whether this thread runs ops as they are called, in no mode and under no transform."""
    return (
        _thread_keys().raw_repr() in _THREAD_KEYS
        and forward_ad._current_level < 0
        and not torch._C._is_torch_function_mode_enabled()
    )


def _ordinary(tensors: tuple[Tensor | None, ...], keys: frozenset[int]) -> bool:
    """Whether they are neither subclasses nor carry other keys than these."""
    for tensor in tensors:
        if tensor is not None and (
            (type(tensor) is not Tensor and type(tensor) is not nn.Parameter)
            or _dispatch_keys(tensor).raw_repr() not in keys
        ):
            return False
    return True


@cache
def _plain_keys_on(device: torch.device) -> frozenset[int]:
    """What ordinary tensors on a device carry; asked for where nothing makes other tensors."""
    found = []
    for inference in (True, False):
        with torch.inference_mode(inference):
            found.append(_dispatch_keys(torch.empty(0, device=device)).raw_repr())
    return frozenset(found)


def records(*tensors: Tensor | None) -> bool:
    """Whether autograd records an op on these."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def refuse_forward_mode(operation: str, *tensors: Tensor | None) -> None:
    """Raises where an op would drop a tangent: torch registers no forward-mode formula for ops written in Python."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            f"{operation}: forward-mode derivatives (torch.func.jvp, jacfwd, torch.autograd.forward_ad) are not "
            "implemented; torch.autograd.grad gives derivatives of every order"
        )


def recorded(
    kernel: Callable[..., Any], save: Callable[..., None], formula: Callable[..., Any]
) -> type[torch.autograd.Function]:
    """The kernel with its autograd formula as the dispatcher would call them."""

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            with below_autograd():
                output = kernel(*inputs)
            save(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            return formula(ctx, *grads)

    return Recorded


def shortened(
    op: Callable[..., Any], kernel: Callable[..., Any], recording: type[torch.autograd.Function] | None = None
) -> Callable[..., Any]:
    """The op, or just its kernel where it would run nothing else; with ``recording`` where autograd records that."""

    def run(*arguments: Any) -> Any:
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if not plainly_eager(*tensors):
            return op(*arguments)
        if records(*tensors):
            return recording.apply(*arguments) if recording else op(*arguments)
        with below_autograd():
            return kernel(*arguments)

    return run
