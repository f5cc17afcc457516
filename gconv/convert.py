"""Bridges from group layers to plain torch layers."""

from __future__ import annotations

import torch
from torch import nn

from gconv.functional import expand_filter
from gconv.nn.conv import GroupConv2d, LiftingConv2d


def to_planar(module: nn.Module) -> nn.Conv2d:
    """The torch.nn.Conv2d with the same output on flattened maps.

    ``to_planar(layer)(x.flatten(1, 2))`` equals ``layer(x).flatten(1, 2)``; a lifting layer takes the image as it is.

    Args:
        module: a LiftingConv2d or GroupConv2d.

    Returns:
        A Conv2d of C_in [* |G|] to C_out * |G| channels, channel order c * |G| + s, with its own copy of the weights.

    Raises:
        TypeError: any other module.
    """
    if not isinstance(module, LiftingConv2d | GroupConv2d):
        raise TypeError(f"to_planar: module must be a LiftingConv2d or GroupConv2d, got {type(module).__name__}")
    with torch.no_grad():
        bank = expand_filter(module.spatial_filter(), module.group)
        planar = nn.Conv2d(
            bank.shape[1],
            bank.shape[0],
            module.kernel_size,
            stride=module.stride,
            padding=module.padding,
            bias=module.bias is not None,
            device=bank.device,
            dtype=bank.dtype,
        )
        planar.weight.copy_(bank)
        if module.bias is not None and planar.bias is not None:
            planar.bias.copy_(module.bias.repeat_interleave(module.group.order))
    return planar.train(module.training)
