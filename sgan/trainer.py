"""One training run in memory: the networks, one step of the algorithm, and its state. It writes no file."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
from sgan.data import Dataset
from sgan.discriminators import Discriminator, FeatureDiscriminator
from sgan.generators import Generator, LatentGenerator
from sgan.kinds import kind_of
from sgan.latents import act_on_points_per_sample, act_per_sample, epoch_indices, stream
from sgan.losses import loss_from_name, san_discriminator
from sgan.mlp import PerceptronDiscriminator, PerceptronGenerator
from sgan.pix2pix import PatchDiscriminator, UNetGenerator
from sgan.schedules import LossThreshold

__all__ = [
    "AnyDiscriminator",
    "AnyGenerator",
    "Trainer",
    "build_discriminator",
    "build_generator",
    "parameter_count",
    "update_average",
]

AnyGenerator = LatentGenerator | UNetGenerator
AnyDiscriminator = FeatureDiscriminator | PatchDiscriminator

EMA_RAMP_UP = 0.05  # the average's half-life is at most this fraction of the images seen so far, as in StyleGAN2


def build_generator(options: Options, *, resolution: int, channels: int, num_classes: int) -> AnyGenerator:
    """The generator that the options describe, for images of this shape, or for points.

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
        label_dim=options.label_dim,
        norm_momentum=options.norm_momentum,
        faithful=options.faithful,
        backend=options.backend,
        **common,
    )


def build_discriminator(options: Options, *, resolution: int, channels: int, num_classes: int) -> AnyDiscriminator:
    """The discriminator that the options describe, for images of this shape, or for points.

    Raises:
        ValueError: a row that this group or shape does not fit.
    """
    row = DISCRIMINATORS[options.discriminator]
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
        projected=options.projected,
        faithful=options.faithful,
        backend=options.backend,
        **common,
    )


def _refuse(options: Options, *names: str) -> None:
    """Raise where an option is set that a perceptron knows nothing of."""
    for name in names:
        if getattr(options, name):
            raise ValueError(f"Options: {name} must not be set for a perceptron, got {getattr(options, name)}")


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


class Trainer:
    """Training of G and D, deterministic in (options, data set, images seen).

    Both players are given a condition beside the rest: labels (N), or the source images (N, C, H, W) of pairs.

    Attributes:
        generator, discriminator: the players.
        average: the generator's exponential moving average, buffers included; in evaluation mode, what metrics look at.
        images_seen: real images shown to the discriminator so far.
    """

    def __init__(self, options: Options, dataset: Dataset) -> None:
        self.options = options
        self.kind = kind_of(options)
        self.kind.check(options, dataset)
        self.device = torch.device(options.device)
        self.dataset = dataset
        self.train_set = dataset.train.to(self.device)
        shape = {"resolution": dataset.resolution, "channels": dataset.channels, "num_classes": dataset.num_classes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.generator = build_generator(options, **shape).to(self.device)
            self.discriminator = build_discriminator(options, **shape).to(self.device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (options.beta1, options.beta2)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=options.lr_g, betas=betas)
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=options.lr_d, betas=betas)
        self.loss = loss_from_name(options.loss)
        drifts = options.schedule == "threshold"
        self.threshold = None if options.schedule == "alternating" else LossThreshold(drifts=drifts)
        self.augment_group = group_from_name(options.augment)
        self.images_seen = 0

    @property
    def kimg(self) -> int:
        """Thousands of real images shown to the discriminator, rounded down."""
        return self.images_seen // 1000

    def step(self) -> dict[str, Tensor]:
        """The updates of one generator step, or of one batch if a threshold decides, and one average.

        Returns:
            Detached scalars of the last update of each player; without those of a player that had no turn.
        """
        self._set_learning_rates()
        with seeded(self.options.seed, "layers", self.images_seen, self.device):
            scalars = self._step_alternating() if self.threshold is None else self._step_by_threshold(self.threshold)
        update_average(self.average, self.generator, self._average_decay())
        return scalars

    def _step_alternating(self) -> dict[str, Tensor]:
        """`d_steps` discriminator steps, each on new real images, one generator step on the last of them."""
        for _ in range(self.options.d_steps):
            real, condition = self.next_real_batch()
            scalars = self.step_discriminator(real, condition)
        return scalars | self.step_generator(real, condition)

    def _step_by_threshold(self, threshold: LossThreshold) -> dict[str, Tensor]:
        """`LossThreshold.UPDATES` updates on one batch of real images, each with latents of its own."""
        real, condition = self.next_real_batch()
        threshold.begin_batch()
        scalars: dict[str, Tensor] = {}
        for update in range(threshold.UPDATES):
            if threshold.generator_moves(float(self.evaluated_generator_loss(real, condition, update))):
                scalars |= self.step_generator(real, condition, update)
            else:
                scalars |= self.step_discriminator(real, condition, update)
        return scalars

    @torch.no_grad()
    def evaluated_generator_loss(self, real: Tensor, condition: Tensor, update: int = 0) -> Tensor:
        """L_G of the latents that the generator would train on, with both players in evaluation mode."""
        players = (self.generator, self.discriminator)
        for player in players:
            player.eval()
        loss = self._generator_loss(self._fake(condition, "generator", update), real, condition, update)
        for player in players:
            player.train()
        return loss

    def step_discriminator(self, real: Tensor, condition: Tensor, update: int = 0) -> dict[str, Tensor]:
        """Adam on L_D(D(x_r), D(G(z))) + penalty_weight times the penalty; `update` counts those of one batch."""
        options = self.options
        with torch.no_grad():
            fake = self._moved(self._fake(condition, "discriminator", update), "fake", update)
        real = self._moved(real, "real", update).detach().requires_grad_(options.penalty == "r1")
        if options.head == "san":
            real_parts, fake_parts = (self.discriminator(x, condition, split=True) for x in (real, fake))
            real_scores, loss = real_parts.fun, san_discriminator(self.loss, real_parts, fake_parts)
        else:
            real_scores = self.discriminator(real, condition)
            loss = self.loss.discriminator(real_scores, self.discriminator(fake, condition))
        penalty = self._penalty(real, real_scores, fake, condition, update)
        descend(self.optimizer_d, loss + options.penalty_weight * penalty)
        if options.clip is not None:
            penalties.clip_weights(self.discriminator, options.clip)
        return {"loss_discriminator": loss.detach(), "penalty": penalty.detach()}

    def step_generator(self, real: Tensor, condition: Tensor, update: int = 0) -> dict[str, Tensor]:
        """Adam on L_G(D(x_r), D(G(z))) + latent_weight times the mixture's penalty + l1_weight E |x_r - G(z)|."""
        options, scalars = self.options, {}
        fake = self._fake(condition, "generator", update)
        with frozen(self.discriminator):
            loss = self._generator_loss(fake, real, condition, update)
            scalars["loss_generator"] = loss.detach()
            loss = loss + options.latent_weight * self.generator.latent_penalty().to(loss)
            if options.l1_weight > 0:
                l1 = (fake - real).abs().mean()
                scalars["l1"] = l1.detach()
                loss = loss + options.l1_weight * l1
            descend(self.optimizer_g, loss)
        return scalars

    def _fake(self, condition: Tensor, player: str, update: int) -> Tensor:
        """Samples to train the player on."""
        return self.generator.generate(condition, self._stream(player, update), training=True)

    def _stream(self, purpose: str, update: int) -> torch.Generator:
        """The stream of (seed, purpose, images seen), for one of a batch's updates; the first one has no number."""
        purpose = purpose if update == 0 else f"{purpose} {update}"
        return stream(self.options.seed, purpose, self.images_seen)

    def _generator_loss(self, fake: Tensor, real: Tensor, condition: Tensor, update: int) -> Tensor:
        real_scores = None
        if self.loss.generator_reads_real:
            real_scores = self.discriminator(self._moved(real, "real", update), condition)
        return self.loss.generator(real_scores, self.discriminator(self._moved(fake, "fake", update), condition))

    def _penalty(self, real: Tensor, real_scores: Tensor, fake: Tensor, condition: Tensor, update: int) -> Tensor:
        """The penalty on the gradient of D, at real samples or between them and fakes of the same condition."""
        kind = self.options.penalty
        if kind == "none":
            return real_scores.new_zeros(())
        if kind == "r1":
            return penalties.r1(real_scores, real)
        weights = torch.rand(len(real), generator=self._stream("interpolates", update))
        between = penalties.interpolate(real, fake, weights.to(real))
        of_scores = penalties.one_sided if kind == "one-sided" else penalties.two_sided
        return of_scores(self.discriminator(between, condition), between)

    def _moved(self, samples: Tensor, which: str, update: int) -> Tensor:
        """What D sees: each sample moved by a random element of the group that augments, if there is one."""
        group = self.augment_group
        if group.order == 1:
            return samples
        rng = self._stream(f"augment {which}", update)
        elements = torch.randint(group.order, (len(samples),), generator=rng).to(samples.device)
        act = act_on_points_per_sample if samples.ndim == 2 else act_per_sample
        return act(samples, elements, group)

    def next_real_batch(self) -> tuple[Tensor, Tensor]:
        """The next `batch` training samples and their condition; counts them as seen."""
        options = self.options
        indices = epoch_indices(options.seed, self.images_seen, options.batch, len(self.train_set)).to(self.device)
        self.images_seen += options.batch
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
                parameters["lr"] = rate * factor

    def _average_decay(self) -> float:
        if self.options.ema_kimg is None:
            return 0.0
        half_life = min(self.options.ema_kimg * 1000, EMA_RAMP_UP * self.images_seen)
        return math.pow(0.5, self.options.images_per_step / half_life)


@contextmanager
def seeded(seed: int, purpose: str, position: int, device: torch.device) -> Iterator[None]:
    """What layers draw themselves, such as dropout, comes from the stream of (seed, purpose, position)."""
    of_device: dict[str, Any] = {"devices": []} if device.type == "cpu" else {"device_type": device.type}
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


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, for parameters and batch norm statistics.

    Other buffers are copied: a mean of unit vectors (of the spectral norms) is no unit vector, counters have no mean.
    """
    for parameter, value in zip(average.parameters(), model.parameters(), strict=True):
        parameter.lerp_(value, 1 - decay)
    for (name, buffer), newest in zip(average.named_buffers(), model.buffers(), strict=True):
        if name.endswith(("running_mean", "running_var")):
            buffer.lerp_(newest, 1 - decay)
        else:
            buffer.copy_(newest)
