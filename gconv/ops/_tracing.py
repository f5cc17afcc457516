"""Refusals of what torch's older tracers cannot follow: their program would be wrong for other sizes."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx


def refuse_fixed_sizes(operation: str, what: str) -> None:
    """Raises under torch.jit.trace, which would keep ``what`` as it is for the example's size.

    Raises:
        RuntimeError: torch.jit.trace is running.
    """
    if torch.jit._trace.is_tracing():
        raise RuntimeError(
            f"{operation}: torch.jit.trace must not be used, since it keeps {what} of the example for inputs of every "
            "size; use torch.export with dynamic shapes, or torch.compile"
        )


def refuse_symbols(operation: str, x: Any) -> None:
    """Raises for the stand-in of a tensor that torch.fx.symbolic_trace passes.

    Raises:
        TypeError: x is a torch.fx.Proxy.
    """
    if isinstance(x, torch.fx.Proxy):
        raise TypeError(
            f"{operation}: x must be a Tensor, got a Proxy: torch.fx.symbolic_trace cannot look into gconv's layers; "
            "use torch.export, or a Tracer whose is_leaf_module is True for modules of gconv.nn"
        )
