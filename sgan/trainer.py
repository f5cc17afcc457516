"""One training run in memory: the networks, one step of the algorithm, and its state. It writes no file."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gconv import group_from_name
from sgan import losses, penalties
from sgan.checkpoints import CheckpointError, Tensors, load_optimizer, optimizer_tensors, prefixed, select
from sgan.config import Options
from sgan.data import Dataset
from sgan.discriminators import Discriminator
from sgan.generators import Generator
from sgan.latents import Latents, epoch_indices, sample_latents, stream

__all__ = ["Trainer", "build_discriminator", "build_generator", "parameter_count", "update_average"]

EMA_RAMP_UP = 0.05  # the average's half-life is at most this fraction of the images seen so far, as in StyleGAN2


def build_generator(options: Options, *, resolution: int, channels: int, num_classes: int) -> Generator:
    """The generator that the options describe, for images of this shape."""
    return Generator(
        group=group_from_name(options.generator_group),
        resolution=resolution,
        channels=channels,
        num_classes=num_classes,
        width=options.generator_width,
        latent_dim=options.latent_dim,
        label_dim=options.label_dim,
        symmetrise_latent=options.symmetrise_latent,
        norm_momentum=options.norm_momentum,
        backend=options.backend,
    )


def build_discriminator(options: Options, *, resolution: int, channels: int, num_classes: int) -> Discriminator:
    """The discriminator that the options describe, for images of this shape."""
    return Discriminator(
        group=group_from_name(options.discriminator_group),
        resolution=resolution,
        channels=channels,
        num_classes=num_classes,
        width=options.discriminator_width,
        backend=options.backend,
    )


def parameter_count(module: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


class Trainer:
    """Alternating training of G and D, deterministic in (options, data set, images seen).

    Attributes:
        generator, discriminator: the players.
        average: the generator's exponential moving average, buffers included; in evaluation mode, what metrics look at.
        images_seen: real images shown to the discriminator so far.
    """

    def __init__(self, options: Options, dataset: Dataset) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.dataset = dataset
        self.train_set = dataset.train.to(self.device)
        shape = {"resolution": dataset.resolution, "channels": dataset.channels, "num_classes": dataset.num_classes}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.generator = build_generator(options, **shape).to(self.device)
            self.discriminator = build_discriminator(options, **shape).to(self.device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=options.lr_g, betas=(0.0, 0.9))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=options.lr_d, betas=(0.0, 0.9))
        self.images_seen = 0

    @property
    def kimg(self) -> int:
        """Thousands of real images shown to the discriminator, rounded down."""
        return self.images_seen // 1000

    @property
    def images_per_step(self) -> int:
        return self.options.batch * self.options.d_steps

    def step(self) -> dict[str, Tensor]:
        """`d_steps` discriminator steps, each on new real images, one generator step on the last of them, one average.

        Returns:
            Scalars of the last discriminator step and of the generator step, detached.
        """
        for _ in range(self.options.d_steps):
            real, labels = self.next_real_batch()
            loss_d, r1 = self.step_discriminator(real, labels)
        loss_g = self.step_generator(real, labels)
        update_average(self.average, self.generator, self._average_decay())
        return {"loss_generator": loss_g, "loss_discriminator": loss_d, "r1": r1}

    def step_discriminator(self, real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Adam on L_D(D(x_r), D(G(z))) + r1_weight R1; returns the loss and the penalty."""
        with torch.no_grad():
            fake = self.generator(self.latents(labels, "discriminator"))
        real = real.detach().requires_grad_()
        real_scores = self.discriminator(real, labels)
        fake_scores = self.discriminator(fake, labels)
        loss = losses.relativistic_average_discriminator(real_scores, fake_scores)
        r1 = penalties.r1(real_scores, real)
        descend(self.optimizer_d, loss + self.options.r1_weight * r1)
        return loss.detach(), r1.detach()

    def step_generator(self, real: Tensor, labels: Tensor) -> Tensor:
        """Adam on L_G(D(x_r), D(G(z))); returns the loss."""
        fake = self.generator(self.latents(labels, "generator"))
        with frozen(self.discriminator):
            real_scores = self.discriminator(real, labels)
            fake_scores = self.discriminator(fake, labels)
            loss = losses.relativistic_average_generator(real_scores, fake_scores)
            descend(self.optimizer_g, loss)
        return loss.detach()

    def next_real_batch(self) -> tuple[Tensor, Tensor]:
        """The next `batch` training images and their labels; counts them as seen."""
        options = self.options
        indices = epoch_indices(options.seed, self.images_seen, options.batch, len(self.train_set)).to(self.device)
        self.images_seen += options.batch
        return self.train_set.batch(indices), self.train_set.labels[indices]

    def latents(self, labels: Tensor, purpose: str) -> Latents:
        """Fresh latents for these labels from the stream of (seed, purpose, images seen)."""
        return self._sample(labels.cpu(), stream(self.options.seed, purpose, self.images_seen))

    def sampler(self, purpose: str) -> Callable[[Tensor], Tensor]:
        """A function from labels (N) to images of the averaged generator.

        Consecutive calls continue one stream, which every new sampler of the same purpose opens at its beginning:
        metrics compare the same latents throughout a run.
        """
        rng = stream(self.options.seed, purpose)

        @torch.no_grad()
        def generate(labels: Tensor) -> Tensor:
            return self.average(self._sample(labels.cpu(), rng))

        return generate

    def state(self) -> Tensors:
        """Every tensor that training continues from."""
        return {
            **self.snapshot(),
            **prefixed("generator", self.generator.state_dict()),
            **prefixed("optimizer_g", optimizer_tensors(self.optimizer_g)),
            **prefixed("optimizer_d", optimizer_tensors(self.optimizer_d)),
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
            self.images_seen = int(state["images_seen"])
        except (KeyError, RuntimeError, ValueError) as error:
            what = " ".join(str(error).split())  # torch writes one line per tensor
            raise CheckpointError(f"the training state does not fit this version's networks: {what}") from error

    def _sample(self, labels: Tensor, rng: torch.Generator) -> Latents:
        group = self.generator.group
        return sample_latents(labels, latent_dim=self.options.latent_dim, group=group, rng=rng).to(self.device)

    def _average_decay(self) -> float:
        half_life = min(self.options.ema_kimg * 1000, EMA_RAMP_UP * self.images_seen)
        return math.pow(0.5, self.images_per_step / half_life)


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
