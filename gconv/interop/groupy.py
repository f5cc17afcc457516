"""GrouPy's weights (Cohen & Welling 2016, https://github.com/tscohen/GrouPy), to and from gconv's layers.

The numbers are the same; only shapes and names differ. GrouPy writes an element of p4m as M^m R^r on (row, column)
offsets, with R = [[0, -1], [1, 0]] and M = diag(-1, 1), and counts it 4 m + r (groupy/garray/p4m_array.py,
groupy/gfunc/p4mfunc_array.py): that is gconv's D4, element for element, and without m its C4. Its filter is that of the
output element e, moved to output s as w(s^-1 .) and correlated (groupy/gconv/make_gconv_indices.py,
groupy/gconv/chainer_gconv/splitgconv2d.py), even filters of p4 about the middle of their window: gconv's definition.

| GrouPy                | gconv                    | weight there             | weight here              |
|-----------------------|--------------------------|--------------------------|--------------------------|
| P4ConvZ2, P4MConvZ2   | LiftingConv2d, C4, D4    | (C_out, C_in, 1, K, K)   | (C_out, C_in, K, K)      |
| P4ConvP4, P4MConvP4M  | GroupConv2d, C4, D4      | (C_out, C_in, |G|, K, K) | (C_out, C_in, |G|, K, K) |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gconv.nn.conv import GroupConv2d, LiftingConv2d
from gconv.nn.conv_transpose import GroupConvTranspose2d
from gconv.nn.identity import EXTRA_STATE, read_identity, write_identity

_CHAINER_NAMES = {"W": "weight", "b": "bias"}
_GROUPS = {4: "C4", 8: "D4"}  # GrouPy's p4 and p4m, by order


def from_groupy(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """A GrouPy network's parameters for the gconv network of the same structure.

    Its feature maps are (N, C, |G|, H, W) as here, and torch's BatchNorm3d on them is gconv.nn.GroupBatchNorm2d.

    Args:
        state_dict: of GrouPy's PyTorch layers (names ``weight``, ``bias``), or the arrays of an .npz file of its
            Chainer layers (names ``W``, ``b``, parts separated by "/", index tables ``inds``). The names of Chainer's
            batch norms (``gamma``, ``beta``, ``avg_mean``, ``avg_var``) stay as they are.

    Returns:
        Tensors for ``load_state_dict``, sharing memory with those given: filters (C_out, C_in, 1, K, K) lose their axis
        of length one, Chainer's names become torch's, its index tables are left out, and all else stays. Filters come
        with the name of their group, which load_state_dict checks: C4 or D4, as |G| of the network's group filters is.

    Raises:
        TypeError: a value is neither a Tensor nor an array.
        ValueError: a filter mask, which gconv's layers do not have.
    """
    converted: dict[str, Tensor] = {}
    of_groups: dict[str, int] = {}  # |G| by scope
    for key, value in state_dict.items():
        *scope, name = key.replace("/", ".").split(".")
        if name == "filter_mask":
            raise ValueError(f"from_groupy: state_dict must be without filter masks, got {key!r}; multiply them in")
        if name == "inds":
            continue
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, RuntimeError) as error:
            raise TypeError(
                f"from_groupy: state_dict must hold tensors or arrays, got {type(value).__name__} at {key!r}"
            ) from error
        prefix, name = "".join(f"{part}." for part in scope), _CHAINER_NAMES.get(name, name)
        if name == "weight" and tensor.dim() == 5:
            of_groups[prefix] = tensor.shape[2]
        converted[prefix + name] = tensor.squeeze(2) if of_groups.get(prefix) == 1 and name == "weight" else tensor
    return converted | _identities(of_groups)


def _identities(orders: Mapping[str, int]) -> dict[str, Tensor]:
    """What the layers' state_dicts say of their groups; lifting layers, of order 1, are on the network's one group."""
    of_network = {order for order in orders.values() if order in _GROUPS}
    found = {}
    for prefix, order in orders.items():
        if order == 1 and len(of_network) == 1:
            (order,) = of_network
        if order in _GROUPS:
            found[prefix + EXTRA_STATE] = write_identity(_GROUPS[order])
    return found


def to_groupy(source: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters for the network of GrouPy's PyTorch layers with the same structure.

    Args:
        source: a module whose lifting and group layers are on C4 or D4, or a state_dict of one with pixels for weights.
            A state_dict does not tell a lifting filter from one of torch's Conv2d: all of its filters of four axes are
            taken for lifting filters.

    Returns:
        Tensors for ``load_state_dict`` there, sharing memory with those given. Parametrised weights are as applied,
        steerable ones as filters.

    Raises:
        TypeError: source is neither, or the state_dict holds something else than tensors.
        ValueError: a layer that GrouPy does not have: transposed, dilated, in groups of channels, not padded with
            zeros, on another group, or on D4 with even K.
    """
    if isinstance(source, nn.Module):
        return _from_module(source)
    if not isinstance(source, Mapping):
        raise TypeError(f"to_groupy: source must be a Module or a state_dict, got {type(source).__name__}")
    for key, value in source.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"to_groupy: source must hold tensors, got {type(value).__name__} at {key!r}")
        if key.endswith(EXTRA_STATE) and (saved := read_identity(value)) not in _GROUPS.values():
            raise ValueError(
                f"to_groupy: source must hold layers on C4 or D4 with pixels for weights, got {saved} at {key!r}"
            )
    plain = {key: value for key, value in source.items() if not key.endswith(EXTRA_STATE)}
    return {key: _with_group_axis(value) if value.dim() == 4 else value for key, value in plain.items()}


def _from_module(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    filters: dict[nn.Module, Tensor] = {}  # once per layer: in training mode spectral norms differ from call to call
    for path, layer in module.named_modules(remove_duplicate=False):
        if not isinstance(layer, LiftingConv2d | GroupConv2d | GroupConvTranspose2d):
            continue
        if not _is_groupys(layer):
            raise ValueError(
                "to_groupy: source must have plain lifting and group layers on C4, or on D4 with odd K, "
                f"got {layer} at {path or 'its root'!r}"
            )
        prefix = f"{path}." if path else ""
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        if layer not in filters:
            filters[layer] = layer.spatial_filter().detach()
        state[f"{prefix}weight"] = _with_group_axis(filters[layer]) if layer.lifting else filters[layer]
        if layer.bias is not None:
            state[f"{prefix}bias"] = layer.bias.detach()
    return dict(state)


def _is_groupys(layer: LiftingConv2d | GroupConv2d | GroupConvTranspose2d) -> bool:
    """Whether GrouPy has such a layer."""
    plain = not layer.transposed and layer.dilation == layer.groups == 1 and layer.padding_mode == "zeros"
    return plain and (layer.group.name == "C4" or (layer.group.name == "D4" and layer.kernel_size % 2 == 1))


def _with_group_axis(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2)
