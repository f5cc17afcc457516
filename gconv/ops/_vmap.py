"""What the ops do under torch.vmap: maps fold the mapped axis into their batch; a mapped filter means one call each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., tuple[Any, Any]]


def batching_rule(op: Callable[..., Any], maps: tuple[int, ...]) -> Rule:
    """The rule for torch.library.register_vmap.

    Args:
        op: what to call on ordinary tensors; its results are maps whose first axis is N, or group_pool's empty index.
        maps: the positions of those arguments that have an axis N and act per image. () if the op sums over images.
    """

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        size = info.batch_size
        mapped = {position: dim for position, dim in enumerate(in_dims) if isinstance(dim, int)}  # lists have lists
        if not mapped.keys() <= set(maps):
            return _call_each(op, size, mapped, arguments), 0
        folded = list(arguments)
        for position in maps:
            if _has_batch(arguments[position]):
                several = _mapped_first(arguments[position], mapped.get(position), size)
                folded[position], batches = several.flatten(0, 1), several.shape[:2]
        result = op(*folded)
        if isinstance(result, Tensor):
            return _unfold(result, batches), 0
        dims = tuple(0 if _has_batch(part) else None for part in result)
        return tuple(_unfold(part, batches) for part in result), dims

    return rule


def _has_batch(tensor: Tensor) -> bool:
    """Whether this is a map: group_pool gives an empty vector in place of the mean's index."""
    return tensor.dim() >= 4


def _mapped_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _unfold(tensor: Tensor, batches: torch.Size) -> Tensor:
    return tensor.unflatten(0, batches) if _has_batch(tensor) else tensor


def _call_each(op: Callable[..., Any], size: int, mapped: dict[int, int], arguments: tuple[Any, ...]) -> Tensor:
    """One call per element of the mapped axis; of an empty one, a call for the shape, on zeros: the empty sum."""
    calls = []
    for i in range(max(size, 1)):
        chosen = [
            (a.select(mapped[p], i) if size else a.sum(mapped[p])) if p in mapped else a
            for p, a in enumerate(arguments)
        ]
        calls.append(op(*chosen))
    return torch.stack(calls)[:size]
