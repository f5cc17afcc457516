"""What an op would run on, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gconv import backends
from gconv.backends import Work
from gconv.conv_transpose import check_transposed
from gconv.functional import NEEDS_BANK, _autocast, _check_convolution, _check_pool
from gconv.groups import PlanarGroup
from gconv.ops._convolution import forward_work, input_grad_work
from gconv.ops.group_pool import pool_work

_OPERATIONS = ("lifting_conv2d", "group_conv2d", "group_conv_transpose2d", "group_pool")
_BANKED = ("lifting_conv2d", "group_conv2d")  # those that take dilation and groups


@dataclass(frozen=True)
class Explanation:
    """Which backend ``backend=None`` means, why, and why others cannot run.

    Attributes:
        operation: the op.
        backend: what its forward pass runs on.
        reason: why.
        gradients: the same of the passes behind it: "input_grad" and "weight_grad", or "backward" of group_pool, to
            (backend, reason).
        unavailable: backend to why it cannot run.
        runs_as: what a convolution on a group off the pixel grid comes to; empty on the grid.
    """

    operation: str
    backend: str
    reason: str
    gradients: dict[str, tuple[str, str]]
    unavailable: dict[str, str]
    runs_as: str = ""

    def __str__(self) -> str:
        lines = [f"{self.operation}: {self.backend} ({self.reason})"]
        lines += [f"  {self.runs_as}"] if self.runs_as else []
        lines += [f"  {step}: {backend} ({reason})" for step, (backend, reason) in self.gradients.items()]
        lines += [f"  {name} cannot run: {reason}" for name, reason in self.unavailable.items()]
        return "\n".join(lines)


def explain(
    operation: str,
    x: Tensor,
    weight: Tensor | None = None,
    *,
    group: PlanarGroup,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    output_padding: int = 0,
) -> Explanation:
    """Which backend would run for these arguments, and why.

    Args:
        operation: "lifting_conv2d", "group_conv2d", "group_conv_transpose2d" or "group_pool".
        x: the input as the op takes it.
        weight: the filter as the op takes it; None for "group_pool".
        group, stride, padding, dilation, groups, output_padding: as the op takes them.

    Returns:
        An :class:`Explanation`; print it.

    Raises:
        TypeError, ValueError: as the op would raise; an option that the op does not take.
    """
    if operation not in _OPERATIONS:
        raise ValueError(f"explain: operation must be one of {', '.join(_OPERATIONS)}, got {operation!r}")
    transposed = operation == "group_conv_transpose2d"
    if output_padding != 0 and not transposed:
        raise ValueError(f"explain: output_padding must be 0 for {operation}, got {output_padding}")
    if (dilation, groups) != (1, 1) and operation not in _BANKED:
        raise ValueError(f"explain: dilation and groups must be 1 for {operation}, got {dilation} and {groups}")
    if operation == "group_pool":
        _check_pool(operation, x, group)
        return _explanation(operation, x, pool_work("forward", x, group.name), {"backward": "backward"})
    if weight is None:
        raise TypeError(f"{operation}: weight must be a Tensor, got NoneType")
    x, weight, _ = _autocast(x, weight, None)
    if transposed:
        check_transposed(x, weight, None, group, stride, padding, output_padding)
        work = input_grad_work("group_conv2d", x, weight, group, stride)
        gradients = {"input_grad": "forward", "weight_grad": "weight_grad"}
    else:
        _check_convolution(operation, x, weight, None, group, stride, padding, dilation, groups)
        if dilation != 1 or groups != 1:
            return _bank_only(operation)
        work = forward_work(operation, x, weight, group, stride, padding)
        gradients = {"input_grad": "input_grad", "weight_grad": "weight_grad"}
    return _explanation(operation, x, work, gradients, group)


def _bank_only(operation: str) -> Explanation:
    gradients = dict.fromkeys(("input_grad", "weight_grad"), ("dense", NEEDS_BANK))
    others = {name: NEEDS_BANK for name in backends.BACKENDS if name != "dense"}
    return Explanation(operation, "dense", NEEDS_BANK, gradients, others)


def _explanation(
    operation: str, x: Tensor, work: Work, gradients: dict[str, str], group: PlanarGroup | None = None
) -> Explanation:
    """Of the work and of its gradients, each with the step that computes it; of a convolution on the group."""
    backend, reason = backends.choose(work, x)
    chosen = {name: backends.choose(work._replace(step=step), x) for name, step in gradients.items()}
    missing = {name: why for name in backends.BACKENDS if (why := backends.unavailable(name, x))}
    runs_as = "" if group is None else _runs_as(work, group, backend)
    return Explanation(operation, backend, reason, chosen, missing, runs_as)


def _runs_as(work: Work, group: PlanarGroup, backend: str) -> str:
    """The lattice layer that a convolution on the group is, and what that saves; empty for lattice groups."""
    if group.is_lattice:
        return ""
    lattice = group.lattice
    runs_as = f"{group.name} runs as {lattice.name} with {group.coset_count} x the channels"
    if work.step == "input_grad" and work.stride > 1:  # zeros between the pixels may cost what the irreps save
        return runs_as
    saving = lattice.order**2 / sum(irrep.multiplications for irrep in lattice.irreps)
    saves = work.operation == "group_conv2d" and backend == "cpu" and saving > 1
    multiplications = f"{saving:.3g} times fewer multiplications than" if saves else "as many multiplications as"
    return f"{runs_as}: {multiplications} its dense bank"
