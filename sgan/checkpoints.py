"""Networks and optimisers as safetensors files, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sgan.files import write_atomic

__all__ = [
    "CheckpointError",
    "load_optimizer",
    "optimizer_tensors",
    "prefixed",
    "read",
    "select",
    "write",
    "write_atomic",
]

Tensors = dict[str, Tensor]
METADATA = "sgan"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used, and why."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors, and metadata that JSON can express, as one safetensors file, atomically.

    Equal content gives equal bytes: safetensors writes several metadata entries in random order, hence a single one.
    """
    contiguous = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(contiguous, {METADATA: json.dumps(metadata)}))


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read the tensors and the metadata of a safetensors file written by `write`.

    Raises:
        CheckpointError: missing, cut short, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # safe_open cannot be iterated
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error})") from error
    return tensors, metadata


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors, every name preceded by "prefix."."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def select(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors whose names begin with "prefix.", without it: the inverse of `prefixed`."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimiser's state (moments and step counts) as "parameter index.name" tensors; options are not included."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` gave into an optimiser of the same parameters."""
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
