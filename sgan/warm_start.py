"""A new run from the networks of an earlier one: what to do when a run has diverged.

The same options diverge the same way, so a diverged run goes on from a snapshot before, with other learning rates, into
a folder of its own. It is a run like any other: its first state replaces what it was started from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.trainer import Trainer

__all__ = ["start_from"]


def start_from(trainer: Trainer, path: Path) -> dict[str, Any]:
    """Give a new trainer the networks of a snapshot: both generators its average, D its discriminator.

    Optimisers and images seen stay those of a new run.

    Args:
        trainer: that has taken no step.
        path: a network-snapshot-NNNNNN.safetensors, or a run folder, of which the newest snapshot is taken.

    Returns:
        What to record: the file, its SHA-256 and the real images that its discriminator had seen.

    Raises:
        CheckpointError: no snapshot, a damaged one, or one of other networks.
    """
    file = newest_snapshot(path) if path.is_dir() else path
    tensors, metadata = checkpoints.read(file)
    try:
        for player, prefix in (("average", "average"), ("generator", "average"), ("discriminator", "discriminator")):
            getattr(trainer, player).load_state_dict(checkpoints.select(prefix, tensors))
    except RuntimeError as error:
        what = " ".join(str(error).split())  # torch writes one line per tensor
        raise CheckpointError(f"--init-from {file} holds other networks than these options describe: {what}") from error
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return {"path": str(file), "sha256": digest, "images": metadata.get("images")}


def newest_snapshot(folder: Path) -> Path:
    """The snapshot of a run folder with the most images seen.

    Raises:
        CheckpointError: there is none.
    """
    snapshots = sorted(folder.glob("network-snapshot-*.safetensors"))
    if not snapshots:
        raise CheckpointError(f"{folder} holds no network-snapshot-NNNNNN.safetensors: is it a run folder?")
    return snapshots[-1]
