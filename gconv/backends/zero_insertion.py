"""Undoes the stride of a convolution in its input gradient: what the backends with kernels of stride 1 share."""

from __future__ import annotations

from torch import Tensor

from gconv import layout


def unit_stride(grad_out: Tensor, size: int, height: int, width: int, stride: int, padding: int) -> tuple[Tensor, int]:
    """Operands of a convolution of stride 1 whose input gradient is that of the given one.

    Where the stride is above 1 or the padding is wider than the window, the pixels are moved apart over zeros that
    reach as far as any window that touches the input.

    Args:
        grad_out: (N, C_out, |G|, H', W') gradient of the output.
        size: K, of a K x K filter.
        height, width: H and W of the input.

    Returns:
        The gradient and the padding, 0 <= padding < K: those given where they need no change, else
        (N, C_out, |G|, H + K - 1, W + K - 1) in channels-last layout and K - 1.
    """
    reach = size - 1
    if stride == 1 and padding <= reach:
        return grad_out, padding
    return _spread(grad_out, stride, reach - padding, (height + reach, width + reach)), reach


def _spread(x: Tensor, stride: int, margin: int, size: tuple[int, int]) -> Tensor:
    """Moves pixel i of (N, C, |G|, H, W) to stride * i + margin of a grid of zeros; those outside are lost."""
    spread = layout.empty(x, (*x.shape[:3], *size)).zero_()
    source, target = [], []
    for count, length in zip(x.shape[-2:], size, strict=True):
        first = max(0, -(margin // stride))
        places = range(stride * first + margin, length, stride)[: max(0, count - first)]
        source.append(slice(first, first + len(places)))
        target.append(slice(places.start, places.stop, stride))
    spread[..., target[0], target[1]] = x[..., source[0], source[1]]
    return spread
