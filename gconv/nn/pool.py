"""Pooling over the group."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gconv.functional import _backend_name, _pool_members, group_pool
from gconv.groups import PlanarGroup


class GroupPool(nn.Module):
    """Pools over the group or over cosets (:func:`gconv.group_pool`): (N, C, |G|, H, W) -> (N, C, H, W).

    Args:
        group: the group of the feature map.
        mode: "max" or "mean".
        subgroup: pool over the left cosets of these elements only, giving (N, C, |G/H|, H, W).
        backend: see :func:`gconv.group_pool`.

    Raises:
        TypeError, ValueError: an argument out of range, named in the message.
    """

    def __init__(
        self,
        *,
        group: PlanarGroup,
        mode: str = "max",
        subgroup: Sequence[int] | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        _pool_members("GroupPool", group, mode, subgroup)
        _backend_name("GroupPool", backend)
        self.group = group
        self.mode = mode
        self.subgroup = None if subgroup is None else tuple(subgroup)
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, |G|, H, W) -> (N, C, H, W), or (N, C, |G/H|, H, W) with a subgroup."""
        return group_pool(x, group=self.group, mode=self.mode, subgroup=self.subgroup, backend=self.backend)

    def extra_repr(self) -> str:
        return f"group={self.group!r}, mode={self.mode!r}, subgroup={self.subgroup}"
