"""Planar functions on feature maps: each orientation is an image of its own."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gconv.ops._tracing import refuse_symbols


def per_orientation(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a planar function to every orientation of a feature map; an image is passed as it is.

    A map in torch.channels_last_3d layout is seen as (N * |G|, C, H, W) in channels_last layout without a copy.

    Args:
        function: (M, C, H, W) -> (M, C', H', W'), the same for every orientation.
        x: (N, C, |G|, H, W) or (N, C, H, W).

    Returns:
        (N, C', |G|, H', W') or (N, C', H', W').

    Raises:
        ValueError: any other rank.
    """
    refuse_symbols("per_orientation", x)
    if x.dim() == 4:
        return function(x)
    if x.dim() != 5:
        raise ValueError(f"per_orientation: x must be (N, C, H, W) or (N, C, |G|, H, W), got {tuple(x.shape)}")
    n, _, order = x.shape[:3]
    return function(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (n, order)).transpose(1, 2)
