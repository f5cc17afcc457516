"""Tables that a module makes and does not learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn


class ConstantTables(nn.Module):
    """A module with tables that follow from its arguments: buffers that no state_dict holds, made anew when needed.

    Like torch's own layers it may be built on the meta device, where buffers hold nothing: a cast or a move (of which
    ``to_empty`` is one), ``load_state_dict(assign=True)`` and :meth:`follow` each make the tables where parameters are.
    They are made from the exact ones, so a table in float32 does not become float64 by a cast.
    """

    def tables(self, like: Tensor) -> Mapping[str, Tensor]:
        """The tables by name, on the device of ``like`` and in a dtype that suits its own."""
        raise NotImplementedError

    def make_tables(self, like: Tensor) -> None:
        """Makes the tables anew. Inference mode is left for it: autograd could never save what is made there."""
        with torch.inference_mode(False):
            made = self.tables(like)
        self._table_names = tuple(made)
        for name, table in made.items():
            self.register_buffer(name, table, persistent=False)

    def follow(self, like: Tensor) -> None:
        """Makes the tables where ``like`` is if they hold nothing: where parameters were replaced by hand."""
        if self._any_table().is_meta and not like.is_meta:
            self.make_tables(like)

    def _any_table(self) -> Tensor:
        table = self._buffers[self._table_names[0]]
        assert table is not None
        return table

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.make_tables(self._any_table())
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        saved = next((value for value in state_dict.values() if isinstance(value, Tensor)), None)
        (local_metadata, *_) = arguments
        if saved is not None and local_metadata.get("assign_to_params_buffers", False):
            self.follow(saved)
