"""How far a network is from equivariant or invariant, in dB (Karras et al. 2021, arXiv 2106.12423, section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sgan.metrics.actions import Action

IMAGE_PEAK = 2.0  # the range of pixels in [-1, 1]


@torch.no_grad()
def equivariance_db(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    actions: Mapping[str, Action],
    *,
    output_actions: Mapping[str, Action] | None = None,
    peak: float = IMAGE_PEAK,
    mask: Tensor | None = None,
) -> dict[str, float]:
    """Return 10 log10(peak^2 / E (f(T_g x) - T'_g f(x))^2) for every action; higher is better.

    The convention of EQ-T and EQ-R: a peak signal-to-noise ratio, whose mean runs over samples, channels and pixels.

    Args:
        function: f, deterministic: a network in eval mode, for example
            `lambda latent_map: generator.synthesis(latent_map, condition)`.
        x: (N, ...) its input, passed at once.
        actions: name -> T_g, such as `image_actions(group)`, `point_actions(group)` or `shift_actions(shifts)`.
        output_actions: name -> T'_g on the output, with the same names; None: `actions`.
        peak: range of the output's values, > 0; 2 for images with pixels in [-1, 1].
        mask: bool, broadcastable to the output: what is compared, such as `disk_mask(side)` where actions interpolate;
            None: everything.

    Returns:
        name -> dB, in the order of `actions`; infinity without any error. Actions that interpolate add their own error.

    Raises:
        ValueError: other names in `output_actions`, an output that changes its shape, an empty mask, or peak <= 0.
        FloatingPointError: an output is not finite.
    """
    output_actions = actions if output_actions is None else output_actions
    if set(output_actions) != set(actions):
        names = f"{sorted(output_actions)} for {sorted(actions)}"
        raise ValueError(f"equivariance_db: output_actions must have the names of actions, got {names}")
    if not 0 < peak < math.inf:
        raise ValueError(f"equivariance_db: peak must be finite and > 0, got {peak}")
    y = _finite("equivariance_db", function(x))
    return {
        name: _decibels(peak, _mean_square("equivariance_db", function(act(x)), output_actions[name](y), mask))
        for name, act in actions.items()
    }


@torch.no_grad()
def invariance_db(function: Callable[[Tensor], Tensor], x: Tensor, actions: Mapping[str, Action]) -> dict[str, float]:
    """Return 10 log10(peak^2 / E (f(T_g x) - f(x))^2) for every action; higher is better.

    Scores have no range of their own, as pixels do, so the peak is what they span here: max f(x) - min f(x), over the N
    inputs. Adding to the scores or multiplying them changes nothing.

    Args:
        function: f, deterministic, such as `lambda images: discriminator(images, labels)`.
        x: (N, ...) its input, N >= 2, passed at once.
        actions: name -> T_g, such as `image_actions(group)`.

    Returns:
        name -> dB, in the order of `actions`; infinity without any error.

    Raises:
        ValueError: the scores do not differ between the inputs, or change their shape.
        FloatingPointError: a score is not finite.
    """
    y = _finite("invariance_db", function(x))
    peak = float(y.max() - y.min())
    if peak == 0:
        raise ValueError(f"invariance_db: scores must differ between inputs, got {float(y.max())} for all {len(x)}")
    return {
        name: _decibels(peak, _mean_square("invariance_db", function(act(x)), y, None)) for name, act in actions.items()
    }


def _mean_square(op: str, got: Tensor, expected: Tensor, mask: Tensor | None) -> float:
    if got.shape != expected.shape:
        shapes = f"{tuple(got.shape)} for {tuple(expected.shape)}"
        raise ValueError(f"{op}: the output must keep its shape when the input is moved, got {shapes}")
    square = (_finite(op, got).double() - expected.double()).square()
    if mask is not None:
        square = square[mask.to(square.device).expand_as(square)]
    if not square.numel():
        raise ValueError(f"{op}: mask must keep some of the output, got none of {tuple(got.shape)}")
    return float(square.mean())


def _finite(op: str, y: Tensor) -> Tensor:
    if not y.isfinite().all():
        raise FloatingPointError(f"{op}: the output must be finite, got NaN or infinity")
    return y


def _decibels(peak: float, mean_square: float) -> float:
    return math.inf if mean_square == 0 else 10 * math.log10(peak**2 / mean_square)
