"""One training run with its folder: start, resume, extend, or preview it."""

from __future__ import annotations

import math
import shlex
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sgan.config import Options, command_line
from sgan.cost import flop_per_kimg
from sgan.data import Dataset, DataWarning, load_dataset
from sgan.kinds import KINDS, blind_players, kind_of, sees_labels
from sgan.lock import refuse_ranks
from sgan.metrics import Measurement, choose_features, features_note
from sgan.metrics.evaluator import FEWER
from sgan.metrics.imagenet import INSTALL, is_installed
from sgan.presets import PRESETS, gflop_text
from sgan.progress import ProgressBar, StopRequest, duration
from sgan.runs import RunFolder, SavedState
from sgan.sizes import lost_stages
from sgan.trainer import Trainer, embeds_one_class, parameter_count
from sgan.warm_start import start_from

__all__ = ["Interrupted", "Session", "preview", "train"]

MEASURED_STEPS = 3


class Interrupted(Exception):
    """Training was stopped by the user and can be resumed."""


def train(options: Options, outdir: Path, console: Console | None = None) -> RunFolder:
    """Start, resume or extend the run in `outdir`; return when it has seen options.kimg thousand images.

    Args:
        options: what to train; must equal a started run's options, but for a larger kimg.
        outdir: the run folder itself.
        console: where to print; None prints nothing. log.txt is written in any case.

    Returns:
        The run folder.

    Raises:
        FolderInUse: another process is at work in outdir.
        ChangedOptions: outdir holds a run with other options or other data.
        CheckpointError: both of its states are damaged.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
        FloatingPointError: a loss, a parameter or a sample is not finite; the last good state is kept.
        ValueError: unknown data, a class without an image, options that describe no network, or several ranks.
    """
    refuse_ranks()
    console = console or Console(quiet=True)
    folder = RunFolder(outdir)
    options = with_recorded_features(options, folder)
    folder.check(options)
    # Before there is a folder: what cannot be trained or measured has none.
    new = None if folder.exists else start(options, folder, console)
    with folder.hold() as note:
        # One that another process has started in the meantime is resumed, too.
        session = resume(options, folder, console) if new is None or folder.exists else new
        if session is not None:
            session.notes += [] if note is None else [note]
            session.begin()
    return folder


def start(options: Options, folder: RunFolder, console: Console) -> Session:
    """A new run, of which nothing is written yet."""
    dataset = load_data(options, folder)
    trainer = Trainer(with_features(options, dataset), dataset)
    origin = None if options.init_from is None else start_from(trainer, Path(options.init_from))
    return Session(trainer, folder, console, resumed_from=None, origin=origin)


def resume(options: Options, folder: RunFolder, console: Console) -> Session | None:
    """The run in a folder that this process holds, at its newest state; None, and a line, if it has finished.

    One that was killed before its first state starts again.
    """
    folder.check(options)
    state = folder.read_state()
    moved = folder.moved_data(options)
    finished = state is not None and not state.faults and state.images_seen >= options.kimg * 1000
    if state is not None and finished and moved is None:
        seen = f"{state.images_seen / 1000:.1f} kimg of {options.kimg}"
        print_line(console, f"Finished already: {folder.path} has seen {seen}. A larger --kimg extends it.")
        return None
    if state is None:
        session = start(options, folder, console)
    else:
        embeds = embeds_one_class(state.tensors)
        dataset = load_data(options, folder)
        trainer = Trainer(with_features(options, dataset), dataset, embed_one_class=embeds)
        trainer.load_state(state.tensors)
        session = Session(trainer, folder, console, resumed_from=state, origin=folder.recorded_origin())
        if state.faults:
            session.notes.append(
                f"warning: {'; '.join(state.faults)}. The run continues from the state before it, {state.path.name}, "
                f"at {state.images_seen / 1000:.1f} kimg: what it did since is repeated."
            )
        remeasured = folder.changed_measures(session.evaluator.describe_floor())
        if remeasured:
            session.notes.append(
                f"warning: {', '.join(remeasured)} of the metrics changed since the run started: values from here on "
                "do not compare with those before."
            )
        changes = folder.changed_environment(environment())
        if changes:
            session.notes.append(
                f"warning: {'; '.join(changes)}: from here on the run is not the one, bit for bit, that it would have "
                "been."
            )
    if moved is not None:
        session.notes.append(f"the data is now {options.data}, was {moved}: the same images")
    folder.continue_from(state)
    return session


def load_data(options: Options, folder: RunFolder) -> Dataset:
    """The data set of a run, checked before anything is written.

    Raises:
        ChangedOptions: it is not the one of the run in the folder.
        ValueError: unknown data, or a class without an image to train on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the notes are said where the run is announced
        dataset = load_dataset(
            options.data,
            seed=options.seed,
            subset=options.subset,
            subset_of=options.subset_of,
            resolution=options.resolution,
            window=options.window,
        )
    folder.check_data(options, dataset.built)
    counts = dataset.train.labels.bincount(minlength=dataset.num_classes)
    empty = [name for name, count in zip(dataset.class_names, counts.tolist(), strict=True) if count == 0]
    if empty:
        subset = "" if options.subset is None else f" in a --subset of {options.subset}"
        raise ValueError(
            f"train: every class of {options.data} must have an image, got none of {', '.join(empty)}{subset}"
        )
    return dataset


def with_recorded_features(options: Options, folder: RunFolder) -> Options:
    """The options with the features of the run in the folder, where they name none.

    Raises:
        ValueError: the packages of these features are not installed.
        CheckpointError: the folder's training_options.json cannot be read.
    """
    recorded = folder.recorded_features()
    options = replace(options, features=recorded) if options.features is None else options
    if recorded == options.features == "imagenet" and not is_installed():
        raise ValueError(
            f"train: the run in {folder.path} is measured on imagenet features, whose packages are not installed here, "
            f"and other features' values do not continue its curves: {INSTALL}"
        )
    return options


def with_features(options: Options, dataset: Dataset) -> Options:
    """The options with the features that the images choose, where they name none; points have none."""
    if options.features is not None or dataset.law is not None:
        return options
    return replace(options, features=choose_features(dataset))


class Session:
    """The loop around a trainer: ticks, files, and what is printed.

    `resumed_from` is the state that the trainer has loaded; None for a run that has written none yet, which starts with
    the reference and a tick at kimg 0. `origin` is what it was started from (`sgan.warm_start`), None for random
    networks. `notes` are lines to say at the start.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        console: Console,
        *,
        resumed_from: SavedState | None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.trainer = trainer
        self.options = trainer.options
        self.folder = folder
        self.console = console
        self.is_new = resumed_from is None
        self.evaluator = trainer.kind.evaluator(trainer.dataset, self.options.features, self.options.device)
        by_class = sees_labels(self.options, trainer.dataset.num_classes)
        self.picture = trainer.kind.picture(trainer.dataset, by_class)
        self.elapsed_before_s = 0.0 if resumed_from is None else resumed_from.elapsed_s
        self.started = time.monotonic()
        self.tick_scalars: list[dict[str, Tensor]] = []
        self.tick_step_s = 0.0
        self.notes: list[str] = []
        self.origin = origin

    def begin(self) -> None:
        """Record what is trained in the folder, which this process holds, say the notes, and train."""
        origin = {} if self.origin is None else {"origin": self.origin}
        self.folder.open(self.options, describe(self.trainer) | origin)
        for note in self.notes:
            self.say(note)
        self.run()

    def run(self) -> None:
        """Train until options.kimg, with a tick at kimg 0 (of a new run), every options.tick kimg and at the end."""
        trainer = self.trainer
        self.announce()
        total = self.options.kimg * 1000
        with StopRequest() as stop, ProgressBar(self.console, total, trainer.images_seen) as bar:
            if self.is_new:
                bar.note("measuring")
                self.write_reference()
                self.tick()
            while trainer.images_seen < total:
                ticks_before = trainer.images_seen // (self.options.tick * 1000)
                self.step()
                if bar.is_due:
                    self.wait()
                    bar.update(trainer.images_seen, self.images_per_s(), self.latest_losses())
                ticks = trainer.images_seen // (self.options.tick * 1000)
                if ticks > ticks_before or trainer.images_seen >= total:
                    bar.note("measuring")
                    self.tick()
                if stop.requested and trainer.images_seen < total:
                    self.save_state()
                    raise Interrupted(f"stopped at {trainer.images_seen / 1000:.1f} kimg")
        samples = self.folder.grid_path(trainer.kimg)
        self.say(f"Finished: {trainer.kimg} kimg in {duration(self.elapsed_s())}. Samples: {samples}")

    def step(self) -> None:
        start = time.monotonic()
        self.tick_scalars.append(self.trainer.step())
        self.tick_step_s += time.monotonic() - start
        while self.trainer.notes:
            self.say(self.trainer.notes.pop(0))

    def wait(self) -> None:
        """Let a device that works behind the host's back finish its steps, in their time."""
        start = time.monotonic()
        self.trainer.wait()
        self.tick_step_s += time.monotonic() - start

    def tick(self) -> None:
        """Metrics, statistics, grid, snapshot, and last the state, so that a run killed in a tick repeats that tick."""
        trainer, kimg = self.trainer, self.trainer.kimg
        self.wait()
        place = {"kimg": kimg, "images": trainer.images_seen}
        means = self.mean_scalars()
        measured = self.measure()
        results = measured.values
        self.picture.draw(trainer.sampler("grid")(self.picture.condition), self.folder.grid_path(kimg))
        snapshot = self.folder.write_snapshot(kimg, trainer.snapshot(), snapshot_metadata(trainer))
        facts = {**place, "snapshot": snapshot.name, **self.evaluator.describe()}
        self.folder.append_metrics({**results, **self.per_class(measured)}, facts)
        speed = {"images_per_s": self.images_per_s(), "elapsed_s": self.elapsed_s()}
        self.folder.append_stats({**place, **means, **speed, **results})
        self.save_state()
        self.say(tick_line(kimg, self.options.kimg, results, means, speed))
        self.tick_scalars, self.tick_step_s = [], 0.0

    def per_class(self, measured: Measurement) -> dict[str, Any]:
        """The values of every class under one name, per_class_<features>; nothing if there is one class."""
        return {f"per_class_{self.options.features}": measured.per_class} if measured.per_class else {}

    def measure(self) -> Measurement:
        """The metrics of the averaged generator.

        Raises:
            FloatingPointError: training has diverged.
        """
        self.check_finite()
        try:
            return self.evaluator.measure(self.trainer.sampler("metrics"))
        except FloatingPointError as error:
            raise self.divergence(str(error)) from error

    def save_state(self) -> None:
        """Replace the state to resume from, but never by one that has diverged.

        Raises:
            FloatingPointError: training has diverged.
        """
        self.check_finite()
        self.folder.write_state(self.trainer.state(), self.elapsed_s())

    def check_finite(self) -> None:
        """Raise FloatingPointError if a loss since the last tick, or a tensor of the state, is not finite."""
        means = self.mean_scalars()
        if not all(map(math.isfinite, means.values())):
            raise self.divergence(str(means))
        bad = [name for name, tensor in self.trainer.state().items() if not tensor.isfinite().all()]
        if bad:
            raise self.divergence(f"{len(bad)} tensors of the state are not finite, {bad[0]} the first")

    def divergence(self, what: str) -> FloatingPointError:
        kimg = self.trainer.images_seen / 1000
        return FloatingPointError(
            f"training diverged before {kimg:.1f} kimg: {what}; the last good state is kept. The same options diverge "
            f"the same way. To go on from before with half the learning rates, in a folder of its own: {self.way_on()}"
        )

    def way_on(self) -> str:
        """The command that goes on from the newest snapshot with half the learning rates."""
        snapshots = sorted(self.folder.path.glob("network-snapshot-*.safetensors"))
        command = command_line(
            self.options,
            init_from=str(snapshots[-1]) if snapshots else None,
            lr_g=self.options.lr_g / 2,
            lr_d=self.options.lr_d / 2,
        )
        return f"{command} --outdir {shlex.quote(f'{self.folder.path}-2')}"

    def write_reference(self) -> None:
        """What a new run is compared with: a picture of real samples, and the metrics of held-out real ones."""
        self.picture.draw(self.picture.real, self.folder.path / "reals.png")
        measured, facts = self.evaluator.measure_floor(), self.evaluator.describe_floor()
        self.folder.write_floor({**measured.values, **self.per_class(measured)}, facts)
        self.say(floor_line(measured.values, facts, self.evaluator.num_fakes))

    def announce(self) -> None:
        trainer, options = self.trainer, self.options
        verb = "starting" if self.is_new else f"resuming at {trainer.images_seen / 1000:.1f} kimg"
        images = f"{len(trainer.train_set):,} {options.data} samples"
        self.say(f"{options.preset}: {PRESETS[options.preset].summary}")
        if self.is_new and options.init_from is not None:
            self.say(f"the networks are those of {options.init_from}")
        self.say(
            f"{verb} in {self.folder.path}, to {options.kimg} kimg of {images}; "
            f"G {parameter_count(trainer.generator):,} and D {parameter_count(trainer.discriminator):,} parameters"
        )
        for line in remarks(trainer):
            self.say(line)

    def say(self, line: str) -> None:
        print_line(self.console, line)
        self.folder.append_log(line)

    def images_per_s(self) -> float:
        """Real images per second of training steps since the last tick, metrics not counted."""
        images = len(self.tick_scalars) * self.options.images_per_step
        return images / self.tick_step_s if images else 0.0

    def elapsed_s(self) -> float:
        return self.elapsed_before_s + time.monotonic() - self.started

    def latest_losses(self) -> dict[str, float]:
        """Of the newest step in which a player had a turn."""
        latest: dict[str, float] = {}
        for player, name in (("G", "loss_generator"), ("D", "loss_discriminator")):
            value = next((scalars[name] for scalars in reversed(self.tick_scalars) if name in scalars), None)
            latest |= {} if value is None else {player: float(value)}
        return latest

    def mean_scalars(self) -> dict[str, float]:
        """The mean of each scalar over the steps since the last tick that have it."""
        values: dict[str, list[Tensor]] = {}
        for scalars in self.tick_scalars:
            for name, value in scalars.items():
                values.setdefault(name, []).append(value)
        return {name: float(torch.stack(of_one).mean()) for name, of_one in values.items()}


def describe(trainer: Trainer) -> dict[str, Any]:
    """Facts about the data and the networks that belong beside the options."""
    return {
        "dataset": {
            "name": trainer.dataset.name,
            "class_names": trainer.dataset.class_names,
            **trainer.dataset.built,
        },
        "generator": {
            "parameters": parameter_count(trainer.generator),
            **trainer.generator.sizes(),
        },
        "discriminator": {
            "parameters": parameter_count(trainer.discriminator),
            "widths": trainer.discriminator.widths,
        },
        "environment": environment(),
    }


def remarks(trainer: Trainer) -> list[str]:
    """Lines about what a user may not have meant: of the data, of networks that its size makes shallow, of features."""
    shallow = lost_stages(trainer.options.generator, trainer.dataset.resolution)
    labels = label_remarks(trainer.options, trainer.dataset)
    features = features_note(trainer.options.features, trainer.dataset)
    data = (f"data: {note}" for note in trainer.dataset.notes)
    return [*data, *labels, *(line for line in (shallow, features) if line is not None)]


def label_remarks(options: Options, dataset: Dataset) -> list[str]:
    """What the networks make of the labels, where that is not what the data would let expect."""
    blind = blind_players(options)
    if not dataset.is_labelled or not blind or kind_of(options) is not KINDS["images"]:
        return []
    who = "networks see" if len(blind) == 2 else f"{blind[0]} sees"
    rows = "; rows of grids are not classes" if "generator" in blind else ""
    return [
        f"The {who} no labels with {options.preset}: the {dataset.num_classes} classes of {dataset.name} are trained "
        f"on as one set{rows}"
    ]


def environment() -> dict[str, Any]:
    """What besides the options decides how a CPU rounds."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def snapshot_metadata(trainer: Trainer) -> dict[str, Any]:
    """What a snapshot carries so that it can be loaded without its run folder."""
    dataset = trainer.dataset
    return {
        "options": asdict(trainer.options),
        "images": trainer.images_seen,
        "class_names": dataset.class_names,
        "shape": {
            "resolution": dataset.resolution,
            "channels": dataset.channels,
            "num_classes": dataset.num_classes,
        },
    }


def metric_text(results: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in results.items())


def floor_line(floor: dict[str, float], facts: dict[str, Any], num_fakes: int) -> str:
    """The floor, and a word on it where it is of fewer images than the fakes are."""
    n = facts["n_floor"]
    what = f"{n:,} real samples of {facts['n_floor_sources']:,} held-out ones in place of {num_fakes:,} fakes"
    fewer = ", of which there are fewer: a Frechet distance is too high here and a coverage too low to compare"
    return f"floor ({what}{fewer if n < FEWER * num_fakes else ''}): {metric_text(floor)}"


def tick_line(
    kimg: int, total: int, results: dict[str, float], means: dict[str, float], speed: dict[str, float]
) -> str:
    parts = [f"kimg {kimg}/{total}", metric_text(results)]
    if means:
        parts.append("  ".join(f"{name} {value:.3f}" for name, value in means.items()))
        parts.append(f"{speed['images_per_s']:.0f} images/s")
    return "  |  ".join([*parts, duration(speed["elapsed_s"])])


def print_line(console: Console, line: str) -> None:
    """Print text as it is: not wrapped where there is no terminal, and brackets in a path are no markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def preview(options: Options, outdir: Path, console: Console) -> None:
    """Print what a run would be and cost: a few steps are taken in memory, no file is written.

    Raises:
        ChangedOptions, CheckpointError, ValueError: as `train`.
    """
    refuse_ranks()
    folder = RunFolder(outdir)
    options = with_recorded_features(options, folder)
    folder.check(options)
    dataset = load_data(options, folder)
    options = with_features(options, dataset)
    trainer = Trainer(options, dataset)
    if options.init_from is not None and not folder.exists:
        start_from(trainer, Path(options.init_from))
    table = Table("option", "value", title=f"{options.preset}: {PRESETS[options.preset].summary}")
    for field in fields(options):
        table.add_row(field.name, str(getattr(options, field.name)))
    table.add_row("outdir", f"{outdir} ({'holds this run' if folder.exists else 'new'})")
    console.print(table)
    networks = describe(trainer)
    for name in ("generator", "discriminator"):
        size = f"{networks[name]['parameters']:,} parameters, widths {networks[name]['widths']}"
        print_line(console, f"{name}: {size}")
    counts = f"{len(dataset.train):,} training and {len(dataset.test):,} held-out samples"
    print_line(console, f"data: {counts}, {dataset.built}")
    for line in remarks(trainer):
        print_line(console, line)
    print_line(console, estimate(trainer))
    for note in trainer.notes:
        print_line(console, note)


def estimate(trainer: Trainer) -> str:
    """Sentences about time and operations, from a counted step, a few measured ones and one measured evaluation."""
    options = trainer.options
    per_kimg = flop_per_kimg(trainer, *trainer.next_real_batch())
    for _ in range(trainer.steps_to_warm_up):
        trainer.step()
    trainer.wait()
    start = time.monotonic()
    for _ in range(MEASURED_STEPS):
        trainer.step()
    trainer.wait()
    step_s = (time.monotonic() - start) / MEASURED_STEPS
    evaluator = trainer.kind.evaluator(trainer.dataset, options.features, options.device)
    start = time.monotonic()
    evaluator.measure(trainer.sampler("metrics"))
    tick_s = time.monotonic() - start
    images_per_s = options.images_per_step / step_s
    fourier, dense = (flop / 1e9 for flop in per_kimg)
    ticks = 1 + -(-options.kimg // options.tick)
    return (
        f"estimated cost: {options.steps:,} steps of {step_s * 1000:.0f} ms ({images_per_s:.0f} images/s) "
        f"and {ticks} ticks of {tick_s:.1f} s: {duration(options.steps * step_s + ticks * tick_s)} on this machine\n"
        f"counted cost: {gflop_text(fourier)} GFLOP per kimg with group convolutions in group-Fourier form, "
        f"{gflop_text(fourier * images_per_s / 1000)} GFLOP/s of it on this machine; "
        f"{gflop_text(dense)} GFLOP per kimg as dense filter banks"
    )
