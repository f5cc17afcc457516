"""The filter of a layer in eval mode as its backend wants it, made once and kept until its values change."""

from __future__ import annotations

import ctypes
import os
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gconv.groups import PlanarGroup

_memcmp = ctypes.CDLL(None if os.name == "posix" else "msvcrt").memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Packer(Protocol):
    """What transforms a filter, once for many calls: a backend, or the steerable filters of a layer."""

    def pack(self, weight: Tensor, group: PlanarGroup) -> Any: ...

    def packing_state(self) -> object: ...


class _Entry(NamedTuple):
    group: PlanarGroup
    weight: Tensor
    state: object
    packed: Any


class FilterCache:
    """One packed filter per packer.

    Values are compared, byte by byte: nothing else tells of every change, since writes through ``weight.data`` or
    another alias leave no trace, and a parametrized weight is a new tensor each time. That reads the filter once, a
    tenth or less of what transforming it costs. Copies and pickles of a cache are empty. Safe to use from many
    threads: entries are never changed, only replaced.
    """

    def __init__(self) -> None:
        self._entries: dict[Packer | ModuleType, _Entry] = {}

    def packed(self, packer: Packer | ModuleType, weight: Tensor, group: PlanarGroup) -> Any:
        """``packer.pack(weight, group)``, made again only if it would differ. The weight is on the CPU."""
        weight = weight.contiguous()
        entry, state = self._entries.get(packer), packer.packing_state()
        if entry is None or entry.group != group or entry.state != state or not _same(entry.weight, weight):
            # Made outside of inference mode, whose tensors autograd can never save, for the calls that come after it.
            with torch.inference_mode(False), torch.no_grad():
                kept = weight.clone()  # first, and packed from: another thread may be writing to the weight
                entry = self._entries[packer] = _Entry(group, kept, state, packer.pack(kept, group))
        return entry.packed

    def clear(self) -> None:
        """Frees what is kept."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[type[FilterCache], tuple[()]]:
        return FilterCache, ()


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous CPU tensors have the same dtype, shape and bytes; several times as fast as torch.equal."""
    alike = a.dtype == b.dtype and a.shape == b.shape
    return alike and not _memcmp(a.data_ptr(), b.data_ptr(), a.nbytes)
