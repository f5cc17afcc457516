"""Models of escnn (Cesa, Lang & Weiler 2022, https://github.com/QUVA-Lab/escnn) as gconv models.

Both let an element act as (L_g f)(p, h) = f(g^-1 p, g^-1 h) and turn counter-clockwise. They differ in the order of a
regular field's channels: escnn counts r^k f^j, reflect first, with a reflection in an axis of its gspace; gconv counts
F^m R^r, turn first, F flipping the rows. Elements are matched by how they move points.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gconv.groups import CyclicGroup, DihedralGroup, Matrix, PlanarGroup
from gconv.nn.batch_norm import GroupBatchNorm2d
from gconv.nn.conv import GroupConv2d, LiftingConv2d
from gconv.nn.padding import PADDING_MODES
from gconv.nn.pool import GroupPool
from gconv.steerable import Ring, sampled_basis


def from_escnn(module: nn.Module) -> nn.Module:
    """The same function as a model of gconv layers.

    Takes torch tensors in place of escnn's GeometricTensor: trivial fields as images (N, C, H, W), regular fields as
    maps (N, C, |G|, H, W), the group axis in gconv's order of elements. On the pixel grid the filters are escnn's,
    expanded, and every filter that the group allows can be learned from there on, not only those of escnn's smooth
    basis; off the grid the layers have coefficients in the same basis, as many as escnn's into regular fields.

    Args:
        module: an R2Conv between types of regular or of trivial fields, GroupPooling, InnerBatchNorm or ReLU on such a
            type, or a SequentialModule of these, nested. Its group is C_n or D_n on the plane with n up to 16.

    Returns:
        The model, in the mode (train or eval), dtype and device of the old one, with its own weights: LiftingConv2d or
        GroupConv2d (behind them GroupPool(mode="mean") for trivial fields), GroupPool, GroupBatchNorm2d, ReLU,
        Sequential with the names of the old one.

    Raises:
        TypeError: any other module.
        ValueError: other fields, or several kinds in one type; an option that gconv's layers do not have; a group
            whose elements are not gconv's (D_n of odd n must flip rows: ``flipRot2dOnR2(3, axis=0.0)``); off the pixel
            grid, filters in float16 or bfloat16, too coarse to tell the coefficients that they were made of.
    """
    kind = type(module).__name__ if type(module).__module__.startswith("escnn.") else None
    if kind not in _CONVERSIONS:
        raise TypeError(
            f"from_escnn: module must be one of escnn's {', '.join(_CONVERSIONS)}, got {type(module).__name__}"
        )
    return _CONVERSIONS[kind](module).train(module.training)


def _sequential(module: Any) -> nn.Module:
    return nn.Sequential(OrderedDict((name, from_escnn(child)) for name, child in module.named_children()))


@torch.no_grad()
def _convolution(module: Any) -> nn.Module:
    if not isinstance(module.padding, int):
        raise ValueError(f"from_escnn: R2Conv must have one padding for both axes, got {module.padding}")
    if module.padding_mode not in PADDING_MODES:
        raise ValueError(f"from_escnn: R2Conv must have a padding_mode of {PADDING_MODES}, got {module.padding_mode!r}")
    bank, bias, group = _bank(module)
    if not group.is_lattice and bank.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"from_escnn: R2Conv must be float32 or float64 on {group.name}, off the pixel grid, got {bank.dtype}"
        )
    basis = None if group.is_lattice else _rings(module)
    layer = (GroupConv2d if bank.dim() == 6 else LiftingConv2d)(
        len(module.in_type),
        len(module.out_type),
        module.kernel_size,
        group=group,
        stride=module.stride,
        padding=module.padding,
        padding_mode=module.padding_mode,
        dilation=module.dilation,
        groups=module.groups,
        bias=bias is not None,
        basis=basis,
    ).to(bank)
    spatial = _spatial_filter(bank, group)
    layer.weight.copy_(spatial if basis is None else _coefficients(bank, group, basis))
    if (layer.spatial_filter() - spatial).abs().max() > 1e-5 * spatial.abs().max():
        raise ValueError(f"from_escnn: R2Conv must have filters in the span of the rings {basis}, got {module}")
    if bias is not None and layer.bias is not None:
        layer.bias.copy_(bias)
    # A bank into trivial fields is the same seen from every element, and so is the layer's output.
    return layer if _is_regular(module.out_type) else nn.Sequential(layer, GroupPool(group=group, mode="mean"))


def _bank(module: Any) -> tuple[Tensor, Tensor | None, PlanarGroup]:
    """The expanded filters over the group's elements, in gconv's order, the bias per field, and the group.

    Returns:
        (C_out, |G|, C_in / groups, |G|, K, K), or (C_out, |G|, C_in / groups, K, K) of a module on images.
    """
    group, positions = _group(module.space)
    bank, bias = module.expand_parameters()
    c_out, c_in = len(module.out_type), len(module.in_type) // module.groups
    bank = bank.unflatten(1, (c_in, -1)).unflatten(0, (c_out, -1))
    bank = bank[:, positions] if _is_regular(module.out_type) else bank.repeat_interleave(group.order, dim=1)
    bank = bank[:, :, :, positions] if _is_regular(module.in_type) else bank.squeeze(3)
    return bank, None if bias is None else bias.unflatten(0, (c_out, -1))[:, 0], group


def _spatial_filter(bank: Tensor, group: PlanarGroup) -> Tensor:
    """The filter that gconv's op takes: on the lattice subgroup H with m cosets as channels (gconv/cosets.py).

    Args:
        bank: as :func:`_bank` gives it.

    Returns:
        (m * C_out, m * C_in, |H|, K, K), or (m * C_out, C_in, K, K) on images.
    """
    rows = bank[:, : group.coset_count]  # element h * m + c, and h = 0
    if bank.dim() == 5:
        return rows.transpose(0, 1).flatten(0, 1)
    columns = rows.unflatten(3, (group.lattice.order, group.coset_count))  # (C_out, c, C_in, h', c', K, K)
    return columns.permute(1, 0, 4, 2, 3, 5, 6).flatten(2, 3).flatten(0, 1)


def _rings(module: Any) -> list[Ring]:
    """The rings of the basis in use, in steps of the filter's taps, each with all frequencies up to its largest."""
    largest: dict[tuple[float, float], int] = {}
    for function in module.basisexpansion.get_basis_info():
        radius, sigma = (round(function[key] / module.dilation, 6) for key in ("radius", "sigma"))
        largest[radius, sigma] = max(largest.get((radius, sigma), 0), function["irrep:frequency"])
    return [Ring(radius, sigma, k) for (radius, sigma), k in sorted(largest.items())]


def _coefficients(bank: Tensor, group: PlanarGroup, basis: Sequence[Ring]) -> Tensor:
    """a(t, b) of B_{c, ct}(d) = sum_b a(t, b) psi_b(c^-1 d) over all cosets c and taps d, by least squares.

    Returns:
        (C_out, C_in, |G|, B), or (C_out, C_in, B) on images.
    """
    turned = [bank[:, c] for c in range(group.coset_count)]  # (C_out, C_in[, |G|], K, K)
    if bank.dim() == 6:
        turned = [plane[:, :, [group.product(c, t) for t in group.elements]] for c, plane in enumerate(turned)]
    target = torch.stack(turned).double().movedim((-2, -1), (1, 2)).flatten(0, 2)  # (m K K, C_out, C_in[, |G|])
    functions = sampled_basis(group, bank.shape[-1], tuple(basis)).to(bank.device)  # (m, B, K, K)
    found = torch.linalg.lstsq(functions.transpose(0, 1).flatten(1).t(), target.flatten(1)).solution
    return found.t().unflatten(0, target.shape[1:])


def _pool(module: Any) -> nn.Module:
    return GroupPool(group=_group(module.space)[0]) if _is_regular(module.in_type) else nn.Identity()


def _batch_norm(module: Any) -> nn.Module:
    regular = _is_regular(module.in_type)
    source = getattr(module, f"batch_norm_[{module.in_type.representations[0].size}]")
    norm = (GroupBatchNorm2d if regular else nn.BatchNorm2d)(
        source.num_features, source.eps, source.momentum, source.affine, source.track_running_stats
    )
    norm.load_state_dict({key: value.clone() for key, value in source.state_dict().items()}, assign=True)
    return norm


def _relu(module: Any) -> nn.Module:
    _is_regular(module.in_type)
    return nn.ReLU(inplace=module._inplace)


def _is_regular(field_type: Any) -> bool:
    """Whether the fields are regular, False if they are trivial."""
    kinds = {_kind(field) for field in field_type.representations}
    if kinds not in ({"regular"}, {"trivial"}):
        raise ValueError(f"from_escnn: a field type must be all regular or all trivial, got {field_type}")
    return kinds == {"regular"}


def _kind(field: Any) -> str:
    """Of C1 the regular representation is trivial, too, and a map with one orientation here."""
    return "trivial" if field.is_trivial() and field.name != "regular" else field.name


def _group(space: Any) -> tuple[PlanarGroup, list[int]]:
    """The group of a gspace, and for each of its elements the position in escnn's regular field."""
    rotations, flips = space.rotations_order, space.flips_order
    if not 1 <= rotations <= 16:
        raise ValueError(
            f"from_escnn: module must be on a group of 1 to 16 rotations, with or without flips, got {space}"
        )
    group = (DihedralGroup if flips else CyclicGroup)(rotations)
    theirs = torch.tensor([_on_rows_and_columns(space.basespace_action(g)) for g in space.fibergroup.elements])
    ours = torch.tensor([group.matrix(g) for g in group.elements], dtype=theirs.dtype)
    errors, positions = (ours[:, None] - theirs).abs().amax((2, 3)).min(1)
    if errors.max() > 1e-6:
        raise ValueError(
            f"from_escnn: module must be on a group that moves pixels as gconv's {group.name} does, whose reflections "
            f"include the flip of rows (axis=0.0), got {space}"
        )
    return group, positions.tolist()


def _on_rows_and_columns(matrix: Any) -> Matrix:
    """A matrix on (x, y), y upwards, as one on (row, column) offsets, rows downwards."""
    (xx, xy), (yx, yy) = matrix.tolist()
    return (yy, -yx), (-xy, xx)


_CONVERSIONS = {
    "R2Conv": _convolution,
    "GroupPooling": _pool,
    "InnerBatchNorm": _batch_norm,
    "ReLU": _relu,
    "SequentialModule": _sequential,
}
