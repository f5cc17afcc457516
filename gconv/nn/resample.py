"""Up- and down-sampling by two that commutes exactly with flips and quarter turns, whatever the size.

A window of stride 2 must be centred alike from both ends of the axis: two (or four) pixels for an even length, three
with one pixel of padding for an odd one. A 2 x 2 window on 7 pixels drops the last row and column and is not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gconv.nn.orientation import per_orientation
from gconv.ops._tracing import refuse_fixed_sizes

_BINOMIAL = {2: (1.0, 1.0), 3: (1.0, 2.0, 1.0), 4: (1.0, 3.0, 3.0, 1.0)}


def _blur(x: Tensor, taps: tuple[int, int], stride: int) -> Tensor:
    """Depthwise binomial filter (Zhang 2019, arXiv 1904.11486), one pixel of replicated border on every side."""
    rows, columns = (_binomial(size, x) for size in taps)
    weight = torch.outer(rows / rows.sum(), columns / columns.sum()).expand(x.shape[1], 1, *taps)
    return F.conv2d(_replicate_border(x), weight, stride=stride, groups=x.shape[1])


def _binomial(size: int, like: Tensor) -> Tensor:
    """Made on the device: a copy from the host would wait for it."""
    return torch.stack([torch.full((), tap, dtype=like.dtype, device=like.device) for tap in _BINOMIAL[size]])


def _replicate_border(x: Tensor) -> Tensor:
    """F.pad's mode "replicate", whose backward has no channels-last form that torch.compile gets right."""
    x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], dim=-2)
    return torch.cat([x[..., :1], x, x[..., -1:]], dim=-1)


def _average_down(x: Tensor) -> Tensor:
    odd = [length % 2 for length in x.shape[-2:]]
    return F.avg_pool2d(x, [2 + o for o in odd], stride=2, padding=odd, count_include_pad=False)


def _max_down(x: Tensor) -> Tensor:
    odd = [length % 2 for length in x.shape[-2:]]
    return F.max_pool2d(x, [2 + o for o in odd], stride=2, padding=odd)


def _blur_down(x: Tensor) -> Tensor:
    refuse_fixed_sizes("GroupDownsample2d", "the filter for an even or an odd length")
    height, width = (3 if length % 2 else 4 for length in x.shape[-2:])
    return _blur(x, (height, width), stride=2)


def _nearest_up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _blur_up(x: Tensor) -> Tensor:
    return _blur(_nearest_up(x), (3, 3), stride=1)


class _Resample(nn.Module):
    modes: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]]

    def __init__(self, mode: str) -> None:
        super().__init__()
        if mode not in self.modes:
            raise ValueError(f"{type(self).__name__}: mode must be one of {list(self.modes)}, got {mode!r}")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, |G|, H, W) or (N, C, H, W), H and W halved (rounded up) or doubled."""
        return per_orientation(self.modes[self.mode], x)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


class GroupDownsample2d(_Resample):
    """Halves H and W, rounding up: (N, C, |G|, H, W) -> (N, C, |G|, ceil(H/2), ceil(W/2)); images too.

    Args:
        mode: "average" (2 x 2; 3 x 3 on odd lengths, border pixels averaged over fewer), "max" (the same windows; of
            equal pixels the first takes the gradient) or "blur" (binomial).
    """

    modes: ClassVar = {"average": _average_down, "max": _max_down, "blur": _blur_down}

    def __init__(self, mode: str = "average") -> None:
        super().__init__(mode)


class GroupUpsample2d(_Resample):
    """Doubles H and W: (N, C, |G|, H, W) -> (N, C, |G|, 2H, 2W); images too.

    Args:
        mode: "nearest", or "blur" (nearest and then a 3 x 3 binomial filter).
    """

    modes: ClassVar = {"nearest": _nearest_up, "blur": _blur_up}

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__(mode)
