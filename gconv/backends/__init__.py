"""The backends and the rule that picks one. A named backend runs or raises; None lets gconv choose.

Every backend is a module with the same six functions: conv2d, conv2d_input_grad, conv2d_weight_grad, group_pool,
group_pool_backward and group_pool_select.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from gconv import build
from gconv.backends import cpu, dense, reference
from gconv.groups import PlanarGroup

AUTO = "auto"
BACKENDS: dict[str, ModuleType] = {"reference": reference, "dense": dense, "cpu": cpu}


def unavailable(name: str, x: Tensor) -> str | None:
    """Why the backend cannot run on tensors like x; None if it can."""
    if name != "cpu":
        return None
    if missing := build.native_missing():
        return missing
    if x.device.type != "cpu":
        return f"it runs on CPU tensors, and x is on {x.device.type}"
    if x.dtype not in cpu.DTYPES:
        return f"it knows {', '.join(cpu.DTYPES.values())}, and x is {x.dtype}"
    return None


def choose(operation: str, x: Tensor, group: PlanarGroup) -> tuple[str, str]:
    """The backend that ``backend=None`` means for these tensors, and why.

    The native kernel where it runs, but for C1, whose planar convolution has nothing to save and lost to torch's. A
    table measured per shape is to replace this rule.
    """
    if reason := unavailable("cpu", x):
        return "dense", f"cpu cannot run: {reason}"
    if operation == "group_pool":
        return "cpu", "one native pass over the orientations"
    if group.order == 1:
        return "dense", "C1 is a planar convolution, which has nothing to save"
    if operation == "lifting_conv2d":
        return "cpu", "native kernel on the rotated taps, without a bank"
    products = sum(irrep.dim**2 * irrep.columns for irrep in group.irreps)
    return "cpu", f"native group-Fourier kernel: {products} of the bank's {group.order**2} multiplications"


def resolve(name: str, operation: str, x: Tensor, group: PlanarGroup) -> ModuleType:
    """The module to run: the named backend, or the chosen one for "auto".

    Raises:
        RuntimeError: the named backend cannot run these tensors.
    """
    if name == AUTO:
        name = choose(operation, x, group)[0]
    elif reason := unavailable(name, x):
        raise RuntimeError(f"{operation}: backend {name!r} cannot run: {reason}")
    return BACKENDS[name]
