"""Networks and optimisers as safetensors files, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
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
FORMAT = "sgan checkpoint with a checksum"
ZEROS = b"0" * 64
CHECKSUM = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')  # JSON in a JSON string
LENGTH_BYTES = 8


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used, and why."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write tensors, and metadata that JSON can express, as one safetensors file, atomically, with its checksum.

    `keep` is where the file that was there goes, None to replace it.

    The checksum stands in the metadata, in the header: the SHA-256 of the whole file, with zeros in its own place.
    Equal content gives equal bytes: safetensors writes several metadata entries in random order, hence a single one.
    """
    contiguous = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    content = save(contiguous, {METADATA: json.dumps({"format": FORMAT, "sha256": ZEROS.decode(), **metadata})})
    place = CHECKSUM.search(content)
    assert place is not None
    summed = content[: place.start(1)] + checksum(content).encode() + content[place.end(1) :]
    write_atomic(path, summed, keep=keep)


def checksum(content: bytes) -> str:
    """The SHA-256 of a file's bytes, with zeros in the place of the checksum that it says."""
    place = CHECKSUM.search(content)
    digest = hashlib.sha256(content if place is None else content[: place.start(1)])
    if place is not None:
        digest.update(ZEROS)
        digest.update(memoryview(content)[place.end(1) :])
    return digest.hexdigest()


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Read the tensors and the metadata of a file written by `write`, all bytes of which must be as written.

    Files from before there was a checksum are read as they are.

    Raises:
        CheckpointError: missing, cut short, altered, or no safetensors file.
        OSError: it may not be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        if error.errno != errno.EIO:  # others say nothing of the content
            raise
        raise CheckpointError(f"{path} is damaged: the disk cannot read it") from error
    try:
        check_unaltered(content)
        tensors = load(content)
        header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + header_length(content)])
        metadata = json.loads(header.get("__metadata__", {}).get(METADATA, "{}"))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or incomplete ({error})") from error
    return tensors, {name: value for name, value in metadata.items() if name not in ("format", "sha256")}


def check_unaltered(content: bytes) -> None:
    """Raise ValueError if a byte of a file has changed since `write`; one without a checksum passes.

    A file tells twice that it has one, so that a damaged header is not taken for one of an older version.
    """
    header = content[: LENGTH_BYTES + header_length(content)]
    place = CHECKSUM.search(header)
    if place is None and FORMAT.encode() not in header:
        return
    if place is None or place[1].decode() != checksum(content):
        raise ValueError("its checksum is not that of its content: it has been altered since it was written")


def header_length(content: bytes) -> int:
    """Bytes of the header of a safetensors file, after the `LENGTH_BYTES` that say it."""
    return int.from_bytes(content[:LENGTH_BYTES], "little")


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
