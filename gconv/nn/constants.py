"""Tables that a module makes and does not learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


class ConstantTables(nn.Module):
    """A module with tables that follow from its arguments: buffers that no state_dict holds, made anew when needed.

    Like torch's own layers it may be built on the meta device or of fake tensors, where buffers hold nothing: a cast or
    a move (of which ``to_empty`` is one), ``load_state_dict(assign=True)`` and :meth:`follow` each make the tables
    where parameters are. They are made from the exact ones, so a table in float32 does not become float64 by a cast.
    """

    def tables(self, like: Tensor) -> Mapping[str, Tensor]:
        """The tables by name, on the device of ``like``; the last is in a dtype that suits its own."""
        raise NotImplementedError

    def make_tables(self, like: Tensor) -> None:
        """Makes the tables anew, outside of inference mode and of torch.func's transforms, whose tensors end with them.

        Autograd could never save a tensor of inference mode, and a transform's is a wrapper that outlives it.
        """
        with torch.inference_mode(False), torch._C._DisableFuncTorch():
            made = self.tables(like)
        self._table_names = tuple(made)
        for name, table in made.items():
            self.register_buffer(name, table, persistent=False)

    def follow(self, like: Tensor) -> None:
        """Makes the tables where ``like`` is if they are not, or hold too few digits: where parameters were replaced.

        A forward calls it before it reads them. Digits are only added, so that parameters of two dtypes in turn do not
        make the tables at every call. Of several threads none meets tables of which some hold nothing.
        """
        table = self._last_table()
        if (
            (table.device != like.device and not like.is_meta)
            or (type(table) is FakeTensor and type(like) is not FakeTensor)
            or (table.dtype is not torch.float64 and like.dtype is torch.float64)
        ):
            self.make_tables(like)

    def _last_table(self) -> Tensor:
        """The one that is replaced last: if it holds something, all do."""
        table = self._buffers[self._table_names[-1]]
        assert table is not None
        return table

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.make_tables(self._last_table())
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        saved = next((value for value in state_dict.values() if isinstance(value, Tensor)), None)
        (local_metadata, *_) = arguments
        if saved is not None and local_metadata.get("assign_to_params_buffers", False):
            self.follow(saved)
