"""Cases of group_pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from measure import OURS, Benchmark, Case, Contest, Run, Setting, run_benchmark
from torch import Tensor

import gconv

OP = "group_pool"
SHAPES = (("C4", 16, 28), ("C4", 64, 28), ("D4", 8, 28), ("D4", 32, 28))
CASES = [
    Case(
        OP,
        "pool",
        group,
        c,
        c,
        height,
        work,
        mode=mode,
        quick=(group, c) in (("C4", 64), ("D4", 8)),
        memory=mode == "max" and c >= 32,
    )
    for group, c, height in SHAPES
    for mode in ("max", "mean")
    for work in ("forward", "backward")
]
CASES += [
    Case(OP, "gpu pool", group, c, c, 56, work, batch=512, mode=mode, dtype=dtype)
    for dtype in ("bfloat16", "float16", "float32")
    for group, c in (("C4", 64), ("D4", 32))
    for mode in ("max", "mean")
    for work in ("forward", "backward")
    if dtype != "float16" or mode == "max"
]
Pool = Callable[[Tensor], Tensor]


def contest(case: Case, setting: Setting) -> Contest:
    """group_pool against a copy of as many bytes, and against torch's reduction in both memory formats."""
    x, grad_out = operands(case, setting)
    bytes_moved = traffic(case)
    torch_pool = partial(pool_by_torch, mode=case.mode)
    reductions = {
        "NHWC": working(torch_pool, x, grad_out, case.work),
        "NCHW": working(torch_pool, x.detach().contiguous(), grad_out.contiguous(), case.work),
    }
    rivals = {"copy": {"": copy_of(bytes_moved, setting.device)}, "torch": reductions}
    run = working(pooling(case, setting), x.detach(), grad_out, case.work)
    held = x.nbytes if case.work == "forward" else grad_out.nbytes
    return Contest(
        run,
        rivals,
        check=lambda: errors(case, setting),
        traffic=bytes_moved,
        operands={OURS: held, "torch": held},
    )


def operands(case: Case, setting: Setting) -> tuple[Tensor, Tensor]:
    """The map and the gradient of the pooled map, normal and seeded, channels last."""
    rng = torch.Generator(setting.device).manual_seed(0)
    order = gconv.group_from_name(case.group).order

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=setting.device).to(case.torch_dtype)

    x = draw(case.batch, case.c_in, order, case.height, case.height)
    grad_out = draw(case.batch, case.c_in, case.height, case.height)
    last, last_3d = torch.channels_last, torch.channels_last_3d
    return x.contiguous(memory_format=last_3d), grad_out.contiguous(memory_format=last)


def pooling(case: Case, setting: Setting) -> Pool:
    group = gconv.group_from_name(case.group)
    return lambda x: gconv.group_pool(x, group=group, mode=case.mode, backend=setting.backend)


def pool_by_torch(x: Tensor, mode: str) -> Tensor:
    return x.max(dim=2).values if mode == "max" else x.mean(dim=2)


def working(pool: Pool, x: Tensor, grad_out: Tensor, work: str) -> Run:
    """A run of one direction; the graph of a backward pass is recorded beforehand."""
    if work == "forward":

        def run() -> object:
            with torch.no_grad():
                return pool(x)

        return run
    leaf = x.detach().requires_grad_()
    out = pool(leaf)
    return lambda: torch.autograd.grad(out, leaf, grad_out, retain_graph=True)


def traffic(case: Case) -> int:
    """Bytes read and written: |G| planes on one side, one plane on the other, and for max one byte per winner."""
    order = gconv.group_from_name(case.group).order
    index = 1 if case.mode == "max" else 0
    return case.batch * case.c_in * case.height**2 * (case.torch_dtype.itemsize * (order + 1) + index)


def copy_of(bytes_moved: int, device: str) -> Run:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.rand(bytes_moved // 8, device=device)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def errors(case: Case, setting: Setting) -> dict[str, float]:
    """Largest error of value and gradient over its bound. max and the gradients are exact; mean adds |G| - 1 times."""
    x, grad_out = operands(case, setting)
    order = x.shape[2]
    maps = []
    for pool, leaf in (
        (pooling(case, setting), x.detach().requires_grad_()),
        (partial(pool_by_torch, mode=case.mode), x.double().requires_grad_()),
    ):
        out = pool(leaf)
        maps.append((out.detach(), *torch.autograd.grad(out, leaf, grad_out.to(out.dtype))))
    (found, grad), (true, true_grad) = maps
    bound = order * torch.finfo(found.dtype).eps * x.abs().mean(dim=2)
    wrong = (found.double() - true).abs()
    return {
        "forward": float((wrong / bound).nan_to_num(nan=math.inf).max()),
        "grad_x": 0.0 if torch.equal(grad.double(), true_grad) else math.inf,
    }


def test_speed(benchmark: Benchmark, case: Case, setting: Setting) -> None:
    run_benchmark(benchmark, contest(case, setting))
