"""One training run in memory: the networks, one step of the algorithm, and its state. It writes no file."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gconv import group_from_name
from sgan import penalties
from sgan.architectures import (
    DISCRIMINATORS,
    GENERATORS,
    PatchDiscriminatorRow,
    PerceptronDiscriminatorRow,
    PerceptronGeneratorRow,
    UNetRow,
)
from sgan.checkpoints import CheckpointError, Tensors, load_optimizer, optimizer_tensors, prefixed, select
from sgan.config import Options
from sgan.cuda_graph import CudaRecorder, GraphedStep, Recorder, Tree, mapped, refusal
from sgan.data import Dataset
from sgan.discriminators import Discriminator, FeatureDiscriminator
from sgan.generators import Generator, LatentGenerator
from sgan.kinds import kind_of
from sgan.latents import Latents, act_on_points_per_sample, act_per_sample, epoch_indices, stream
from sgan.losses import loss_from_name, san_discriminator
from sgan.mlp import PerceptronDiscriminator, PerceptronGenerator
from sgan.pix2pix import PatchDiscriminator, UNetGenerator
from sgan.schedules import LossThreshold
from sgan.sizes import smallest_side

__all__ = [
    "AnyDiscriminator",
    "AnyGenerator",
    "Trainer",
    "build_discriminator",
    "build_generator",
    "embeds_one_class",
    "parameter_count",
    "update_average",
]

AnyGenerator = LatentGenerator | UNetGenerator
AnyDiscriminator = FeatureDiscriminator | PatchDiscriminator

EMA_RAMP_UP = 0.05  # the average's half-life is at most this fraction of the images seen so far, as in StyleGAN2


def build_generator(
    options: Options, *, resolution: int, channels: int, num_classes: int, embed_one_class: bool = False
) -> AnyGenerator:
    """The generator that the options describe, for images of this shape, or for points.

    With one class it sees no labels, whatever its row: an embedding of one class would be a constant. `embed_one_class`
    gives it one all the same, as versions before did, whose files hold it.

    Raises:
        ValueError: a row that this group, shape or latent law does not fit.
    """
    row = GENERATORS[options.generator]
    common: dict[str, Any] = {
        "group": group_from_name(options.generator_group),
        "resolution": resolution,
        "channels": channels,
        "width": options.generator_width,
    }
    if isinstance(row, UNetRow):
        return UNetGenerator(architecture=row, source_channels=channels, backend=options.backend, **common)
    common |= {
        "num_classes": num_classes,
        "latent_dim": options.latent_dim,
        "noise": options.noise,
        "components": options.components,
        "component_rule": options.component_rule,
        "sigma": options.sigma,
        "symmetrise_latent": options.symmetrise_latent,
    }
    if isinstance(row, PerceptronGeneratorRow):
        _refuse(options, "faithful", "label_dim", "norm_momentum")
        return PerceptronGenerator(architecture=row, **common)
    return Generator(
        architecture=row,
        conditional=None if num_classes > 1 or embed_one_class else False,
        label_dim=options.label_dim,
        norm_momentum=options.norm_momentum,
        faithful=options.faithful,
        backend=options.backend,
        **common,
    )


def build_discriminator(
    options: Options, *, resolution: int, channels: int, num_classes: int, embed_one_class: bool = False
) -> AnyDiscriminator:
    """The discriminator that the options describe, for images of this shape, or for points.

    With one class it sees no labels, as in `build_generator`.

    Raises:
        ValueError: a row that this group or shape does not fit.
    """
    row = DISCRIMINATORS[options.discriminator]
    smallest = smallest_side(options.discriminator)
    if resolution < smallest:
        raise ValueError(
            f"Discriminator: resolution must be at least {smallest} for {row.source}, whose filters find no place on "
            f"smaller images, got {resolution}: --resolution resizes"
        )
    common: dict[str, Any] = {
        "group": group_from_name(options.discriminator_group),
        "channels": channels,
        "width": options.discriminator_width,
    }
    if isinstance(row, PatchDiscriminatorRow):
        return PatchDiscriminator(architecture=row, source_channels=channels, backend=options.backend, **common)
    bias = 1.0 if options.loss.startswith("alpha") and options.score_bias is None else options.score_bias
    common |= {"resolution": resolution, "head": options.head, "initial_bias": bias}
    if isinstance(row, PerceptronDiscriminatorRow):
        _refuse(options, "projected", "faithful")
        return PerceptronDiscriminator(architecture=row, **common)
    return Discriminator(
        architecture=row,
        num_classes=num_classes,
        conditional=None if num_classes > 1 or embed_one_class else False,
        projected=options.projected,
        faithful=options.faithful,
        backend=options.backend,
        **common,
    )


def embeds_one_class(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the networks of a snapshot or state of one class embed it."""
    embedding = re.compile(r"(average|discriminator\.head)\.embed\.weight")
    return any(embedding.fullmatch(name) and 1 in tensor.shape for name, tensor in tensors.items())


def _refuse(options: Options, *names: str) -> None:
    """Raise where an option is set that a perceptron knows nothing of."""
    for name in names:
        if getattr(options, name):
            raise ValueError(f"Options: {name} must not be set for a perceptron, got {getattr(options, name)}")


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


class Draws(NamedTuple):
    """What one update of a player draws; None is what it does not need.

    latents: of the fakes. real_elements, fake_elements: (N) int64 elements of the group that augments, by which what D
    sees is moved. weights: (N) positions between real samples and fakes, for the penalty.
    """

    latents: Latents | None
    real_elements: Tensor | None
    fake_elements: Tensor | None
    weights: Tensor | None = None


class StepInputs(NamedTuple):
    """All that differs between two alternating steps, but for learning rates and the average's decay.

    indices: (N) int64 of the training samples of each of D's steps. of_discriminator: the draws of each of them.
    of_generator: those of G's step, which looks at the last samples.
    """

    indices: tuple[Tensor, ...]
    of_discriminator: tuple[Draws, ...]
    of_generator: Draws


class Trainer:
    """Training of G and D, deterministic in (options, data set, images seen).

    Both players are given a condition beside the rest: labels (N), or the source images (N, C, H, W) of pairs.

    Everything random in a step but what layers draw is drawn first, on the CPU; the rest of it, `alternate`, is a
    function of tensors on the device, and on CUDA is replayed from a graph (`sgan.cuda_graph`).

    Args:
        options: what to train.
        dataset: to train on.
        recorder: records the steps; None: CUDA's on a CUDA device, if the options let it.
        embed_one_class: as in `build_generator`.

    Attributes:
        generator, discriminator: the players.
        average: the generator's exponential moving average, buffers included; in evaluation mode, what metrics look at.
        images_seen: real images shown to the discriminator so far.
        notes: lines for the log, for its writer to take out.

    Raises:
        ValueError: options that describe no network, or a data set that does not fit them.
    """

    def __init__(
        self, options: Options, dataset: Dataset, *, recorder: Recorder | None = None, embed_one_class: bool = False
    ) -> None:
        self.options = options
        self.kind = kind_of(options)
        self.kind.check(options, dataset)
        self.device = torch.device(options.device)
        self.dataset = dataset
        self.train_set = dataset.train.to(self.device)
        shape: dict[str, Any] = {"resolution": dataset.resolution, "channels": dataset.channels}
        shape |= {"num_classes": dataset.num_classes, "embed_one_class": embed_one_class}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.generator = build_generator(options, **shape).to(self.device)
            self.discriminator = build_discriminator(options, **shape).to(self.device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        on_device = recorder is not None or self.device.type == "cuda"
        self.optimizer_g = self._adam(self.generator, options.lr_g, on_device)
        self.optimizer_d = self._adam(self.discriminator, options.lr_d, on_device)
        self.decay: float | Tensor = 0.0
        if on_device and options.ema_kimg is not None:
            self.decay = torch.zeros((), dtype=torch.float64, device=self.device)
        self.loss = loss_from_name(options.loss)
        drifts = options.schedule == "threshold"
        self.threshold = None if options.schedule == "alternating" else LossThreshold(drifts=drifts)
        self.augment_group = group_from_name(options.augment)
        self.images_seen = 0
        self.notes: list[str] = []
        self.graphed = self._graphed(recorder)

    def _adam(self, player: nn.Module, rate: float, on_device: bool) -> torch.optim.Adam:
        """Adam; with its rate and its count of steps on the device, where a graph reads them at every replay.

        Fused, because torch's other Adam of that kind divides by the rate, which may fall to 0.
        """
        betas = (self.options.beta1, self.options.beta2)
        optimizer = torch.optim.Adam(
            player.parameters(), lr=rate, betas=betas, capturable=on_device, fused=on_device or None
        )
        if on_device:
            for parameters in optimizer.param_groups:
                parameters["lr"] = torch.full((), rate, dtype=torch.float32, device=self.device)
        return optimizer

    def _graphed(self, recorder: Recorder | None) -> GraphedStep[StepInputs] | None:
        """The alternating step as a graph, where there can be one."""
        if recorder is None:
            if self.device.type != "cuda" or self.options.cuda_graph == "off":
                return None
            recorder = CudaRecorder(self.device)
        if self.threshold is not None:
            self.notes.append(refusal(f"the schedule {self.options.schedule} looks at a loss before every update"))
            return None
        required = self.options.cuda_graph == "on"
        return GraphedStep(self.alternate, recorder, device=self.device, required=required, note=self.notes.append)

    @property
    def kimg(self) -> int:
        """Thousands of real images shown to the discriminator, rounded down."""
        return self.images_seen // 1000

    @property
    def steps_to_warm_up(self) -> int:
        """Steps from here that take longer than those that follow: before a graph is replayed, and its recording."""
        return 0 if self.graphed is None else self.graphed.steps_to_come + 1

    def wait(self) -> None:
        """Return when the device has done what steps have asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def step(self) -> dict[str, Tensor]:
        """The updates of one generator step, or of one batch if a threshold decides, and one average.

        Returns:
            Detached scalars of the last update of each player; without those of a player that had no turn.

        Raises:
            ValueError: the options ask for a CUDA graph, and the step cannot be one.
        """
        self._set_learning_rates()
        with seeded(self.options.seed, "layers", self.images_seen, self.device):
            if self.threshold is not None:
                return self._step_by_threshold(self.threshold)
            inputs = self._draw_step()
            self.decay = assigned(self.decay, self._average_decay())
            return self.alternate(self._on_device(inputs)) if self.graphed is None else self.graphed(inputs)

    def alternate(self, inputs: StepInputs) -> dict[str, Tensor]:
        """`d_steps` discriminator steps, each on new real images, one generator step on the last of them, the average.

        A function of the inputs and of tensors that stay where they are: the host does not look at any value.
        """
        for indices, draws in zip(inputs.indices, inputs.of_discriminator, strict=True):
            real, condition = self._batch(indices)
            scalars = self.step_discriminator(real, condition, draws)
        scalars |= self.step_generator(real, condition, inputs.of_generator)
        update_average(self.average, self.generator, self.decay)
        return scalars

    def _step_by_threshold(self, threshold: LossThreshold) -> dict[str, Tensor]:
        """`LossThreshold.UPDATES` updates on one batch of real images, each with latents of its own."""
        real, condition = self.next_real_batch()
        self.decay = assigned(self.decay, self._average_decay())
        threshold.begin_batch()
        scalars: dict[str, Tensor] = {}
        for update in range(threshold.UPDATES):
            draws = self._on_device(self._draw("generator", condition, update))
            if threshold.generator_moves(float(self.evaluated_generator_loss(real, condition, draws))):
                scalars |= self.step_generator(real, condition, draws)
            else:
                draws = self._on_device(self._draw("discriminator", condition, update))
                scalars |= self.step_discriminator(real, condition, draws)
        update_average(self.average, self.generator, self.decay)
        return scalars

    @torch.no_grad()
    def evaluated_generator_loss(self, real: Tensor, condition: Tensor, draws: Draws | None = None) -> Tensor:
        """L_G of the latents that the generator would train on, with both players in evaluation mode."""
        draws = draws or self._on_device(self._draw("generator", condition))
        players = (self.generator, self.discriminator)
        for player in players:
            player.eval()
        loss = self._generator_loss(self._fake(condition, draws), real, condition, draws)
        for player in players:
            player.train()
        return loss

    def step_discriminator(self, real: Tensor, condition: Tensor, draws: Draws | None = None) -> dict[str, Tensor]:
        """Adam on L_D(D(x_r), D(G(z))) + penalty_weight times the penalty; without draws, on a batch's first ones."""
        options = self.options
        draws = draws or self._on_device(self._draw("discriminator", condition))
        with torch.no_grad():
            fake = self._moved(self._fake(condition, draws), draws.fake_elements)
        real = self._moved(real, draws.real_elements).detach().requires_grad_(options.penalty == "r1")
        if options.head == "san":
            real_parts, fake_parts = (self.discriminator(x, condition, split=True) for x in (real, fake))
            real_scores, loss = real_parts.fun, san_discriminator(self.loss, real_parts, fake_parts)
        else:
            real_scores = self.discriminator(real, condition)
            loss = self.loss.discriminator(real_scores, self.discriminator(fake, condition))
        penalty = self._penalty(real, real_scores, fake, condition, draws)
        descend(self.optimizer_d, loss + options.penalty_weight * penalty)
        if options.clip is not None:
            penalties.clip_weights(self.discriminator, options.clip)
        return {"loss_discriminator": loss.detach(), "penalty": penalty.detach()}

    def step_generator(self, real: Tensor, condition: Tensor, draws: Draws | None = None) -> dict[str, Tensor]:
        """Adam on L_G(D(x_r), D(G(z))) + latent_weight times the mixture's penalty + l1_weight E |x_r - G(z)|."""
        options, scalars = self.options, {}
        draws = draws or self._on_device(self._draw("generator", condition))
        fake = self._fake(condition, draws)
        with frozen(self.discriminator):
            loss = self._generator_loss(fake, real, condition, draws)
            scalars["loss_generator"] = loss.detach()
            loss = loss + options.latent_weight * self.generator.latent_penalty().to(loss)
            if options.l1_weight > 0:
                l1 = (fake - real).abs().mean()
                scalars["l1"] = l1.detach()
                loss = loss + options.l1_weight * l1
            descend(self.optimizer_g, loss)
        return scalars

    def _fake(self, condition: Tensor, draws: Draws) -> Tensor:
        """Samples to train on; those of pairs are made from the condition alone."""
        return self.generator(condition if draws.latents is None else draws.latents)

    def _generator_loss(self, fake: Tensor, real: Tensor, condition: Tensor, draws: Draws) -> Tensor:
        real_scores = None
        if self.loss.generator_reads_real:
            real_scores = self.discriminator(self._moved(real, draws.real_elements), condition)
        return self.loss.generator(real_scores, self.discriminator(self._moved(fake, draws.fake_elements), condition))

    def _penalty(self, real: Tensor, real_scores: Tensor, fake: Tensor, condition: Tensor, draws: Draws) -> Tensor:
        """The penalty on the gradient of D, at real samples or between them and fakes of the same condition."""
        kind = self.options.penalty
        if kind == "r1":
            return penalties.r1(real_scores, real)
        if draws.weights is None:
            return real_scores.new_zeros(())
        between = penalties.interpolate(real, fake, draws.weights.to(real))
        of_scores = penalties.one_sided if kind == "one-sided" else penalties.two_sided
        return of_scores(self.discriminator(between, condition), between)

    def _moved(self, samples: Tensor, elements: Tensor | None) -> Tensor:
        """What D sees: each sample moved by its element of the group that augments, if there is one."""
        if elements is None:
            return samples
        act = act_on_points_per_sample if samples.ndim == 2 else act_per_sample
        return act(samples, elements, self.augment_group)

    def _draw_step(self) -> StepInputs:
        """What the next alternating step is made from, on the CPU; counts its images as seen."""
        indices, draws = [], []
        for _ in range(self.options.d_steps):
            indices.append(self._next_indices())
            labels = self.dataset.train.labels[indices[-1]]
            draws.append(self._draw("discriminator", labels))
        return StepInputs(tuple(indices), tuple(draws), self._draw("generator", labels))

    def _draw(self, player: str, condition: Tensor, update: int = 0) -> Draws:
        """What an update of the player draws, on the CPU: streams of (seed, purpose, images seen).

        `update` counts those of one batch; the first one's streams have no number. G's step moves samples as D's does.
        """
        numbered = f" {update}" if update else ""

        def rng(purpose: str) -> torch.Generator:
            return stream(self.options.seed, purpose + numbered, self.images_seen)

        def elements(which: str) -> Tensor | None:
            order = self.augment_group.order
            return torch.randint(order, (count,), generator=rng(f"augment {which}")) if order > 1 else None

        count = len(condition)
        latents = None
        if isinstance(self.generator, LatentGenerator):
            latents = self.generator.sample_latents(condition.cpu(), rng(player), training=True)
        between = player == "discriminator" and self.options.penalty in ("one-sided", "two-sided")
        weights = torch.rand(count, generator=rng("interpolates")) if between else None
        return Draws(latents, elements("real"), elements("fake"), weights)

    def _on_device(self, inputs: Tree) -> Tree:
        return mapped(lambda tensor: tensor.to(self.device), inputs)

    def next_real_batch(self) -> tuple[Tensor, Tensor]:
        """The next `batch` training samples and their condition; counts them as seen."""
        return self._batch(self._next_indices().to(self.device))

    def _next_indices(self) -> Tensor:
        options = self.options
        indices = epoch_indices(options.seed, self.images_seen, options.batch, len(self.train_set))
        self.images_seen += options.batch
        return indices

    def _batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.train_set.batch(indices), self.kind.condition(self.train_set, indices)

    def sampler(self, purpose: str) -> Callable[[Tensor], Tensor]:
        """A function from conditions (N) or (N, C, H, W) to samples of the averaged generator.

        Consecutive calls continue one stream, which every new sampler of the same purpose opens at its beginning:
        metrics compare the same latents throughout a run.
        """
        rng = stream(self.options.seed, purpose)

        @torch.no_grad()
        def generate(condition: Tensor) -> Tensor:
            return self.average.generate(condition, rng)

        return generate

    def state(self) -> Tensors:
        """Every tensor that training continues from."""
        return {
            **self.snapshot(),
            **prefixed("generator", self.generator.state_dict()),
            **prefixed("optimizer_g", optimizer_tensors(self.optimizer_g)),
            **prefixed("optimizer_d", optimizer_tensors(self.optimizer_d)),
            **({} if self.threshold is None else prefixed("schedule", self.threshold.state())),
            "images_seen": torch.tensor(self.images_seen),
        }

    def snapshot(self) -> Tensors:
        """The networks to keep: the averaged generator and the discriminator."""
        return {
            **prefixed("average", self.average.state_dict()),
            **prefixed("discriminator", self.discriminator.state_dict()),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned.

        Raises:
            CheckpointError: tensors are missing, superfluous or of another shape.
        """
        try:
            for name in ("average", "generator", "discriminator"):
                getattr(self, name).load_state_dict(select(name, state))
            load_optimizer(self.optimizer_g, select("optimizer_g", state))
            load_optimizer(self.optimizer_d, select("optimizer_d", state))
            if self.graphed is not None:
                self.graphed.forget()  # the optimisers' state has moved
            if self.threshold is not None:
                self.threshold.load_state(select("schedule", state))
            self.images_seen = int(state["images_seen"])
        except (KeyError, RuntimeError, ValueError) as error:
            what = " ".join(str(error).split())  # torch writes one line per tensor
            raise CheckpointError(f"the training state does not fit this version's networks: {what}") from error

    def _set_learning_rates(self) -> None:
        options, factor = self.options, 1.0
        if options.decay_from is not None and options.decay_to is not None:
            left = options.decay_to - self.images_seen / 1000
            factor = min(max(left / (options.decay_to - options.decay_from), 0.0), 1.0)
        for optimizer, rate in ((self.optimizer_g, options.lr_g), (self.optimizer_d, options.lr_d)):
            for parameters in optimizer.param_groups:
                parameters["lr"] = assigned(parameters["lr"], rate * factor)

    def _average_decay(self) -> float:
        if self.options.ema_kimg is None:
            return 0.0
        half_life = min(self.options.ema_kimg * 1000, EMA_RAMP_UP * self.images_seen)
        return math.pow(0.5, self.options.images_per_step / half_life)


@contextmanager
def seeded(seed: int, purpose: str, position: int, device: torch.device) -> Iterator[None]:
    """What layers draw themselves, such as dropout, comes from the stream of (seed, purpose, position)."""
    of_device: dict[str, Any] = {"devices": []} if device.type == "cpu" else {"device_type": device.type}
    if device.type == "cuda":
        of_device["devices"] = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(**of_device):
        torch.manual_seed(stream(seed, purpose, position).initial_seed())
        yield


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimiser down the gradient of loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients pass through the module, but its own parameters get none, which saves computing them."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def assigned(place: float | Tensor, value: float) -> float | Tensor:
    """The value, in the same tensor if it has one: a graph reads it there."""
    return place.fill_(value) if isinstance(place, Tensor) else value


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float | Tensor) -> None:
    """average <- decay * average + (1 - decay) * model, for parameters and batch norm statistics.

    Other buffers are copied: a mean of unit vectors (of the spectral norms) is no unit vector, counters have no mean.
    A decay that is a tensor, () float64 on the device, makes a few kernels of all, and is not looked at by the host.
    """
    averaged: list[tuple[Tensor, Tensor]] = [*zip(average.parameters(), model.parameters(), strict=True)]
    copied: list[tuple[Tensor, Tensor]] = []
    for (name, buffer), newest in zip(average.named_buffers(), model.buffers(), strict=True):
        (averaged if name.endswith(("running_mean", "running_var")) else copied).append((buffer, newest))
    for buffer, newest in copied:
        buffer.copy_(newest)
    if not isinstance(decay, Tensor):
        for value, newest in averaged:
            value.lerp_(newest, 1 - decay)
        return
    values, newest_values = (list(column) for column in zip(*averaged, strict=True))
    steps = torch._foreach_sub(newest_values, values)
    torch._foreach_mul_(steps, (1 - decay).to(values[0]))
    torch._foreach_add_(values, steps)
