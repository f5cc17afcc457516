"""gconv::group_pool: the maximum or mean of a map (N, C, |G|, H, W) over each coset, (N, C, cosets, H, W).

The maximum is linear once the winners are known, so its backward is a scatter by their index and the backward of that
a read of the same index: group_pool, group_pool_backward and group_pool_select are closed under differentiation.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from gconv import backends
from gconv.backends import Work
from gconv.groups import Cosets, PlanarGroup, group_from_name
from gconv.layout import canonical, empty
from gconv.ops._shortcut import recorded, shortened
from gconv.ops._vmap import batching_rule

_OPTIONS = "str group, int[] subgroup, str mode, str backend"

torch.library.define("gconv::group_pool", f"(Tensor x, {_OPTIONS}) -> (Tensor, Tensor)")
torch.library.define("gconv::group_pool_backward", f"(Tensor grad_out, Tensor index, {_OPTIONS}) -> Tensor")
torch.library.define("gconv::group_pool_select", f"(Tensor x, Tensor index, {_OPTIONS}) -> Tensor")

_ops = torch.ops.gconv


@cache
def _cosets(group: PlanarGroup, subgroup: tuple[int, ...]) -> Cosets:
    return group.cosets(subgroup)


def pool_work(step: str, x: Tensor, group: str) -> Work:
    """What a step of group_pool on this tensor does; the map or, in its backward, the pooled one.

    A group off the pixel grid counts as its lattice subgroup with more channels, which moves as many bytes.
    """
    (batch, channels, _, height, width), planar_group = x.shape, group_from_name(group)
    channels *= planar_group.coset_count
    return Work("group_pool", step, planar_group.lattice.name, x.dtype, channels, 1, 1, 1, batch, height, width)


def _pooled_shape(x: Tensor, group: PlanarGroup, subgroup: list[int]) -> tuple[int, ...]:
    return (*x.shape[:2], group.order // len(subgroup), *x.shape[3:])


def _pool(x: Tensor, group: str, subgroup: list[int], mode: str, backend: str) -> tuple[Tensor, Tensor]:
    planar_group = group_from_name(group)
    run = backends.resolve(backend, pool_work("forward", x, group), x)
    out, index = run.group_pool(x, _cosets(planar_group, tuple(subgroup)), mode)
    return canonical(out), canonical(index) if mode == "max" else index


@torch.library.register_fake("gconv::group_pool")
def _(x: Tensor, group: str, subgroup: list[int], mode: str, backend: str) -> tuple[Tensor, Tensor]:
    shape = _pooled_shape(x, group_from_name(group), subgroup)
    index = empty(x, shape, torch.uint8) if mode == "max" else x.new_empty((0,), dtype=torch.uint8)
    return empty(x, shape), index


def _scatter(grad_out: Tensor, index: Tensor, group: str, subgroup: list[int], mode: str, backend: str) -> Tensor:
    planar_group = group_from_name(group)
    run = backends.resolve(backend, pool_work("backward", grad_out, group), grad_out)
    return canonical(run.group_pool_backward(grad_out, index, _cosets(planar_group, tuple(subgroup)), mode))


@torch.library.register_fake("gconv::group_pool_backward")
def _(grad_out: Tensor, index: Tensor, group: str, subgroup: list[int], mode: str, backend: str) -> Tensor:
    return empty(grad_out, (*grad_out.shape[:2], group_from_name(group).order, *grad_out.shape[3:]))


def _select(x: Tensor, index: Tensor, group: str, subgroup: list[int], mode: str, backend: str) -> Tensor:
    planar_group = group_from_name(group)
    run = backends.resolve(backend, pool_work("select", x, group), x)
    cosets = _cosets(planar_group, tuple(subgroup))
    return canonical(run.group_pool(x, cosets, mode)[0] if mode == "mean" else run.group_pool_select(x, index, cosets))


@torch.library.register_fake("gconv::group_pool_select")
def _(x: Tensor, index: Tensor, group: str, subgroup: list[int], mode: str, backend: str) -> Tensor:
    return empty(x, _pooled_shape(x, group_from_name(group), subgroup))


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, *ctx.options = inputs
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _save_index(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, *ctx.options = inputs
    ctx.save_for_backward(index)


def _pool_formula(ctx: Any, grad_out: Tensor, _grad_index: Tensor | None) -> tuple[Tensor | None, ...]:
    return _backward(grad_out, *ctx.saved_tensors, *ctx.options), None, None, None, None


def _scatter_formula(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
    return _ops.group_pool_select(grad_x, *ctx.saved_tensors, *ctx.options), None, None, None, None, None


def _select_formula(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return _ops.group_pool_backward(grad_out, *ctx.saved_tensors, *ctx.options), None, None, None, None, None


for _name, _kernel, _maps in (
    ("group_pool", _pool, (0,)),
    ("group_pool_backward", _scatter, (0, 1)),
    ("group_pool_select", _select, (0, 1)),
):
    torch.library.impl(f"gconv::{_name}", "CompositeExplicitAutograd")(_kernel)
    torch.library.register_vmap(f"gconv::{_name}", batching_rule(getattr(_ops, _name), _maps))
torch.library.register_autograd("gconv::group_pool", _pool_formula, setup_context=_save_pool)
torch.library.register_autograd("gconv::group_pool_backward", _scatter_formula, setup_context=_save_index)
torch.library.register_autograd("gconv::group_pool_select", _select_formula, setup_context=_save_index)

_backward = shortened(_ops.group_pool_backward, _scatter)
# The op on tensors: (x, group, subgroup, mode, backend) -> (pooled, index).
pool = shortened(_ops.group_pool, _pool, recorded(_pool, _save_pool, _pool_formula))
