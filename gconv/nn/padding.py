"""Borders other than zeros, alike on every side, so that they commute exactly with flips and quarter turns."""

from __future__ import annotations

import torch
from torch import Tensor

PADDING_MODES = ("zeros", "circular", "reflect")


def check_padding_mode(name: str, mode: str) -> str:
    """The mode, if the layer ``name`` knows it."""
    if mode not in PADDING_MODES:
        raise ValueError(f"{name}: padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, got {mode!r}")
    return mode


def pad(name: str, x: Tensor, margin: int, mode: str) -> Tensor:
    """As torch's F.pad on H and W, for maps of any rank, keeping channels-last layouts.

    Args:
        name: the layer's, for errors.
        x: (..., H, W), checked by the caller.
        margin: pixels added on every side.
        mode: "circular" or "reflect".

    Raises:
        ValueError: the border would hold a pixel twice: margin > H or W, for "reflect" margin >= H or W.
    """
    least = margin if mode == "circular" else margin + 1
    if min(x.shape[-2:]) < least:
        raise ValueError(
            f"{name}: x must have H and W of at least {least} for padding_mode={mode!r} and padding = {margin}, "
            f"got {tuple(x.shape)}"
        )
    if margin == 0:
        return x
    for axis in (-2, -1):
        x = torch.cat(_with_borders(x, axis, margin, mode), dim=axis)
    return x


def _with_borders(x: Tensor, axis: int, margin: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    length = x.shape[axis]
    if mode == "circular":
        return x.narrow(axis, length - margin, margin), x, x.narrow(axis, 0, margin)
    before, after = x.narrow(axis, 1, margin), x.narrow(axis, length - 1 - margin, margin)
    return before.flip(axis), x, after.flip(axis)
