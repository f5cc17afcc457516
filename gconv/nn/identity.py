"""Which group and rings a state_dict was saved for: weights of several groups have the same shape."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

EXTRA_STATE = "_extra_state"  # torch's name for what get_extra_state gives


def write_identity(text: str) -> Tensor:
    """The text's bytes as (length,) int64 on the CPU: checkpoint formats hold it, and averages of it are itself."""
    return torch.tensor(list(text.encode()), dtype=torch.int64, device="cpu")


def read_identity(saved: Any) -> str | None:
    """The text of :func:`write_identity`; what is none is shown as it is. None of a tensor that holds nothing."""
    if isinstance(saved, Tensor) and (saved.is_meta or type(saved) is FakeTensor):
        return None
    if isinstance(saved, Tensor) and saved.dim() == 1 and saved.isfinite().all():
        return "".join(chr(code) if 32 <= code < 127 else "?" for code in map(round, saved.tolist()))
    return repr(saved)


_load_warned_of: list[str] | None = None


def warn_of_none(of_load: list[str]) -> None:
    """Warns that a state_dict names no group, once per call of load_state_dict, whose list of errors ``of_load`` is."""
    global _load_warned_of
    if of_load is not _load_warned_of:
        _load_warned_of = of_load
        warnings.warn(
            "load_state_dict: the state_dict does not say which group it was saved for (an older version of gconv "
            "saved it, or another library), so whether it fits is not checked; save it anew to have it checked",
            stacklevel=2,
        )
