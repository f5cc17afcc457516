"""Registers a convolution with its two gradients as torch ops closed under differentiation.

The three maps are bilinear, and each one's derivatives are the other two, so gradients of every order exist:

    out = conv(x, w)        dx = input_grad(dout, w)     dw = weight_grad(x, dout)
    dx  = input_grad(g, w)  dg = conv(ddx, w)            dw = weight_grad(ddx, g)
    dw  = weight_grad(x, g) dx = input_grad(g, ddw)      dg = conv(x, ddw)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gconv import backends, cosets
from gconv.backends import Work
from gconv.backends.filter_cache import FilterCache
from gconv.groups import PlanarGroup, group_from_name
from gconv.layout import canonical, empty
from gconv.ops._shortcut import recorded, shortened
from gconv.ops._vmap import batching_rule


def forward_work(operation: str, x: Tensor, weight: Tensor, group: PlanarGroup, stride: int, padding: int) -> Work:
    """What a forward pass on these operands does: on the lattice subgroup, whose filter weight is."""
    (batch, *_), (c_out, c_in, *_, size) = x.shape, weight.shape
    height, width = ((length + 2 * padding - size) // stride + 1 for length in x.shape[-2:])
    m, lattice = group.coset_count, group.lattice.name
    return Work(operation, "forward", lattice, x.dtype, c_in, c_out, size, stride, batch, height, width, m)


def input_grad_work(operation: str, grad_out: Tensor, weight: Tensor, group: PlanarGroup, stride: int) -> Work:
    (c_out, c_in, *_, size), (batch, *_, height, width) = weight.shape, grad_out.shape
    m, lattice = group.coset_count, group.lattice.name
    return Work(operation, "input_grad", lattice, weight.dtype, c_in, c_out, size, stride, batch, height, width, m)


def weight_grad_work(operation: str, x: Tensor, grad_out: Tensor, size: int, group: PlanarGroup, stride: int) -> Work:
    batch, c_out, _, height, width = grad_out.shape
    c_out, c_in, *_ = cosets.filter_shape(c_out, x.shape, size, group)
    m, lattice = group.coset_count, group.lattice.name
    return Work(operation, "weight_grad", lattice, x.dtype, c_in, c_out, size, stride, batch, height, width, m)


def run_forward(
    work: Work,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    group: PlanarGroup,
    padding: int,
    backend: str,
    cache: FilterCache | None = None,
) -> Tensor:
    """The kernel of the op; with a cache, the backends that pack filters look there first."""
    run = backends.resolve(backend, work, x)
    if cache is None or run not in backends.PACKING:
        return canonical(run.conv2d(x, weight, bias, group, work.stride, padding))
    packed = cache.packed(run, weight, group)
    return canonical(run.conv2d_packed(x, weight, packed, bias, group, work.stride, padding))


def register_convolution(name: str) -> type[torch.autograd.Function]:
    """Registers gconv::<name>, gconv::<name>_input_grad and gconv::<name>_weight_grad.

    Returns:
        The first one's kernel and autograd formula without the dispatcher, for tensors that are
        :func:`gconv.ops._shortcut.plainly_eager`. Takes the op's arguments.
    """
    library = f"gconv::{name}"
    torch.library.define(
        library, "(Tensor x, Tensor weight, Tensor? bias, str group, int stride, int padding, str backend) -> Tensor"
    )
    torch.library.define(
        f"{library}_input_grad",
        "(Tensor grad_out, Tensor weight, SymInt height, SymInt width, str group, int stride, int padding, "
        "str backend) -> Tensor",
    )
    torch.library.define(
        f"{library}_weight_grad",
        "(Tensor x, Tensor grad_out, SymInt size, str group, int stride, int padding, str backend) -> Tensor",
    )

    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, group: str, stride: int, padding: int, backend: str
    ) -> Tensor:
        planar_group = group_from_name(group)
        work = forward_work(name, x, weight, planar_group, stride, padding)
        return run_forward(work, x, weight, bias, planar_group, padding, backend)

    def forward_input_grad(
        grad_out: Tensor,
        weight: Tensor,
        height: int,
        width: int,
        group: str,
        stride: int,
        padding: int,
        backend: str,
    ) -> Tensor:
        planar_group = group_from_name(group)
        run = backends.resolve(backend, input_grad_work(name, grad_out, weight, planar_group, stride), grad_out)
        return canonical(run.conv2d_input_grad(grad_out, weight, planar_group, height, width, stride, padding))

    def forward_weight_grad(
        x: Tensor, grad_out: Tensor, size: int, group: str, stride: int, padding: int, backend: str
    ) -> Tensor:
        planar_group = group_from_name(group)
        run = backends.resolve(backend, weight_grad_work(name, x, grad_out, size, planar_group, stride), x)
        return run.conv2d_weight_grad(x, grad_out, planar_group, size, stride, padding).contiguous()

    ops = torch.ops.gconv
    convolve = shortened(getattr(ops, name), forward)
    input_grad = shortened(getattr(ops, f"{name}_input_grad"), forward_input_grad)
    weight_grad = shortened(getattr(ops, f"{name}_weight_grad"), forward_weight_grad)

    def fake(
        x: Tensor, weight: Tensor, bias: Tensor | None, group: str, stride: int, padding: int, backend: str
    ) -> Tensor:
        size = weight.shape[-1]
        height, width = ((length + 2 * padding - size) // stride + 1 for length in x.shape[-2:])
        planar_group = group_from_name(group)
        c_out = weight.shape[0] // planar_group.coset_count
        return empty(x, (x.shape[0], c_out, planar_group.order, height, width))

    def fake_input_grad(
        grad_out: Tensor,
        weight: Tensor,
        height: int,
        width: int,
        group: str,
        stride: int,
        padding: int,
        backend: str,
    ) -> Tensor:
        shape = cosets.input_shape(weight, group_from_name(group), grad_out.shape[0], height, width)
        return empty(grad_out, shape)

    def fake_weight_grad(
        x: Tensor, grad_out: Tensor, size: int, group: str, stride: int, padding: int, backend: str
    ) -> Tensor:
        return x.new_empty(cosets.filter_shape(grad_out.shape[1], x.shape, size, group_from_name(group)))

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, *options = inputs
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.options = bias is not None, options

    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_x = input_grad(grad_out, weight, *x.shape[-2:], *ctx.options) if needs_x else None
        grad_weight = weight_grad(x, grad_out, weight.shape[-1], *ctx.options) if needs_weight else None
        grad_bias = grad_out.sum((0, 2, 3, 4)) if ctx.has_bias and needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None, None

    def save_input_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad_out, weight, _, _, *options = inputs
        ctx.save_for_backward(grad_out, weight)
        ctx.options = options

    def backward_input_grad(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
        grad_out, weight = ctx.saved_tensors
        needs_grad_out, needs_weight = ctx.needs_input_grad[:2]
        grad_grad_out = convolve(grad_x, weight, None, *ctx.options) if needs_grad_out else None
        grad_weight = weight_grad(grad_x, grad_out, weight.shape[-1], *ctx.options) if needs_weight else None
        return grad_grad_out, grad_weight, None, None, None, None, None, None

    def save_weight_grad(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, grad_out, _, *options = inputs
        ctx.save_for_backward(x, grad_out)
        ctx.options = options

    def backward_weight_grad(ctx: Any, grad_weight: Tensor) -> tuple[Tensor | None, ...]:
        x, grad_out = ctx.saved_tensors
        needs_x, needs_grad_out = ctx.needs_input_grad[:2]
        grad_x = input_grad(grad_out, grad_weight, *x.shape[-2:], *ctx.options) if needs_x else None
        grad_grad_out = convolve(x, grad_weight, None, *ctx.options) if needs_grad_out else None
        return grad_x, grad_grad_out, None, None, None, None, None

    for suffix, kernel, shape, setup, formula, maps in (
        ("", forward, fake, save, backward, (0,)),
        ("_input_grad", forward_input_grad, fake_input_grad, save_input_grad, backward_input_grad, (0,)),
        ("_weight_grad", forward_weight_grad, fake_weight_grad, save_weight_grad, backward_weight_grad, ()),
    ):
        torch.library.impl(library + suffix, "CompositeExplicitAutograd")(kernel)
        torch.library.register_fake(library + suffix, shape)
        torch.library.register_autograd(library + suffix, formula, setup_context=setup)
        torch.library.register_vmap(library + suffix, batching_rule(getattr(ops, name + suffix), maps))
    return recorded(forward, save, backward)
