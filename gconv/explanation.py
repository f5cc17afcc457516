"""What an op would run on, and why."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from gconv import backends
from gconv.backends import ON_GPU, Work
from gconv.conv_transpose import check_transposed
from gconv.functional import NEEDS_BANK, _autocast, _check_convolution, _check_pool, _needs_bank
from gconv.groups import PlanarGroup
from gconv.ops import _epilogue
from gconv.ops._convolution import forward_work, input_grad_work
from gconv.ops._epilogue import Epilogue
from gconv.ops.group_pool import pool_work

_DEFAULTS = {
    "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "negative_slope": None, "pool": None
}  # fmt: skip
_OPTIONS = {
    "lifting_conv2d": ("stride", "padding", "dilation", "groups"),
    "group_conv2d": ("stride", "padding", "dilation", "groups", "negative_slope", "pool"),
    "group_conv_transpose2d": ("stride", "padding", "output_padding"),
    "group_pool": (),
}


@dataclass(frozen=True)
class Explanation:
    """Which backend ``backend=None`` means, why, and why others cannot run.

    Attributes:
        operation: the op.
        backend: what its forward pass runs on.
        reason: why.
        gradients: the same of the passes behind it: "input_grad" and "weight_grad", or "backward" of group_pool, to
            (backend, reason).
        unavailable: backend to why it cannot run the forward pass.
        runs_as: what a convolution on a group off the pixel grid comes to; empty on the grid.
        epilogue: whether ``negative_slope`` and ``pool`` are in the convolution's kernel, or why not; empty without.
    """

    operation: str
    backend: str
    reason: str
    gradients: dict[str, tuple[str, str]]
    unavailable: dict[str, str]
    runs_as: str = ""
    epilogue: str = ""

    def __str__(self) -> str:
        lines = [f"{self.operation}: {self.backend} ({self.reason})"]
        lines += [f"  {self.runs_as}"] if self.runs_as else []
        lines += [f"  negative_slope and pool: {self.epilogue}"] if self.epilogue else []
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
    negative_slope: float | None = None,
    pool: str | None = None,
) -> Explanation:
    """Which backend would run for these arguments, and why.

    Args:
        operation: "lifting_conv2d", "group_conv2d", "group_conv_transpose2d" or "group_pool".
        x: the input as the op takes it.
        weight: the filter as the op takes it; None for "group_pool".
        group, stride, padding, dilation, groups, output_padding, negative_slope, pool: as the op takes them.

    Returns:
        An :class:`Explanation`; print it.

    Raises:
        TypeError, ValueError: as the op would raise; an option that the op does not take.
    """
    if operation not in _OPTIONS:
        raise ValueError(f"explain: operation must be one of {', '.join(_OPTIONS)}, got {operation!r}")
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "output_padding": output_padding,
        "negative_slope": negative_slope,
        "pool": pool,
    }
    for name, default in _DEFAULTS.items():
        if name not in _OPTIONS[operation] and options[name] != default:
            raise ValueError(f"explain: {name} must be {default} for {operation}, got {options[name]}")
    if operation == "group_pool":
        if weight is not None:
            raise TypeError(f"explain: weight must be None for group_pool, got {type(weight).__name__}")
        _check_pool(operation, x, group)
        return _explanation(operation, x, pool_work("forward", x, group.name), {"backward": "backward"})
    if weight is None:
        raise TypeError(f"{operation}: weight must be a Tensor, got NoneType")
    epilogue = _epilogue.checked(operation, negative_slope, pool)
    x, weight, _ = _autocast(x, weight, None)
    if operation == "group_conv_transpose2d":
        check_transposed(x, weight, None, group, stride, padding, output_padding)
        work = input_grad_work("group_conv2d", x, weight, group, stride)
        gradients = {"input_grad": "forward", "weight_grad": "weight_grad"}
    else:
        bank_only = _needs_bank(operation, dilation, groups)
        _check_convolution(operation, x, weight, None, group, stride, padding, dilation, groups)
        work = forward_work(operation, x, weight, group, stride, padding)
        gradients = {"input_grad": "input_grad", "weight_grad": "weight_grad"}
        if bank_only:
            return replace(_bank_only(work, group), epilogue=_of_epilogue(epilogue, NEEDS_BANK))
        if not epilogue.empty:
            why = _epilogue.unfused(x, weight, None, group, stride, padding, epilogue, backends.AUTO)
            return replace(_explanation(operation, x, work, gradients, group), epilogue=_of_epilogue(epilogue, why))
    return _explanation(operation, x, work, gradients, group)


def _of_epilogue(epilogue: Epilogue, unfused: str | None) -> str:
    if epilogue.empty:
        return ""
    return f"ops of their own: {unfused}" if unfused else "in the convolution's kernel"


def _bank_only(work: Work, group: PlanarGroup) -> Explanation:
    gradients = dict.fromkeys(("input_grad", "weight_grad"), ("dense", NEEDS_BANK))
    others = {name: NEEDS_BANK for name in backends.BACKENDS if name != "dense"}
    return Explanation(work.operation, "dense", NEEDS_BANK, gradients, others, _runs_as(work, group, "dense"))


def _explanation(
    operation: str, x: Tensor, work: Work, gradients: dict[str, str], group: PlanarGroup | None = None
) -> Explanation:
    """Of the work and of its gradients, each with the step that computes it; of a convolution on the group."""
    backend, reason = backends.choose(work, x)
    chosen = {name: backends.choose(work._replace(step=step), x) for name, step in gradients.items()}
    missing = {name: why for name in backends.BACKENDS if (why := backends.unsuited(name, work, x))}
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
    # On GPUs a product of two complex numbers has four multiplications, on CPUs three.
    products = (i.dim**2 * i.columns if backend in ON_GPU else i.multiplications for i in lattice.irreps)
    saving = lattice.order**2 / sum(products)
    saves = work.operation == "group_conv2d" and backend in ("cpu", "triton", "cuda") and saving > 1
    multiplications = f"{saving:.3g} times fewer multiplications than" if saves else "as many multiplications as"
    return f"{runs_as}: {multiplications} its dense bank"
