"""A run folder in StyleGAN3's conventions.

training_options.json               what was asked for, which a resumed run must ask for again; data, networks, machine
log.txt                             what was printed, one line per tick
stats.jsonl                         losses and speed, one line per tick
metric-<name>.jsonl                 {"results": {"<name>": value}, "metric": "<name>", "kimg": ..., ...}, one per tick;
                                    of per_class_<features> the value holds every class's
floor.json                          the same metrics for held-out real images in place of fakes, and how many they were
reals.png, fakesNNNNNN.png          one class per row, points over real ones, or source | sample | target of pairs;
                                    N counts thousands of images
network-snapshot-NNNNNN.safetensors averaged generator and discriminator
.lock                               while a process is at work here: which one
training-state.safetensors          everything training continues from; always the newest
training-state-previous.safetensors the one before it, from which a run goes on if the newest one has been altered
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options, changed_options
from sgan.files import append_line, remove_leftovers, write_atomic
from sgan.lock import locked

__all__ = ["ChangedOptions", "RunFolder", "SavedState", "read_json_lines"]


class ChangedOptions(ValueError):
    """The folder holds a run with other options."""


class SavedState(NamedTuple):
    """What training-state.safetensors, or the one before it, holds.

    tensors: what the trainer continues from. elapsed_s: seconds the run had taken. path: of the file. faults: of newer
    ones, which cannot be used.
    """

    tensors: dict[str, Tensor]
    elapsed_s: float
    path: Path
    faults: tuple[str, ...] = ()

    @property
    def images_seen(self) -> int:
        """Real images shown to the discriminator, 0 if the state does not say."""
        return int(self.tensors.get("images_seen", 0))


class RunFolder:
    """Reads and writes the files of one run.

    Args:
        path: the run folder; made by `hold`, not by the constructor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.options_path = path / "training_options.json"
        self.state_path = path / "training-state.safetensors"
        self.previous_path = path / "training-state-previous.safetensors"
        self.floor_path = path / "floor.json"
        self.log_path = path / "log.txt"

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.options_path.exists() or self.state_path.exists()

    @contextmanager
    def hold(self) -> Iterator[str | None]:
        """Make the folder and keep other processes out of it (`sgan.lock.locked`), without what killed ones left.

        Gives a line to say where the file system cannot lock.

        Raises:
            FolderInUse: another process is at work in the folder.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path) as note:
            remove_leftovers(self.path)
            yield note

    def check(self, options: Options) -> None:
        """Raise unless a run with these options may be started or continued here.

        Raises:
            ChangedOptions: the folder holds a run whose options differ in more than a smaller kimg.
            CheckpointError: the folder's training_options.json cannot be read.
        """
        if not self.exists:
            return
        changes = changed_options(self._recorded("options"), options)
        if changes:
            raise ChangedOptions(
                f"{'; '.join(changes)}: {self.path} holds a run with other options. Give the same options to resume it "
                "(only --kimg may grow), or another --outdir to start a new run."
            )

    def moved_data(self, options: Options) -> str | None:
        """What the run in this folder calls its data, if that is not what the options call theirs."""
        recorded = self._recorded("options").get("data") if self.exists else options.data
        return None if recorded == options.data else str(recorded)

    def recorded_origin(self) -> dict[str, Any] | None:
        """The snapshot that the run in this folder was started from, as `sgan.warm_start.start_from` recorded it."""
        if not self.exists or "origin" not in json.loads(self.options_path.read_text()):
            return None
        return self._recorded("origin")

    def check_data(self, options: Options, built: Mapping[str, Any]) -> None:
        """Raise unless the images are those of the run in this folder: trained on, compared with, and held out.

        Where they lie, and what the set is called, may have changed.

        Raises:
            ChangedOptions: a checksum is another one.
            CheckpointError: the folder's training_options.json cannot be read.
        """
        if not self.exists:
            return
        recorded = self._recorded("dataset")
        parts = {"test": "held-out", "reference": "reference", "train": "training"}
        changed = [name for part, name in parts.items() if recorded.get(f"{part}_sha256") != built[f"{part}_sha256"]]
        moved = self.moved_data(options)
        if changed and moved is not None:
            raise ChangedOptions(
                f"--data was {moved}, now {options.data}, and the {' and '.join(changed)} images differ: "
                f"{self.path} holds a run on other images. Give the same data to resume it, or another --outdir to "
                "start a new run."
            )
        if changed:
            raise ChangedOptions(
                f"the {' and '.join(changed)} images have changed since the run in {self.path} started. Restore them, "
                "or give another --outdir to start a new run."
            )

    def recorded_features(self) -> str | None:
        """The feature network of the run's metrics; None if there is no run yet, or one on points.

        Raises:
            CheckpointError: the folder's training_options.json cannot be read.
        """
        return self._recorded("options").get("features") if self.exists else None

    def changed_environment(self, now: Mapping[str, Any]) -> list[str]:
        """What differs between the environment in which the run was last started and `now`, as "torch was A, now B".

        Raises:
            CheckpointError: the folder's training_options.json cannot be read.
        """
        recorded = self._recorded("environment")
        return [f"{name} was {recorded.get(name)}, now {new}" for name, new in now.items() if recorded.get(name) != new]

    def open(self, options: Options, facts: Mapping[str, Any]) -> None:
        """Record the options, and facts about the data and the networks beside them."""
        self._write_json(self.options_path, {"options": asdict(options), **facts})

    def write_state(self, tensors: Mapping[str, Tensor], elapsed_s: float) -> None:
        """Replace the state that training continues from, and keep the one before.

        elapsed_s is the time the run has taken so far.
        """
        checkpoints.write(self.state_path, tensors, {"elapsed_s": elapsed_s}, keep=self.previous_path)

    def read_state(self) -> SavedState | None:
        """The newest state that is as it was written, None if the run had not written one yet.

        Raises:
            CheckpointError: none of those there are is.
        """
        if not self.state_path.exists() and not self.previous_path.exists():
            return None
        faults: list[str] = []
        for path in (self.state_path, self.previous_path):
            try:
                tensors, metadata = checkpoints.read(path)
                return SavedState(tensors, float(metadata.get("elapsed_s", 0)), path, tuple(faults))
            except CheckpointError as error:
                faults.append(str(error))
        raise CheckpointError(
            f"{'; '.join(faults)}; the run in {self.path} cannot be resumed. Its snapshots and metrics are untouched: "
            "choose another --outdir, or remove the folder to start again."
        )

    def continue_from(self, state: SavedState | None) -> None:
        """Forget what a run wrote after the state that it continues from, None for none at all: altered states too.

        To be called before anything is appended, or a line would be appended to a half-written one.
        """
        if state is not None and state.path != self.state_path:
            os.replace(state.path, self.state_path)
        self.forget_after(-1 if state is None else state.images_seen)

    def write_snapshot(self, kimg: int, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
        """Write network-snapshot-NNNNNN.safetensors; its metadata is enough to rebuild the networks."""
        path = self.path / f"network-snapshot-{kimg:06d}.safetensors"
        checkpoints.write(path, tensors, metadata)
        return path

    def grid_path(self, kimg: int) -> Path:
        """Where the grid of samples at this point goes."""
        return self.path / f"fakes{kimg:06d}.png"

    def append_stats(self, line: Mapping[str, Any]) -> None:
        """Add a line to stats.jsonl."""
        append_line(self.path / "stats.jsonl", json.dumps(line))

    def append_metrics(self, results: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Add a line to metric-<name>.jsonl for every result."""
        for name, value in results.items():
            line = {"results": {name: value}, "metric": name, **facts}
            append_line(self.path / f"metric-{name}.jsonl", json.dumps(line))

    def write_floor(self, results: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Record the metrics of real against held-out real images."""
        self._write_json(self.floor_path, {"results": dict(results), **facts})

    def changed_measures(self, facts: Mapping[str, Any]) -> list[str]:
        """What differs between the facts about this run's floor and `facts`, by name: in what way is it measured."""
        recorded = json.loads(self.floor_path.read_text()) if self.floor_path.exists() else dict(facts)
        return [name for name, value in facts.items() if recorded.get(name) != value]

    def append_log(self, line: str) -> None:
        """Add a line to log.txt."""
        append_line(self.log_path, line)

    def forget_after(self, images_seen: int) -> None:
        """Drop stats and metrics beyond this point, and a half-written line."""
        for path in [self.path / "stats.jsonl", *self.path.glob("metric-*.jsonl")]:
            if path.exists():
                kept = [line for line in read_json_lines(path) if line["images"] <= images_seen]
                write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _recorded(self, section: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.options_path.read_text())[section])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.options_path} is damaged ({error!r})") from error

    def _write_json(self, path: Path, value: Any) -> None:
        write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; an incomplete last line, left by a killed process, is dropped.

    Raises:
        CheckpointError: any other line is no JSON object.
    """
    text = path.read_text()
    lines = text.split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
