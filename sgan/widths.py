"""Widths of networks on groups: the published rule, the published lists, and a search for equal parameter counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from gconv import CyclicGroup, PlanarGroup

__all__ = ["fitted", "group_widths", "matched_widths", "published_widths", "scaled"]

Widths = tuple[int, ...]


def scaled(widths: Widths, factor: float) -> Widths:
    """Every width times factor, rounded, at least 1."""
    return tuple(max(1, round(width * factor)) for width in widths)


def fitted(widths: Widths, stages: int) -> Widths:
    """The first `stages` widths; where there are too few, each further one is half the one before, at least 1."""
    chosen = list(widths[:stages])
    while len(chosen) < stages:
        chosen.append(max(1, chosen[-1] // 2))
    return tuple(chosen)


def published_widths(planar_widths: Widths, order: int) -> Widths:
    """Planar widths divided by sqrt(|G|) and rounded down, so that |G| C_in C_out K^2 stays about the same.

    The rule of GE-GAN (arXiv 2005.01683) and SP-GAN (arXiv 2202.01129): 256, 128, ... become 90, 45, ... on D4. What
    holds no factor |G|, heads and lifting layers, shrinks too, which leaves counts up to 12 % short.
    """
    return tuple(max(1, int(width / math.sqrt(order))) for width in planar_widths)


def group_widths(planar_widths: Widths, listed: Mapping[str, Widths], group: PlanarGroup) -> Widths:
    """The widths that a paper lists for the group, by its name, or `published_widths`."""
    return listed.get(group.name) or published_widths(planar_widths, group.order)


def matched_widths(planar_widths: Widths, group: PlanarGroup, count: Callable[[Widths, PlanarGroup], int]) -> Widths:
    """Scale planar widths so that the network on the group has the planar network's parameter count.

    The one factor by which `published_widths` divides is searched instead, which brings every row of a comparison
    within 5 % of the planar network.

    Args:
        planar_widths: widths for C1.
        group: the group.
        count: parameter count as a function of (widths, group).

    Returns:
        Widths, one per planar width; the planar widths themselves for C1.
    """
    target = count(planar_widths, CyclicGroup(1))
    steps = max(planar_widths)
    candidates = [scaled(planar_widths, step / steps) for step in range(1, steps + 1)]
    return min(candidates, key=lambda widths: abs(count(widths, group) - target))
